//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"

	"shoal/lab"
)

// otherServer is a DNS server of somebody else: it answers every question with one address.
const otherServer = "203.0.113.53"

// asOtherServer, as the only argument, has this program be that server.
const asOtherServer = "other-dns-server"

// serveOther listens on port 53 of all addresses, over UDP and TCP, as dnsmasq and Pi-hole do.
func serveOther() error {
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(otherServer)}}
		_ = w.WriteMsg(r) // who has gone needs no answer
	})
	ended := make(chan error)
	for _, network := range []string{"udp4", "tcp4"} {
		go func() { ended <- (&dns.Server{Addr: "0.0.0.0:53", Net: network, Handler: handler}).ListenAndServe() }()
	}
	return <-ended
}

// startOtherServer starts it as a process of the host, and waits until it answers.
func startOtherServer(t *testing.T, h *lab.Host) *lab.Process {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := h.Start(program, asOtherServer)
	for _, transport := range []string{"+notcp", "+tcp"} {
		lab.Eventually(t, waitLimit, "the other server answers "+transport, func() error {
			if out, err := h.TryExec("dig", "+time=1", "+tries=1", "+short", transport, "@127.0.0.1", "example.com"); err != nil || strings.TrimSpace(out) != otherServer {
				return fmt.Errorf("%q: %w; it says %s", out, err, p.Output())
			}
			return nil
		})
	}
	return p
}

// TestHostsPort53Taken: where another process has port 53 of all addresses, the agent runs, names are answered wherever they
// are asked for, and the process is named. It keeps its port, and its clients.
func TestHostsPort53Taken(t *testing.T) {
	l := shared.With(t)
	hosts := l.Hosts("dns-1", "dns-2")
	other := startOtherServer(t, hosts[0])
	hosts[0].StartAgent()
	one, two := &host{hosts[0], t}, &host{hosts[1], t}
	for _, h := range []*host{one, two} {
		t.Cleanup(h.clear)
	}
	one.hasMesh()
	one.run("web-1", "-l shoal.service=web --network mesh "+useDNS)
	vip := one.vip("web")
	one.Docker("network", "create", "usernet")
	onUser := one.run("on-user", "--network usernet "+useDNS, "sleep", "1000000")
	onMesh := one.run("on-mesh", "--network mesh "+useDNS, "sleep", "1000000")
	near := one.client()
	var far container
	server := netip.MustParsePrefix(one.meshSubnet()).Addr().Next().String() // where other hosts ask this one's server

	dig := func(enter []string, h *host, at, transport string) (string, error) {
		out, err := h.TryExec(append(enter, "dig", "+time=1", "+tries=1", "+short", transport, "@"+at, "web.mesh.internal")...)
		return strings.TrimSpace(out), err
	}
	answered := func(what string, enter []string, h *host, at string, want string) {
		t.Helper()
		for _, transport := range []string{"+notcp", "+tcp"} {
			lab.Eventually(t, waitLimit, fmt.Sprintf("%s asks %s %s", what, at, transport), func() error {
				if got, err := dig(enter, h, at, transport); err != nil || got != want {
					return fmt.Errorf("%q, want %q; %w", got, want, err)
				}
				return nil
			})
		}
	}
	end := func(p *lab.Process) {
		t.Helper()
		_ = p.Signal(syscall.SIGKILL)
		_ = p.Wait(waitLimit) // "signal: killed"
	}
	everywhere := func() {
		t.Helper()
		for what, c := range map[string]container{"a container on the engine's bridge": near, "one on the mesh": onMesh, "one on a user's network": onUser} {
			answered(what, c.enter(false), one, dnsServer, vip)
		}
		answered("the host", nil, one, dnsServer, vip)
		answered("a container of another host, by the second address,", far.enter(false), two, "10.96.0.11", vip)
		answered("another host's container, by the bridge's address,", far.enter(false), two, server, vip)
		answered("the other host", nil, two, "10.96.0.11", vip)
		answered("a container, by the second address,", near.enter(false), one, "10.96.0.11", vip)
	}

	// The only one there is answers on the second address too.
	answered("a container, alone in the cluster,", near.enter(false), one, "10.96.0.11", vip)
	two.StartAgent(one.Invitation()...)
	lab.AwaitNodes(t, hosts...)
	two.hasMesh()
	far = two.run("far", "--network mesh "+useDNS, "sleep", "1000000")
	everywhere()
	if got, _, _ := strings.Cut(onUser.exec("getent", "ahostsv4", "web"), " "); got != vip {
		t.Errorf("through Docker's resolver web is %q, want %s", got, vip)
	}
	for at, h := range map[string]*lab.Machine{"127.0.0.1": &one.Machine, one.Addr().String(): l.Outside()} {
		for _, transport := range []string{"+notcp", "+tcp"} {
			if got := h.Exec("dig", "+time=2", "+short", transport, "@"+at, "web.mesh.internal"); strings.TrimSpace(got) != otherServer {
				t.Errorf("the other server is asked at %s %s, and answers %q", at, transport, got)
			}
		}
	}
	for _, object := range []string{dnsServer + ":53", server + ":53"} {
		if reason := one.problem(object, "dns-port-taken"); !strings.HasPrefix(reason, filepath.Base(os.Args[0])+" (pid ") || !strings.Contains(reason, "0.0.0.0:53/tcp") || !strings.Contains(reason, "0.0.0.0:53/udp") {
			t.Errorf("the process is not named: %s", reason)
		}
	}
	two.noProblem(dnsServer + ":53")

	// A restart with nothing changed writes nothing here either.
	one.wholePass()
	one.RestartAgent()
	one.ready()
	one.wholePass()
	for name, v := range one.metrics() {
		if strings.HasPrefix(name, "shoal_kernel_writes_total") && v != 0 {
			t.Errorf("after a restart %s is %v", name, v)
		}
	}
	everywhere()

	// While the agent is away the other server is not asked in its place: a resolver goes on to the second address.
	one.KillAgent(syscall.SIGKILL)
	for _, transport := range []string{"+notcp", "+tcp"} {
		if got, err := dig(near.enter(false), one, dnsServer, transport); err == nil && got != "" {
			t.Errorf("with the agent away, %s is asked %s and answers %q", dnsServer, transport, got)
		}
	}
	answered("a container, by the second address,", near.enter(false), one, "10.96.0.11", vip)
	one.StartAgent()
	one.ready()
	lab.AwaitNodes(t, hosts...)

	// Once the port is free there is no problem. The other server may have it back until the agent starts anew.
	end(other)
	one.noProblem(dnsServer + ":53")
	one.noProblem(server + ":53")
	end(startOtherServer(t, one.Host))
	answered("a container", near.enter(false), one, dnsServer, vip)
	one.RestartAgent()
	one.ready()
	everywhere()
	lab.Eventually(t, waitLimit, "the agent has port 53", func() error {
		for _, at := range []string{dnsServer, server} {
			if out := one.Exec("ss", "-Hlnt", "src", at, "and", "sport", "53"); !strings.Contains(out, at+":53") {
				return errors.New(out)
			}
		}
		return nil
	})
}
