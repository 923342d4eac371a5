package dnsd

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"shoal/model"
)

// TestNames asks for every form of name, through both paths: what Lookup says
// is compared here, and that the fast path says the same in checkTwins.
func TestNames(t *testing.T) {
	checkNames(t, unstarted(t, options()), []nameCase{
		{"web", "A", "", "10.96.1.1", "stack default"},
		{"WEB.", "A", "", "10.96.1.1", ""},
		{"web.default", "A", "", "10.96.1.1", "says its stack"},
		{"web.mesh.internal", "A", "", "10.96.1.1", ""},
		{"web.shop.mesh.internal", "A", "", "10.96.1.2", ""},
		{"web", "A", "127.0.0.2", "10.96.1.2", "is in stack shop"},
		{"web.mesh.internal", "A", "127.0.0.2", "10.96.1.2", ""},
		{"web.default", "A", "127.0.0.2", "10.96.1.1", ""},
		{"idle", "A", "127.0.0.2", "10.96.1.7", "stack default"},

		// Other stacks' services by a bare name: never.
		{"db", "A", "127.0.0.2", "10.96.1.3", "is in stack shop"},
		{"db", "A", "127.0.0.3", forwarded, "another stack has it (shop)"},
		{"db", "A", "", forwarded, "another stack has it (shop); ask for db.STACK.mesh.internal"},
		{"db.mesh.internal", "A", "", nx, "another stack has it (shop)"},
		{"_http._tcp.db.mesh.internal", "SRV", "", nx, "another stack has it (shop)"},
		{"dup", "A", "", forwarded, "2 other stacks have it (a, b)"},
		{"dup.mesh.internal", "A", "127.0.0.2", nx, "2 other stacks have it (a, b); ask for dup.STACK.mesh.internal"},
		{"tasks.dup", "A", "", forwarded, ""},
		{"tasks.dup.mesh.internal", "A", "", nx, "2 other stacks"},

		// Services without tasks lose against those that have some.
		{"lazy", "A", "127.0.0.2", "10.96.1.12", "found in stack default; shop/lazy has no tasks"},
		{"lazy.mesh.internal", "A", "127.0.0.2", "10.96.1.12", ""},
		{"tasks.lazy.mesh.internal", "A", "127.0.0.2", "10.244.7.2", ""},
		{"lazy.shop.mesh.internal", "A", "127.0.0.2", "10.96.1.11", "says its stack"},
		{"never", "A", "127.0.0.3", "10.96.1.15", "is in stack a"},
		{"once", "A", "127.0.0.3", "10.96.1.13", "is in stack a"},

		// Names that end as names of the Internet do: only inside of the zone.
		{"github.com", "A", "", forwarded, "the Internet has names that end in .com: ask for github.com.mesh.internal"},
		{"github.com", "AAAA", "", forwarded, ""},
		{"GitHub.com", "MX", "", forwarded, ""},
		{"tasks.github.com", "A", "", forwarded, ""},
		{"_http._tcp.github.com", "SRV", "", forwarded, ""},
		{"github.com.mesh.internal", "A", "", "10.96.1.10", "says its stack"},
		{"tasks.github.com.mesh.internal", "A", "", "10.244.7.1", ""},
		{"_http._tcp.github.com.mesh.internal", "SRV", "", "0 0 80 github.com.mesh.internal.", ""},
		{"github.mesh.internal", "A", "", nx, "another stack has it (com)"},
		{"web.shop", "A", "", forwarded, ".shop"},
		{"web.shop", "A", "127.0.0.2", forwarded, ".shop"},
		{"10.1.96.10.in-addr.arpa", "PTR", "", "github.com.mesh.internal.", ""},

		{"dup", "A", "127.0.0.3", "10.96.1.4", "is in stack a"},
		{"dup.b", "A", "127.0.0.3", "10.96.1.5", ""},
		{"idle", "A", "", "10.96.1.7", ""},
		{"tasks.idle", "A", "", nodata, ""},

		{"web", "AAAA", "", nodata, ""},
		{"web", "MX", "", nodata, ""},
		{"web", "TYPE65280", "", nodata, ""},
		{"six", "AAAA", "", "fd00:96::1", ""},
		{"six", "A", "", nodata, ""},
		{"tasks.six", "AAAA", "", "fd00:244::1", ""},

		{"tasks.web", "A", "", "10.244.1.1 10.244.1.2", ""},
		{"tasks.web.shop.mesh.internal", "A", "", "10.244.2.1", ""},
		{"rr", "A", "", "10.244.5.1 10.244.5.2 10.244.5.3", "dnsrr"},
		{"rr", "AAAA", "", nodata, ""},
		{"tasks.rr", "A", "", "10.244.5.1 10.244.5.2 10.244.5.3 10.244.5.4", ""},

		{"_http._tcp.web", "SRV", "", "0 0 80 web.default.mesh.internal.", ""},
		{"_dns._udp.web.default.mesh.internal", "SRV", "", "0 0 53 web.default.mesh.internal.", ""},
		{"_http._tcp.rr", "SRV", "", "0 0 8080 rr.default.mesh.internal.", ""},
		{"_http._tcp.web", "A", "", nodata, ""},
		{"_http._udp.web", "SRV", "", nx, "no port of it is named _http._udp"},
		{"_x._tcp.web", "SRV", "", nx, ""},
		{"_tcp.web", "SRV", "", nodata, ""},
		{"_sctp.web", "SRV", "", nx, ""},
		{"_x._http._tcp.web", "SRV", "", nx, ""},
		{"_x._tcp.nobody", "SRV", "", forwarded, ""},
		{"_tcp.mesh.internal", "SRV", "", nx, ""},

		{"mesh.internal", "SOA", "", "mesh.internal. hostmaster.mesh.internal. 7 3600 600 86400 5", ""},
		{"mesh.internal", "NS", "", "mesh.internal.", ""},
		{"mesh.internal", "A", "", "127.0.0.1", ""},
		{"mesh.internal", "DS", "", nodata, ""},
		{"nobody.mesh.internal", "A", "", nx, "no service nobody"},
		{"web.nowhere.mesh.internal", "A", "", nx, "in stack nowhere"},
		{"a.web.shop.mesh.internal", "A", "", nx, ""},
		{"example.com.mesh.internal", "A", "", nx, ""},
		{"blog.mesh.internal", "A", "", nodata, "blog is a stack"},
		{"tasks.blog.mesh.internal", "A", "", nx, ""},
		{"shop.mesh.internal", "A", "", nodata, "shop is a stack"}, // and another stack's service
		{"tasks.mesh.internal", "A", "", nodata, "only names below"},
		{`we\.b.mesh.internal`, "A", "", nx, ""},

		{"nobody", "A", "", forwarded, ""},
		{"blog", "A", "", forwarded, ""},
		{"tasks", "A", "", forwarded, ""},
		{"example.com", "A", "", forwarded, ""},
		{"mesh.internal.example.com", "A", "", forwarded, ""},
		{"xmesh.internal", "A", "", forwarded, ""},
		{"internal", "A", "", forwarded, ""},
		{".", "NS", "", forwarded, ""},
		{"_dns.resolver.arpa", "SVCB", "", nx, ""},

		{"1.1.96.10.in-addr.arpa", "PTR", "", "web.default.mesh.internal.", ""},
		{"1.1.96.10.in-addr.arpa", "A", "", nodata, ""},
		{"2.1.244.10.in-addr.arpa", "PTR", "", "tasks.web.default.mesh.internal.", ""},
		{"1.5.244.10.in-addr.arpa", "PTR", "", "tasks.rr.default.mesh.internal.", ""},
		{"3.1.244.10.in-addr.arpa", "PTR", "", forwarded, "no running task"}, // it is draining
		{"1.2.0.192.in-addr.arpa", "PTR", "", "tasks.shared.a.mesh.internal. tasks.shared.b.mesh.internal.", ""},
		{"9.9.96.10.in-addr.arpa", "PTR", "", nx, ""},
		{"9.96.10.in-addr.arpa", "PTR", "", nodata, ""},
		{"96.10.in-addr.arpa", "SOA", "", "mesh.internal. hostmaster.mesh.internal. 7 3600 600 86400 5", ""},
		{"96.10.in-addr.arpa", "NS", "", "mesh.internal.", ""},
		{"x.96.10.in-addr.arpa", "PTR", "", nx, ""},
		{"0.1.1.1.96.10.in-addr.arpa", "PTR", "", nx, ""},
		{"01.1.96.10.in-addr.arpa", "PTR", "", nx, ""},
		{"256.1.96.10.in-addr.arpa", "PTR", "", nx, ""},
		{"10.in-addr.arpa", "PTR", "", forwarded, ""},
		{"in-addr.arpa", "PTR", "", forwarded, ""},
		{"1.0.168.192.in-addr.arpa", "PTR", "", forwarded, ""},
		{reverseOf("fd00:96::1"), "PTR", "", "six.default.mesh.internal.", ""},
		{reverseOf("fd00:244::1"), "PTR", "", "tasks.six.default.mesh.internal.", ""},
		{reverseOf("fd00:96::2"), "PTR", "", forwarded, ""},
	})
}

// TestFlatNames has a bare name mean the only service of that name.
func TestFlatNames(t *testing.T) {
	checkNames(t, unstarted(t, flatOptions()), []nameCase{
		{"web", "A", "", "10.96.1.1", "stack default"},
		{"web", "A", "127.0.0.2", "10.96.1.2", "is in stack shop"},
		{"db", "A", "", "10.96.1.3", "the only service"},
		{"db.mesh.internal", "A", "127.0.0.3", "10.96.1.3", "the only service"},
		{"dup", "A", "", nx, "dup is ambiguous: 2 other stacks have it (a, b); ask for dup.STACK"},
		{"dup.mesh.internal", "A", "127.0.0.2", nx, "ambiguous"},
		{"tasks.dup", "A", "", nx, "ambiguous"},
		{"dup", "A", "127.0.0.3", "10.96.1.4", "is in stack a"},
		{"shop.mesh.internal", "A", "", "10.96.1.6", "the only service"}, // a stack, too
		{"nobody", "A", "", forwarded, "no service nobody"},

		{"lazy", "A", "127.0.0.2", "10.96.1.12", "shop/lazy has no tasks"},
		{"once", "A", "", "10.96.1.14", "the only service"},
		{"once", "A", "127.0.0.3", "10.96.1.14", "a/once has no tasks"},
		{"never", "A", "", "10.96.1.15", "the only service"},

		{"github", "A", "", "10.96.1.10", "the only service"},
		{"github.com", "A", "", forwarded, "the Internet has names that end in .com"},
	})
}

const nx, nodata, forwarded = "NXDOMAIN", "NODATA", "forwarded"

type nameCase struct {
	name, qtype, asker string
	want               string // the records' data, or one of the above
	reason             string // part of it
}

func checkNames(t *testing.T, s *Server, cases []nameCase) {
	t.Helper()
	for _, c := range cases {
		asker := ip("127.0.0.1")
		if c.asker != "" {
			asker = ip(c.asker)
		}
		a, err := s.Lookup(c.name, c.qtype, asker)
		if err != nil {
			if c.qtype == "TYPE65280" { // not by that name, but see checkTwins
				continue
			}
			t.Error(err)
			continue
		}
		got := a.Rcode
		switch {
		case a.Forwarded:
			got = forwarded
		case len(a.Records) > 0:
			var data []string
			for _, r := range a.Records {
				_, rdata, _ := strings.Cut(r, "\t"+c.qtype+"\t")
				data = append(data, rdata)
			}
			got = strings.Join(data, " ")
		case a.Rcode == "NOERROR":
			got = nodata
		}
		if got != c.want || !strings.Contains(a.Reason, c.reason) {
			t.Errorf("%s %s asked by %s: %s (%s), want %s (%s)", c.name, c.qtype, asker, got, a.Reason, c.want, c.reason)
		}
		checkTwins(t, s, question(c.name, c.qtype), asker)
	}
}

func TestPublicStacks(t *testing.T) {
	for stack, want := range map[string]bool{
		"com": true, "shop": true, "io": true, "arpa": true, "onion": true,
		"ck": true, "mm": true, // by a wildcard only
		"local": true, "localhost": true,
		"default": false, "eshop": false, "internal": false, "co": true, "github": false, "test": false, "a": false,
	} {
		if got := publicStack(stack); got != want {
			t.Errorf("stack %s: public %t, want %t", stack, got, want)
		}
	}
}

// TestServicesWithPublicNamesAreNoticed, each by itself while it has tasks, and no others.
func TestServicesWithPublicNamesAreNoticed(t *testing.T) {
	s := unstarted(t, options())
	var noticed []string
	for _, p := range s.Problems(world(7)) {
		if !p.Notice || p.Code != model.NamePublic || p.Kind != "service" {
			t.Errorf("%+v", p)
		}
		noticed = append(noticed, p.Object)
		if id, _ := model.ParseServiceID(p.Object); !strings.Contains(p.Reason, id.Name+"."+id.Stack+".mesh.internal") {
			t.Errorf("%s: the reason does not say what to ask for: %s", p.Object, p.Reason)
		}
	}
	if want := []string{"blog/shop", "com/github", "shop/db", "shop/web"}; !slices.Equal(noticed, want) {
		t.Errorf("noticed are %v, want %v", noticed, want)
	}
}

func TestReverseZoneOfAnOddPool(t *testing.T) {
	var apex, n name
	for _, c := range []struct {
		pool, name string
		kind       kind
		inside     bool
	}{
		{"10.96.0.0/12", "100.10.in-addr.arpa", kindReverseApex, true},
		{"10.96.0.0/12", "112.10.in-addr.arpa", kindForeign, false},
		{"10.96.0.0/12", "10.in-addr.arpa", kindForeign, false},
		{"10.96.0.0/12", "1.2.111.10.in-addr.arpa", kindReverse, true},
		{"10.96.4.0/22", "5.96.10.in-addr.arpa", kindReverseApex, true},
		{"10.96.4.0/22", "8.96.10.in-addr.arpa", kindForeign, false},
		{"10.96.4.0/22", "1.8.96.10.in-addr.arpa", kindReverse, false},
		{"fd00:96::/34", "4.6.9.0.0.0.0.d.f.ip6.arpa", kindForeign, false},
		{"fd00:96::/34", "3.6.9.0.0.0.0.d.f.ip6.arpa", kindReverseApex, true},
		{"fd00:96::/34", "0.6.9.0.0.0.0.d.f.ip6.arpa", kindReverseApex, true},
		{"fd00:96::/32", "6.9.0.0.0.0.d.f.ip6.arpa", kindReverseApex, true},
		{"fd00:96::/32", "f.6.9.0.0.0.0.d.f.ip6.arpa", kindBetween, true},
		{"fd00:96::/32", "g.6.9.0.0.0.0.d.f.ip6.arpa", kindNothing, true},
	} {
		apex, _ = parseName("mesh.internal")
		n, _ = parseName(c.name)
		z := zone{name: apex, pool: netip.MustParsePrefix(c.pool)}
		if tg := z.classify(&n); tg.kind != c.kind || tg.inside != c.inside {
			t.Errorf("%s with pool %s: kind %d, inside %t; want %d, %t", c.name, c.pool, tg.kind, tg.inside, c.kind, c.inside)
		}
	}
}

func TestUnchangedServicesAreSharedByConsecutiveTables(t *testing.T) {
	s := unstarted(t, options())
	before := s.table.Load()
	snap := world(8)
	for i := range snap.Services {
		if snap.Services[i].ID.Name == "db" {
			snap.Services[i].VIP = ip("10.96.9.9")
		}
	}
	s.Update(snap)
	after := s.table.Load()
	for key, svc := range after.services.All() {
		was, _ := before.services.Get(key)
		if same, want := svc == was, text([]byte(key)) != "db.shop"; same != want {
			t.Errorf("%s: shared %t, want %t", text([]byte(key)), same, want)
		}
		if svc.of.ID.Name == "" || !slices.ContainsFunc(snap.Services, func(x *model.Service) bool { return x.ID == svc.of.ID }) {
			t.Errorf("%s belongs to no service", text([]byte(key)))
		}
		if i := slices.IndexFunc(snap.Services, func(x *model.Service) bool { return x.ID == svc.of.ID }); svc.of != snap.Services[i] {
			t.Errorf("%s keeps an old Snapshot in memory", text([]byte(key)))
		}
	}
	for _, c := range []struct{ name, want string }{
		{"3.1.96.10.in-addr.arpa", ""}, {"9.9.96.10.in-addr.arpa", "db.shop.mesh.internal."},
	} {
		a, _ := s.Lookup(c.name, "PTR", ip("127.0.0.1"))
		if got := strings.Join(a.Records, " "); !strings.Contains(got, c.want) || (c.want == "" && got != "") {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		checkTwins(t, s, question(c.name, "PTR"), ip("127.0.0.1"))
	}
}

func TestRotationReachesEveryTaskFirst(t *testing.T) {
	s := unstarted(t, options())
	first := map[string]int{}
	for range 300 {
		m := fastAnswer(t, s, question("rr", "A"), ip("127.0.0.1"), false)
		first[m.Answer[0].String()]++
	}
	if len(first) != 3 {
		t.Errorf("first of the three tasks in 300 answers: %v", first)
	}
	for task, n := range first {
		if n < 50 {
			t.Errorf("%s came first only %d times of 300", task, n)
		}
	}
}
