package dnsd

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"shoal/catalog"
	"shoal/model"
)

// manyServices is a Snapshot of n services of three tasks each, in 100 stacks.
func manyServices(revision uint64, n int) *model.Snapshot {
	vips := make(map[model.ServiceID]netip.Addr, n)
	containers := make([]model.Container, 0, 3*n)
	spec := model.Spec{Mode: model.ModeVIP, Ports: []model.Port{{Name: "http", Port: 80, Target: 80, Protocol: model.TCP}}}
	for i := range n {
		id := model.ServiceID{Stack: fmt.Sprintf("stack%d", i%100), Name: fmt.Sprintf("svc%d", i)}
		vips[id] = netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})
		for j := range 3 {
			a := netip.AddrFrom4([4]byte{10, 200 + byte(j), byte(i >> 8), byte(i)})
			c := model.Container{ID: fmt.Sprintf("%d-%d", i, j), Stack: id.Stack, Addrs: []netip.Addr{a}}
			c.Tasks = []model.Task{{Service: id, Container: c.ID, Addr: a, State: model.Running, Spec: &spec}}
			containers = append(containers, c)
		}
	}
	return catalog.NewSnapshot(revision, model.Node{Name: "h1", Addr: ip("192.0.2.1")}, nil, containers, vips)
}

func BenchmarkTable10000Services(b *testing.B) {
	s := unstarted(b, options())
	one, other := manyServices(1, 10_000), manyServices(2, 10_000)
	other.Services[5000].VIP = ip("10.96.255.1")
	for _, c := range []struct {
		name string
		old  *table
		snap *model.Snapshot
	}{
		{"fresh", nil, one},
		{"unchanged", buildTable(&s.opt, &s.zone, one, nil), manyServices(3, 10_000)},
		{"one_changed", buildTable(&s.opt, &s.zone, one, nil), other},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				buildTable(&s.opt, &s.zone, c.snap, c.old)
			}
		})
	}
}

// fastQuestions are questions that the fast path must answer without allocating.
var fastQuestions = []struct{ name, qtype string }{
	{"web", "A"}, {"web.shop.mesh.internal", "A"}, {"idle", "A"}, {"tasks.web", "A"}, {"rr", "A"}, {"big", "A"},
	{"web.mesh.internal", "AAAA"}, {"example.com.mesh.internal", "A"}, {"_http._tcp.web", "SRV"},
	{"1.1.96.10.in-addr.arpa", "PTR"}, {"9.9.96.10.in-addr.arpa", "PTR"}, {"cached.example", "A"},
}

// cacheOne puts an answer for cached.example into the cache.
func cacheOne(tb testing.TB, s *Server) {
	var q query
	if !q.readPlain(question("cached.example", "A")) {
		tb.Fatal("not a plain question")
	}
	m := &dns.Msg{}
	m.SetQuestion("cached.example.", dns.TypeA)
	rr, _ := dns.NewRR("cached.example. 3600 IN A 192.0.2.1")
	m.Answer = []dns.RR{rr}
	p, err := pack(&q, m, time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	s.forwarder.cache.put(p)
}

func TestFastPathDoesNotAllocate(t *testing.T) {
	s := unstarted(t, options())
	cacheOne(t, s)
	out := make([]byte, udpSize)
	for _, q := range fastQuestions {
		msg := question(q.name, q.qtype)
		ok := false
		allocs := testing.AllocsPerRun(100, func() { _, ok = s.fast(out, msg, ip127, false) })
		if !ok || allocs > 0 {
			t.Errorf("%s %s: answered %t, %v allocations", q.name, q.qtype, ok, allocs)
		}
	}
}

var ip127 = ip("127.0.0.1")

func BenchmarkFast(b *testing.B) {
	s := unstarted(b, options())
	cacheOne(b, s)
	out := make([]byte, udpSize)
	for _, q := range fastQuestions {
		msg := question(q.name, q.qtype)
		b.Run(q.name+"_"+q.qtype, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.fast(out, msg, ip127, false)
			}
		})
	}
}

func BenchmarkSlow(b *testing.B) {
	s := unstarted(b, options())
	msg := question("web", "A")
	b.ReportAllocs()
	for b.Loop() {
		s.slow(msg, ip127, false, func([]byte) {})
	}
}

// BenchmarkUDP asks over loopback, one question after the other per client.
// The clients' work is in it.
func BenchmarkUDP(b *testing.B) {
	s := started(b, options())
	msg := question("web.mesh.internal", "A")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(s.Addrs()[0]))
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		buf := make([]byte, udpSize)
		for pb.Next() {
			conn.Write(msg)
			conn.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := conn.Read(buf); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
