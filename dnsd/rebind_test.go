package dnsd

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"shoal/model"
)

// TestForeignNamesDoNotLeadToTheMesh has an upstream that answers with addresses
// of VIPs and of containers.
func TestForeignNamesDoNotLeadToTheMesh(t *testing.T) {
	answers := map[string][]string{
		"vip.example.":     {"A 10.96.1.1"},
		"mixed.example.":   {"A 192.0.2.1", "A 10.96.1.1"},
		"chain.example.":   {"CNAME other.example."}, // and see below
		"pool.example.":    {"A 10.250.9.9"},
		"host.example.":    {"A 10.251.1.9"},
		"mapped.example.":  {"AAAA ::ffff:10.96.1.1"},
		"https.example.":   {"HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1,10.96.1.1"},
		"svcb.example.":    {"SVCB 1 . ipv6hint=fd00:96::1"},
		"public.example.":  {"A 192.0.2.1"},
		"private.example.": {"A 192.168.1.1", "A 10.95.0.1"}, // of the user's own network
	}
	var logged bytes.Buffer
	registry := prometheus.NewRegistry()
	o := options()
	o.Subnets = []netip.Prefix{netip.MustParsePrefix("10.250.0.0/16"), netip.MustParsePrefix("fd00:96::/64")}
	o.Log = slog.New(slog.NewTextHandler(&logged, nil))
	o.Registerer = registry
	o.Upstreams = []netip.AddrPort{upstreamServer(t, func(w dns.ResponseWriter, m *dns.Msg) {
		var rrs []string
		for _, a := range answers[m.Question[0].Name] {
			rrs = append(rrs, m.Question[0].Name+" 60 IN "+a)
		}
		if m.Question[0].Name == "chain.example." {
			rrs = append(rrs, "other.example. 60 IN A 10.96.1.1")
		}
		w.WriteMsg(replyTo(m, rrs...))
	})}
	s := started(t, o)
	snap := world(8)
	snap.Nodes = append(snap.Nodes, model.Node{Name: "h2", Addr: ip("192.0.2.2"), Subnet: netip.MustParsePrefix("10.251.1.0/24")})
	s.Update(snap)

	for name := range answers {
		qtype := strings.Fields(answers[name][0])[0]
		if qtype == "CNAME" {
			qtype = "A"
		}
		for range 2 {
			out := ask(t, s, "dig", name, qtype)
			if strings.HasPrefix(name, "p") && name != "pool.example." {
				mustContain(t, out, "status: NOERROR", "192.")
				continue
			}
			mustContain(t, out, "status: NOERROR", "ANSWER: 0", "EDE: 15 (Blocked)", "an address of the mesh")
		}
	}
	if n := counted(t, registry, "shoal_dns_upstream_failures_total", "rebinding"); n != 2*8 {
		t.Errorf("%v answers were counted, want 16", n)
	}
	if n := strings.Count(logged.String(), "name=mixed.example."); n != 1 {
		t.Errorf("it was logged %d times, want once:\n%s", n, logged.String())
	}

	// What was cached before a host had its subnet is not answered any more.
	mustContain(t, ask(t, s, "dig", "private.example"), "10.95.0.1")
	snap = world(9)
	snap.Nodes = append(snap.Nodes, model.Node{Name: "h3", Addr: ip("192.0.2.3"), Subnet: netip.MustParsePrefix("10.95.0.0/24")})
	s.Update(snap)
	mustContain(t, ask(t, s, "dig", "private.example"), "ANSWER: 0", "EDE: 15 (Blocked)")
}

// TestTheCacheIsNotShownToTheCurious asks without RD: the answer would tell what
// others have asked.
func TestTheCacheIsNotShownToTheCurious(t *testing.T) {
	s, asked := forwarding(t, func(w dns.ResponseWriter, m *dns.Msg) {
		w.WriteMsg(replyTo(m, "example.com. 60 IN A 192.0.2.1"))
	})
	mustContain(t, ask(t, s, "dig", "example.com"), "192.0.2.1")
	for _, args := range []string{"+notcp", "+tcp", "+noedns", "+cd"} {
		out := ask(t, s, "dig", "+norecurse", args, "example.com")
		mustContain(t, out, "status: REFUSED", "ANSWER: 0")
		if args == "+tcp" {
			mustContain(t, out, "EDE: 20 (Not Authoritative)")
		}
	}
	mustContain(t, ask(t, s, "dig", "+norecurse", "web"), "10.96.1.1") // of our own names nothing is a secret
	mustContain(t, ask(t, s, "dig", "example.com"), "192.0.2.1")
	if n := asked.Load(); n != 1 {
		t.Errorf("the upstream was asked %d times, want once", n)
	}
}
