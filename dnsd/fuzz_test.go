package dnsd

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func reverseOf(a string) string {
	s, err := dns.ReverseAddr(a)
	if err != nil {
		panic(err)
	}
	return s
}

// question is a packed question with recursion desired and EDNS.
func question(name, qtype string) []byte {
	m := &dns.Msg{}
	typ, ok := dns.StringToType[qtype]
	if !ok {
		typ = 65280
	}
	m.SetQuestion(dns.Fqdn(name), typ)
	m.SetEdns0(4096, false)
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

func fastAnswer(t testing.TB, s *Server, msg []byte, asker netip.Addr, tcp bool) *dns.Msg {
	t.Helper()
	out := make([]byte, dns.MaxMsgSize)
	if !tcp {
		out = out[:udpSize]
	}
	n, ok := s.fast(out, msg, asker, tcp)
	if !ok {
		return nil
	}
	m := &dns.Msg{}
	if err := m.Unpack(out[:n]); err != nil {
		t.Fatalf("question %x: the fast path's answer %x does not unpack: %v", msg, out[:n], err)
	}
	for i, got := range []int{len(m.Question), len(m.Answer), len(m.Ns), len(m.Extra)} {
		if want := int(binary.BigEndian.Uint16(out[4+2*i:])); got != want {
			t.Fatalf("question %x: the fast path's answer %x has %d records in section %d, and says %d", msg, out[:n], got, i, want)
		}
	}
	return m
}

// slowAnswer is what the slow path says without asking anyone; nil where it
// says nothing, and foreign where it would forward.
func slowAnswer(t testing.TB, s *Server, msg []byte, asker netip.Addr, tcp bool) (m *dns.Msg, foreign bool) {
	t.Helper()
	r := &response{}
	if len(msg) < headerSize || msg[2]&flagQR != 0 {
		return nil, false
	}
	if s.prepare(r, msg, asker) {
		return nil, true
	}
	s.send(r, tcp, func(b []byte) {
		m = &dns.Msg{}
		if err := m.Unpack(b); err != nil {
			t.Fatalf("question %x: the slow path's answer %x does not unpack: %v", msg, b, err)
		}
	})
	return m, false
}

// checkTwins holds the fast path against the slow one.
func checkTwins(t testing.TB, s *Server, msg []byte, asker netip.Addr) {
	t.Helper()
	before := slices.Clone(msg)
	for _, tcp := range []bool{false, true} {
		fast := fastAnswer(t, s, msg, asker, tcp)
		slow, foreign := slowAnswer(t, s, msg, asker, tcp)
		if !slices.Equal(msg, before) {
			t.Fatalf("question %x was changed", before)
		}
		switch {
		case fast == nil:
			continue
		case foreign || slow == nil:
			t.Fatalf("question %x: the fast path answers, the slow path does not:\n%s", msg, fast)
		case slow.Truncated:
			checkTruncated(t, fast, slow, msg)
			continue
		}
		if diff := cmp.Diff(lines(slow), lines(fast)); diff != "" {
			t.Fatalf("question %x (tcp %t): slow path -, fast path +\n%s", msg, tcp, diff)
		}
	}
}

// checkTruncated holds two truncated answers against each other, which may
// have chosen different records.
func checkTruncated(t testing.TB, fast, slow *dns.Msg, msg []byte) {
	t.Helper()
	if len(slow.Answer) > 0 && len(fast.Answer) == 0 && !fast.Truncated {
		t.Fatalf("question %x: slow path\n%s\nfast path\n%s", msg, slow, fast)
	}
	if fast.Id != slow.Id || fast.Rcode != slow.Rcode || !slices.Equal(fast.Question, slow.Question) {
		t.Fatalf("question %x: slow path\n%s\nfast path\n%s", msg, slow, fast)
	}
}

// lines is a message as text, the records of each section in order.
func lines(m *dns.Msg) []string {
	m = m.Copy()
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		slices.SortFunc(section, func(a, b dns.RR) int { return strings.Compare(a.String(), b.String()) })
	}
	return strings.Split(m.String(), "\n")
}

// FuzzWire feeds both paths the same octets: neither may panic, whatever the
// fast path answers must unpack and be what the slow path says.
func FuzzWire(f *testing.F) {
	for _, q := range [][2]string{
		{"web", "A"}, {"WeB.Shop.mesh.internal", "A"}, {"tasks.big", "A"}, {"_http._tcp.web", "SRV"}, {"mesh.internal", "NS"},
		{"1.1.96.10.in-addr.arpa", "PTR"}, {"nobody.mesh.internal", "AAAA"}, {"blog.mesh.internal", "A"}, {"dup.mesh.internal", "A"}, {"github.com", "A"}, {"lazy", "A"}, {"once", "A"}, {"tasks.dup", "A"}, {"web", "ANY"},
		{reverseOf("fd00:96::1"), "PTR"}, {"1.2.0.192.in-addr.arpa", "PTR"}, {"example.com", "A"}, {"rr", "A"}, {"web", "AXFR"},
		{"_tcp.six", "SRV"}, {"_http._tcp.six", "SRV"}, {"96.10.in-addr.arpa", "SOA"}, {"x.resolver.arpa", "A"},
	} {
		f.Add(question(q[0], q[1]), uint8(1))
		f.Add(question(q[0], q[1])[:headerSize+6], uint8(2))
	}
	m := &dns.Msg{}
	m.SetQuestion("web.", dns.TypeA)
	plain, _ := m.Pack()
	f.Add(plain, uint8(3))
	m.SetEdns0(512, true)
	m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"}}
	cookie, _ := m.Pack()
	f.Add(cookie, uint8(2))
	f.Add([]byte("\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"), uint8(1))
	for _, msg := range costly() {
		f.Add(msg[:min(len(msg), maxQuestion+1)], uint8(1))
	}
	s, flat := unstarted(f, options()), unstarted(f, flatOptions())
	f.Fuzz(func(t *testing.T, msg []byte, asker uint8) {
		checkTwins(t, s, msg, netip.AddrFrom4([4]byte{127, 0, 0, asker%4 + 1}))
		checkTwins(t, flat, msg, netip.AddrFrom4([4]byte{127, 0, 0, asker%4 + 1}))
	})
}

// FuzzAnswers feeds what claims to be an upstream's answer to the cache: what
// comes out for a client must unpack, with the client's ID and question.
func FuzzAnswers(f *testing.F) {
	ask := question("Example.com", "A")
	for _, rr := range []string{"example.com. 60 IN A 192.0.2.1", "example.com. 4294967295 IN CNAME x.example.com.",
		"example.com. 60 IN SOA a. b. 1 2 3 4 5", "example.com. 60 IN TXT \"x\" \"y\"", "example.com. 60 IN SVCB 1 . alpn=h2 port=53"} {
		r, err := dns.NewRR(rr)
		if err != nil {
			f.Fatal(err)
		}
		m := &dns.Msg{}
		m.SetQuestion("example.com.", dns.TypeA)
		m.Response, m.Answer, m.Ns = true, []dns.RR{r}, []dns.RR{r}
		m.SetEdns0(4096, true)
		b, _ := m.Pack()
		f.Add(b)
	}
	for _, rr := range []string{"example.com. 60 IN A 10.96.1.1", "example.com. 60 IN AAAA ::ffff:10.96.1.1", "example.com. 60 IN HTTPS 1 . ipv4hint=10.96.1.1"} {
		r, err := dns.NewRR(rr)
		if err != nil {
			f.Fatal(err)
		}
		m := &dns.Msg{}
		m.SetQuestion("example.com.", dns.TypeA)
		m.Response, m.Extra = true, []dns.RR{r}
		b, _ := m.Pack()
		f.Add(b)
	}
	f.Add([]byte("\x00\x00\x81\x01\x00\x00\x00\x00\x00\x00\x00\x00")) // FORMERR, without a question
	f.Add([]byte("\x00\x00\x81\x00\x00\x01\x00\x01\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01" +
		"\x00\x00\x06\x00\x01\x00\x00\x00\x3c\x00\x00")) // a SOA record without data
	f.Add([]byte("\x00\x00\x81\x00\x00\x01\x00\x01\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01" +
		"\x00\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x00")) // an A record without an address
	s := unstarted(f, options())
	f.Fuzz(func(t *testing.T, reply []byte) {
		var q query
		m := &dns.Msg{}
		if !q.readPlain(ask) || len(reply) < headerSize {
			return
		}
		copy(reply, ask[:2])
		if !answers(ask, reply) || m.Unpack(reply) != nil {
			return
		}
		if s.forwarder.guard.check("example.com.", m) != nil {
			return
		}
		p, err := pack(&q, m, time.Now())
		if err != nil {
			return
		}
		for _, limit := range []int{dns.MinMsgSize, udpSize, dns.MaxMsgSize} {
			out := make([]byte, limit)
			got := &dns.Msg{}
			if err := got.Unpack(out[:p.answer(out, ask, &q, limit)]); err != nil {
				t.Fatalf("answer %x made of %x does not unpack: %v", out, reply, err)
			}
			for _, rr := range append(got.Answer, got.Extra...) {
				for _, b := range addressesIn(rr) {
					if a, _ := netip.AddrFromSlice(b); s.zone.pool.Contains(a.Unmap()) {
						t.Fatalf("made of %x, it leads to a VIP:\n%s", reply, got)
					}
				}
			}
			if len(got.Question) != 1 || got.Question[0].Name != "Example.com." || got.IsEdns0() == nil {
				t.Fatalf("made of %x:\n%s", reply, got)
			}
		}
	})
}
