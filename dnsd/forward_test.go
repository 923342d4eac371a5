package dnsd

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// replyTo answers a question with those records.
func replyTo(m *dns.Msg, rrs ...string) *dns.Msg {
	r := new(dns.Msg).SetReply(m)
	for _, s := range rrs {
		rr, err := dns.NewRR(s)
		if err != nil {
			panic(err)
		}
		r.Answer = append(r.Answer, rr)
	}
	if o := m.IsEdns0(); o != nil {
		r.SetEdns0(4096, o.Do())
	}
	return r
}

func isProbeQuestion(m *dns.Msg) bool {
	return strings.HasSuffix(m.Question[0].Name, ".shoal-loop.arpa.")
}

// forwarding is a server in front of an upstream that behaves as h; asked
// counts the questions, probes apart.
func forwarding(t *testing.T, h dns.HandlerFunc) (s *Server, asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	o := options()
	o.Timeout = 4 * time.Second
	o.Upstreams = []netip.AddrPort{upstreamServer(t, func(w dns.ResponseWriter, m *dns.Msg) {
		if isProbeQuestion(m) {
			return
		}
		asked.Add(1)
		h(w, m)
	})}
	return started(t, o), asked
}

func mustContain(t *testing.T, out string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("lacks %q:\n%s", w, out)
		}
	}
}

func TestForwardedAnswerIsCachedAndCountedDown(t *testing.T) {
	var last atomic.Pointer[dns.Msg]
	s, asked := forwarding(t, func(w dns.ResponseWriter, m *dns.Msg) {
		last.Store(m)
		r := replyTo(m, "example.com. 7200 IN A 192.0.2.1", "example.com. 300 IN A 192.0.2.2")
		r.AuthenticatedData = true
		w.WriteMsg(r)
	})
	out := ask(t, s, "dig", "+subnet=198.51.100.0/24", "+cookie", "+noadflag", "ExAmple.com")
	mustContain(t, out, "status: NOERROR", "flags: qr rd ra; QUERY: 1, ANSWER: 2", "\nExAmple.com. 3600 IN A 192.0.2.1", "udp: 1232")
	if o := last.Load().IsEdns0(); o == nil || len(o.Option) > 0 {
		t.Errorf("the upstream was told more than needed: %v", o)
	}
	mustContain(t, ask(t, s, "dig", "+adflag", "example.com"), "flags: qr rd ra ad;", "\nexample.com.")
	mustContain(t, ask(t, s, "dig", "+noedns", "example.com"), "ANSWER: 2, AUTHORITY: 0, ADDITIONAL: 0")
	mustContain(t, ask(t, s, "dig", "+tcp", "example.com"), "ANSWER: 2", "flags: qr rd ra")
	if n := asked.Load(); n != 1 {
		t.Errorf("the upstream was asked %d times, want 1", n)
	}
	ask(t, s, "dig", "+dnssec", "example.com")
	ask(t, s, "dig", "+cdflag", "example.com")
	ask(t, s, "dig", "example.com", "AAAA")
	if n := asked.Load(); n != 4 {
		t.Errorf("DO, CD and type make other questions: asked %d times, want 4", n)
	}

	var q query
	q.readPlain(question("example.com", "A"))
	grow := func(d time.Duration) { // as if the answer was that old
		older := *s.forwarder.cache.get(&q)
		older.born = time.Now().Add(-d)
		s.forwarder.cache.put(&older)
	}
	grow(100 * time.Second)
	mustContain(t, ask(t, s, "dig", "example.com"), "example.com. 3500 IN A 192.0.2.1", "example.com. 200 IN A 192.0.2.2")
	grow(300 * time.Second)
	mustContain(t, ask(t, s, "dig", "example.com"), "example.com. 300 IN A 192.0.2.2")
	if n := asked.Load(); n != 5 {
		t.Errorf("an expired answer is asked for again: asked %d times, want 5", n)
	}
}

func TestNegativeAnswersAreCachedByTheirSOA(t *testing.T) {
	soa, _ := dns.NewRR("example. 7200 IN SOA ns. host. 1 2 3 4 30")
	s, asked := forwarding(t, func(w dns.ResponseWriter, m *dns.Msg) {
		r := replyTo(m)
		switch m.Question[0].Name {
		case "nx.example.":
			r.Rcode = dns.RcodeNameError
			r.Ns = []dns.RR{soa}
		case "nodata.example.":
			r.Ns = []dns.RR{soa}
		case "nosoa.example.":
			r.Rcode = dns.RcodeNameError
		}
		w.WriteMsg(r)
	})
	for i, c := range []struct {
		name, want string
		asked      int32
	}{
		{"nx.example", "status: NXDOMAIN", 1}, {"nx.example", "example. 30 IN SOA", 1},
		{"nodata.example", "status: NOERROR", 2}, {"nodata.example", "example. 30 IN SOA", 2},
		{"nosoa.example", "status: NXDOMAIN", 3}, {"nosoa.example", "status: NXDOMAIN", 4},
	} {
		mustContain(t, ask(t, s, "dig", c.name), c.want)
		if n := asked.Load(); n != c.asked {
			t.Errorf("row %d, %s: upstream asked %d times, want %d", i, c.name, n, c.asked)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	o := options()
	o.CacheSize = 10
	o.Upstreams = []netip.AddrPort{upstreamServer(t, func(w dns.ResponseWriter, m *dns.Msg) {
		w.WriteMsg(replyTo(m, m.Question[0].Name+" 60 IN A 192.0.2.1"))
	})}
	s := started(t, o)
	for i := range 50 {
		var q query
		q.readPlain(question(fmt.Sprintf("n%d.example", i), "A"))
		if _, err := s.forwarder.resolve(t.Context(), &q); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.forwarder.cache.lru.Len(); n != 10 {
		t.Errorf("%d answers cached, want 10", n)
	}
}

func TestTheSameQuestionIsForwardedOnce(t *testing.T) {
	release := make(chan struct{})
	s, asked := forwarding(t, func(w dns.ResponseWriter, m *dns.Msg) {
		<-release
		w.WriteMsg(replyTo(m, "example.com. 60 IN A 192.0.2.1"))
	})
	var clients []net.Conn
	for range 20 {
		c, err := net.Dial("udp4", s.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write(question("example.com", "A"))
		clients = append(clients, c)
	}
	eventually(t, "all wait", func() bool {
		s.inFlight.mu.Lock()
		defer s.inFlight.mu.Unlock()
		return s.inFlight.total == len(clients)
	})
	close(release)
	for _, c := range clients {
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		b := make([]byte, udpSize)
		m := new(dns.Msg)
		if n, err := c.Read(b); err != nil || m.Unpack(b[:n]) != nil || len(m.Answer) != 1 {
			t.Errorf("%v: %v", err, m)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times, want 1", n)
	}
}

// TestForgedAnswersArePassedOver has the upstream send wrong answers before
// the right one.
func TestForgedAnswersArePassedOver(t *testing.T) {
	s, _ := forwarding(t, func(w dns.ResponseWriter, m *dns.Msg) {
		forged := func(change func(*dns.Msg)) {
			r := replyTo(m, "example.com. 60 IN A 6.6.6.6")
			change(r)
			b, _ := r.Pack()
			w.Write(b)
		}
		forged(func(r *dns.Msg) { r.Id++ })
		forged(func(r *dns.Msg) { r.Question[0].Name = "other.com." })
		forged(func(r *dns.Msg) { r.Question[0].Qtype = dns.TypeAAAA })
		forged(func(r *dns.Msg) { r.Question = nil })
		forged(func(r *dns.Msg) { r.Response = false })
		forged(func(r *dns.Msg) { r.Opcode = dns.OpcodeNotify })
		// From another port.
		if c, err := net.Dial("udp4", w.RemoteAddr().String()); err == nil {
			b, _ := replyTo(m, "example.com. 60 IN A 6.6.6.6").Pack()
			c.Write(b)
			c.Close()
		}
		w.WriteMsg(replyTo(m, "example.com. 60 IN A 192.0.2.1"))
	})
	out := ask(t, s, "dig", "example.com")
	mustContain(t, out, "192.0.2.1")
	if strings.Contains(out, "6.6.6.6") {
		t.Error("a forged answer was believed")
	}
}

func TestEachForwardedQuestionHasItsOwnIDAndPort(t *testing.T) {
	ids, ports := map[uint16]bool{}, map[string]bool{}
	var mu sync.Mutex
	s, _ := forwarding(t, func(w dns.ResponseWriter, m *dns.Msg) {
		mu.Lock()
		ids[m.Id], ports[w.RemoteAddr().String()] = true, true
		mu.Unlock()
		w.WriteMsg(replyTo(m))
	})
	for i := range 40 {
		var q query
		q.readPlain(question(fmt.Sprintf("n%d.example", i), "A"))
		if _, err := s.forwarder.resolve(t.Context(), &q); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ids) < 38 || len(ports) < 30 {
		t.Errorf("40 questions had %d IDs and %d ports", len(ids), len(ports))
	}
}

func TestTruncatedUpstreamAnswerIsFetchedByTCP(t *testing.T) {
	s, _ := forwarding(t, func(w dns.ResponseWriter, m *dns.Msg) {
		r := replyTo(m)
		if w.RemoteAddr().Network() == "udp" {
			r.Truncated = true
		} else {
			for i := range 100 {
				rr, _ := dns.NewRR(fmt.Sprintf("example.com. 60 IN A 192.0.2.%d", i))
				r.Answer = append(r.Answer, rr)
			}
		}
		w.WriteMsg(r)
	})
	mustContain(t, ask(t, s, "dig", "+ignore", "example.com"), "flags: qr tc rd ra;")
	mustContain(t, ask(t, s, "dig", "example.com"), "retrying in TCP mode", "ANSWER: 100")
}

func TestUpstreamWithoutEDNS(t *testing.T) {
	s, _ := forwarding(t, func(w dns.ResponseWriter, m *dns.Msg) {
		if m.IsEdns0() != nil {
			w.WriteMsg(new(dns.Msg).SetRcodeFormatError(m))
			return
		}
		w.WriteMsg(replyTo(m, "example.com. 60 IN A 192.0.2.1"))
	})
	mustContain(t, ask(t, s, "dig", "example.com"), "192.0.2.1")
}

func TestNextUpstreamIsAskedWhenOneFails(t *testing.T) {
	good := func(w dns.ResponseWriter, m *dns.Msg) { w.WriteMsg(replyTo(m, "example.com. 60 IN A 192.0.2.1")) }
	for what, bad := range map[string]dns.HandlerFunc{
		"silent":   func(dns.ResponseWriter, *dns.Msg) {},
		"SERVFAIL": func(w dns.ResponseWriter, m *dns.Msg) { w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeServerFailure)) },
		"REFUSED":  func(w dns.ResponseWriter, m *dns.Msg) { w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeRefused)) },
		"garbage": func(w dns.ResponseWriter, m *dns.Msg) {
			b, _ := replyTo(m).Pack()
			binary.BigEndian.PutUint16(b[6:], 9)
			w.Write(append(b, 7))
		},
	} {
		o := options()
		o.Upstreams = []netip.AddrPort{upstreamServer(t, bad), upstreamServer(t, good)}
		s := started(t, o)
		if out := ask(t, s, "dig", "example.com"); !strings.Contains(out, "192.0.2.1") {
			t.Errorf("first upstream %s:\n%s", what, out)
		}
	}
}

func TestSilentUpstreamIsAskedLastForAWhile(t *testing.T) {
	var silent atomic.Int32
	o := options()
	o.Upstreams = []netip.AddrPort{
		upstreamServer(t, func(_ dns.ResponseWriter, m *dns.Msg) {
			if !isProbeQuestion(m) {
				silent.Add(1)
			}
		}),
		upstreamServer(t, func(w dns.ResponseWriter, m *dns.Msg) {
			w.WriteMsg(replyTo(m, m.Question[0].Name+" 60 IN A 192.0.2.1"))
		}),
	}
	s := started(t, o)
	for i := range 5 {
		mustContain(t, ask(t, s, "dig", fmt.Sprintf("n%d.example", i)), "192.0.2.1")
	}
	if n := silent.Load(); n != 1 {
		t.Errorf("the silent upstream was asked %d times, want once", n)
	}
}

func TestUpstreamsFailureIsTold(t *testing.T) {
	silent := upstreamServer(t, func(dns.ResponseWriter, *dns.Msg) {})
	servfail := upstreamServer(t, func(w dns.ResponseWriter, m *dns.Msg) { w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeServerFailure)) })
	formerr := upstreamServer(t, func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetRcodeFormatError(m)
		r.Question = nil
		w.WriteMsg(r)
	})
	empty := filepath.Join(t.TempDir(), "resolv.conf")
	os.WriteFile(empty, []byte("search example.com\n"), 0o600)
	for _, c := range []struct {
		what   string
		change func(*Options)
		want   string
	}{
		{"silent", func(o *Options) { o.Upstreams = []netip.AddrPort{silent} }, "EDE: 23 (Network Error): (no upstream resolver answered within 1s"},
		{"nobody there", func(o *Options) {}, "connection refused"},
		{"SERVFAIL", func(o *Options) { o.Upstreams = []netip.AddrPort{servfail} }, "says SERVFAIL"},
		{"it understands nothing", func(o *Options) { o.Upstreams = []netip.AddrPort{formerr} }, "says FORMERR"},
		{"none", func(o *Options) { o.Upstreams, o.ResolvConf = nil, empty }, "no upstream resolver: " + empty + " names none"},
		{"itself", func(o *Options) { o.Upstreams = []netip.AddrPort{netip.MustParseAddrPort("10.96.0.11:53")} }, "no upstream resolver"},
	} {
		o := options()
		c.change(&o)
		s := started(t, o)
		begin := time.Now()
		mustContain(t, ask(t, s, "dig", "example.com"), "status: SERVFAIL", c.want)
		d, limit := time.Since(begin), 2500*time.Millisecond
		if !strings.Contains(c.want, "within") && !strings.Contains(c.want, "refused") {
			limit = 800 * time.Millisecond // waiting would not help
		}
		if d > limit {
			t.Errorf("%s: answered after %s", c.what, d)
		}
	}
}

func TestOverloadIsAnsweredAtOnce(t *testing.T) {
	s, _ := forwarding(t, func(dns.ResponseWriter, *dns.Msg) {})
	for range maxInFlightEach {
		if _, ok := s.inFlight.acquire(ip("127.0.0.1"), netip.MustParsePrefix("127.0.0.0/8"), func() {}); !ok {
			t.Fatal("no room")
		}
	}
	mustContain(t, ask(t, s, "dig", "example.com"), "SERVFAIL", "too many questions in flight")
	if out := ask(t, s, "dig", "-b", "127.0.0.2", "example.com"); strings.Contains(out, "too many") {
		t.Errorf("another client has no room:\n%s", out)
	}
	mustContain(t, ask(t, s, "dig", "web"), "10.96.1.1")
}

// TestForwardingLoopIsFound has an upstream that asks us everything it is asked.
func TestForwardingLoopIsFound(t *testing.T) {
	var s atomic.Pointer[Server]
	var asked atomic.Int32
	loop := upstreamServer(t, func(w dns.ResponseWriter, m *dns.Msg) {
		if !isProbeQuestion(m) {
			asked.Add(1)
		}
		c := &dns.Client{Timeout: 3 * time.Second}
		if r, _, err := c.Exchange(m, s.Load().Addrs()[0].String()); err == nil {
			w.WriteMsg(r)
		}
	})
	o := options()
	o.Upstreams = []netip.AddrPort{loop}
	registry := prometheus.NewRegistry()
	o.Registerer = registry
	s.Store(started(t, o))
	mustContain(t, ask(t, s.Load(), "dig", "example.com"), "SERVFAIL")
	eventually(t, "the loop is found", func() bool {
		return counted(t, registry, "shoal_dns_upstream_failures_total", "loop") >= 1
	})
	if n := asked.Load(); n > 4 {
		t.Errorf("one question went round %d times", n)
	}
	mustContain(t, ask(t, s.Load(), "dig", "example.org"), "SERVFAIL", "sends our questions back to us")
}

func TestOurOwnZonesAreNeverForwarded(t *testing.T) {
	s, asked := forwarding(t, func(w dns.ResponseWriter, m *dns.Msg) { w.WriteMsg(replyTo(m)) })
	for _, args := range []string{"web", "nobody.mesh.internal", "a.b.c.d.mesh.internal TXT", "-x 10.96.200.1", "dup.mesh.internal",
		"_x._tcp.web SRV", "web AAAA", "-x 10.244.1.1", "mesh.internal DS", "+notcp x.mesh.internal ANY", "_dns.resolver.arpa SVCB"} {
		ask(t, s, "dig", strings.Fields(args)...)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d questions were forwarded", n)
	}
	ask(t, s, "dig", "-x", "192.168.7.7")
	if n := asked.Load(); n != 1 {
		t.Errorf("other reverse zones are forwarded: %d questions, want 1", n)
	}
}

func TestResolvConfIsReadAgainWhenItChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	us := &upstreams{path: path, log: options().Log, own: func(a netip.AddrPort) bool { return a.Addr() == ip("10.96.0.10") }}
	addrs := func() string {
		us.checked = time.Time{} // as if checkEvery had passed
		var all []string
		for _, u := range us.get() {
			all = append(all, u.addr.String())
		}
		return strings.Join(all, " ")
	}
	write := func(s string) {
		if err := os.WriteFile(path+"~", []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+"~", path); err != nil {
			t.Fatal(err)
		}
	}
	if got := addrs(); got != "" {
		t.Errorf("without a file: %q", got)
	}
	write("# comment\nsearch a b\nnameserver 127.0.0.53\nnameserver 10.96.0.10\nnameserver x\nnameserver 127.0.0.53\nnameserver fe80::1%lo trust\n")
	if got, want := addrs(), "127.0.0.53:53 [fe80::1%lo]:53"; got != want {
		t.Errorf("upstreams %q, want %q", got, want)
	}
	first := us.get()[0]
	write("nameserver 192.0.2.53\nnameserver 127.0.0.53\n")
	if got, want := addrs(), "192.0.2.53:53 127.0.0.53:53"; got != want {
		t.Errorf("after a change: %q, want %q", got, want)
	}
	if us.get()[1] != first {
		t.Error("what was known of an upstream was forgotten")
	}
	us.get()[0].failed(time.Now())
	if got, want := addrs(), "127.0.0.53:53 192.0.2.53:53"; got != want {
		t.Errorf("after a failure: %q, want %q", got, want)
	}
	us.get()[0].failed(time.Now()) // both: in the file's order
	if got, want := addrs(), "192.0.2.53:53 127.0.0.53:53"; got != want {
		t.Errorf("after two failures: %q, want %q", got, want)
	}
	us.get()[0].answered()
	if got, want := addrs(), "192.0.2.53:53 127.0.0.53:53"; got != want {
		t.Errorf("after an answer: %q, want %q", got, want)
	}
	us.get()[0].failed(time.Now())
	us.get()[1].answered()
	os.Remove(path)
	if got, want := addrs(), "127.0.0.53:53 192.0.2.53:53"; got != want {
		t.Errorf("without the file: %q, want %q", got, want)
	}
}

func TestCounters(t *testing.T) {
	o := options()
	registry := prometheus.NewRegistry()
	o.Registerer = registry
	o.Upstreams = []netip.AddrPort{upstreamServer(t, func(w dns.ResponseWriter, m *dns.Msg) {
		w.WriteMsg(replyTo(m, "example.com. 60 IN A 192.0.2.1"))
	})}
	s := started(t, o)
	for _, args := range []string{"web", "nobody.mesh.internal", "dup.mesh.internal", "example.com", "example.com", "CH TXT x", "+opcode=4 web"} {
		ask(t, s, "dig", strings.Fields(args)...)
	}
	for _, c := range []struct {
		metric, label string
		want          float64
	}{
		{"shoal_dns_queries_total", "own", 3},
		{"shoal_dns_queries_total", "forwarded", 2},
		{"shoal_dns_queries_total", "refused", 1},
		{"shoal_dns_queries_total", "malformed", 1},
		{"shoal_dns_responses_total", "NOERROR", 3},
		{"shoal_dns_responses_total", "NXDOMAIN", 2},
		{"shoal_dns_responses_total", "REFUSED", 1},
		{"shoal_dns_responses_total", "NOTIMP", 1},
		{"shoal_dns_cache_lookups_total", "hit", 1},
		{"shoal_dns_cache_lookups_total", "miss", 1},
	} {
		if got := counted(t, registry, c.metric, c.label); got != c.want {
			t.Errorf("%s{%s} = %v, want %v", c.metric, c.label, got, c.want)
		}
	}
	if _, err := New(o); err == nil {
		t.Error("the same metrics are registered twice without an error")
	}
}

func TestShutdownEndsWhatIsUnderWay(t *testing.T) {
	s, asked := forwarding(t, func(dns.ResponseWriter, *dns.Msg) {})
	conn, err := net.Dial("tcp4", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write(frame(question("example.com", "A")))
	eventually(t, "the question is forwarded", func() bool { return asked.Load() > 0 })
	begin := time.Now()
	s.Shutdown()
	if d := time.Since(begin); d > time.Second {
		t.Errorf("shutdown took %s", d)
	}
	if c, err := net.Dial("tcp4", s.Addrs()[0].String()); err == nil {
		c.Close()
		t.Error("connections are still accepted")
	}
}
