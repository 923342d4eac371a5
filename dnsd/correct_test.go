package dnsd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestCorrectness asks over real sockets with dig and kdig: each row is one
// point of the protocol.
func TestCorrectness(t *testing.T) {
	s := started(t, options())
	for _, c := range []struct {
		what    string
		program string
		args    string
		want    []string
		not     []string
	}{
		{"an answer of ours is authoritative, recursion available, not said to be validated", "dig", "web A",
			[]string{"status: NOERROR", "flags: qr aa rd ra; QUERY: 1, ANSWER: 1", "web. 5 IN A 10.96.1.1"}, []string{" ad", "WARNING"}},
		{"RD is copied", "dig", "+norecurse web A", []string{"flags: qr aa ra;"}, nil},
		{"CD is copied, AD is not", "dig", "+cdflag +adflag web A", []string{"flags: qr aa rd ra cd;"}, nil},
		{"OPT answers OPT, with our size", "dig", "+edns=0 +bufsize=4096 web", []string{"EDNS: version: 0, flags:; udp: 1232"}, nil},
		{"no OPT answers no OPT", "dig", "+noedns web", []string{"ADDITIONAL: 0"}, []string{"EDNS"}},
		{"DO is copied", "dig", "+dnssec web", []string{"flags: do;"}, nil},
		{"a version of EDNS we do not know is BADVERS", "dig", "+edns=1 +noednsnegotiation web", []string{"status: BADVERS", "EDNS: version: 0"}, []string{"10.96.1.1"}},
		{"unknown options are ignored", "dig", "+ednsopt=65001:deadbeef +nsid +subnet=192.0.2.0/24 web", []string{"status: NOERROR", "10.96.1.1"}, []string{"OPT=65001", "CLIENT-SUBNET", "NSID"}},
		{"unknown flags are not copied", "dig", "+ednsflags=0x40 web", []string{"EDNS: version: 0, flags:; udp"}, []string{"MBZ"}},
		{"long answers are cut at 512 octets without EDNS", "dig", "+noedns +ignore big", []string{"flags: qr aa tc rd ra; QUERY: 1, ANSWER: 30,"}, nil},
		{"long answers are cut at what the client takes", "dig", "+bufsize=600 +ignore big", []string{"aa tc rd", "ANSWER: 35,"}, nil},
		{"a size below 512 counts as 512", "dig", "+bufsize=100 +ignore big", []string{"aa tc rd", "ANSWER: 30,"}, nil},
		{"long answers are cut at 1232 octets in any case", "dig", "+bufsize=4096 +ignore big", []string{"aa tc rd", "ANSWER: 75,"}, nil},
		{"a cut answer is whole over TCP", "dig", "big", []string{"Truncated, retrying in TCP mode", "aa rd", "ANSWER: 200,"}, nil},
		{"NODATA has the zone's SOA", "dig", "web.mesh.internal AAAA", []string{"status: NOERROR", "ANSWER: 0, AUTHORITY: 1", "\nmesh.internal. 5 IN SOA mesh.internal. hostmaster.mesh.internal. 7 3600 600 86400 5"}, nil},
		{"NXDOMAIN has the zone's SOA", "dig", "nobody.mesh.internal", []string{"status: NXDOMAIN", "flags: qr aa rd", "AUTHORITY: 1", "\nmesh.internal. 5 IN SOA"}, nil},
		{"NODATA outside the zone has a SOA at the name", "dig", "web AAAA", []string{"status: NOERROR", "\nweb. 5 IN SOA mesh.internal."}, nil},
		{"NXDOMAIN in the reverse zone has its SOA", "dig", "-x 10.96.9.9", []string{"status: NXDOMAIN", "\n96.10.in-addr.arpa. 5 IN SOA"}, nil},
		{"the question's case is kept", "dig", "wEb.MeSh.InTeRnAl", []string{"\nwEb.MeSh.InTeRnAl. 5 IN A 10.96.1.1"}, nil},
		{"and on the slow path", "dig", "wEb.MeSh.InTeRnAl ANY +notcp", []string{"\nwEb.MeSh.InTeRnAl. 5 IN HINFO"}, nil},
		{"ANY is answered with HINFO", "dig", "+notcp web ANY", []string{"status: NOERROR", "web. 5 IN HINFO \"RFC8482\" \"\""}, []string{"10.96.1.1"}},
		{"ANY of no name of ours is not forwarded", "dig", "+notcp example.com ANY", []string{"HINFO \"RFC8482\"", "flags: qr rd ra;"}, nil},
		{"ANY of a name that does not exist is NXDOMAIN", "dig", "+notcp nobody.mesh.internal ANY", []string{"status: NXDOMAIN"}, []string{"HINFO"}},
		{"AXFR is refused", "kdig", "mesh.internal AXFR", []string{"REFUSED"}, []string{"10.96"}},
		{"IXFR is refused", "kdig", "+notcp mesh.internal IXFR=1", []string{"REFUSED"}, []string{"10.96"}},
		{"class CHAOS is refused", "dig", "CH TXT version.bind", []string{"status: REFUSED"}, nil},
		{"class ANY is refused", "dig", "-c ANY web", []string{"status: REFUSED"}, nil},
		{"other opcodes are NOTIMP", "dig", "+opcode=4 web", []string{"status: NOTIMP", "opcode: NOTIFY"}, nil},
		{"opcode UPDATE is NOTIMP", "dig", "+opcode=5 web", []string{"status: NOTIMP"}, nil},
		{"no question is FORMERR", "dig", "+header-only", []string{"status: FORMERR"}, nil},
		{"SRV brings its target's address", "dig", "_http._tcp.web SRV", []string{"SRV 0 0 80 web.default.mesh.internal.", "ADDITIONAL SECTION:\nweb.default.mesh.internal. 5 IN A 10.96.1.1"}, nil},
		{"NS brings its address", "dig", "mesh.internal NS", []string{"mesh.internal. 5 IN NS mesh.internal.", "ADDITIONAL SECTION:\nmesh.internal. 5 IN A 127.0.0.1"}, nil},
		{"PTR of a VIP", "dig", "-x 10.96.1.1", []string{"IN PTR web.default.mesh.internal."}, nil},
		{"PTR of a task", "dig", "-x 10.244.1.2", []string{"IN PTR tasks.web.default.mesh.internal."}, nil},
		{"IPv6", "dig", "six AAAA", []string{"six. 5 IN AAAA fd00:96::1"}, nil},
		{"the asker's stack comes first", "dig", "-b 127.0.0.2 web", []string{"10.96.1.2"}, nil},
		{"that other stacks have a name is told", "dig", "dup.mesh.internal", []string{"status: NXDOMAIN", "EDE: 0 (Other): (no service dup for 127.0.0.1: 2 other stacks have it (a, b); ask for dup.STACK.mesh.internal)"}, nil},
		{"but not to those without EDNS", "dig", "+noedns dup.mesh.internal", []string{"status: NXDOMAIN"}, []string{"EDE"}},
		{"TCP", "kdig", "+tcp web", []string{"status: NOERROR", "10.96.1.1", "(TCP)"}, nil},
		{"two questions on one connection", "kdig", "+tcp +keepopen web A idle A", []string{"web. 5 IN A 10.96.1.1", "idle. 5 IN A 10.96.1.7"}, nil},
		{"padding is ignored", "kdig", "+padding=128 web", []string{"10.96.1.1"}, nil},
		{"a cookie is ignored", "kdig", "+cookie=0123456789abcdef web", []string{"10.96.1.1"}, []string{"COOKIE"}},
		{"what is not ours and not to be recursed is refused", "dig", "+norecurse example.com", []string{"status: REFUSED"}, nil},
	} {
		t.Run(strings.ReplaceAll(c.what, " ", "_"), func(t *testing.T) {
			out := ask(t, s, c.program, strings.Fields(c.args)...)
			for _, w := range c.want {
				if !strings.Contains(out, w) {
					t.Errorf("%s %s lacks %q:\n%s", c.program, c.args, w, out)
				}
			}
			for _, n := range c.not {
				if strings.Contains(out, n) {
					t.Errorf("%s %s has %q:\n%s", c.program, c.args, n, out)
				}
			}
		})
	}
}

// TestOddMessages sends by UDP what no client program sends.
func TestOddMessages(t *testing.T) {
	s := started(t, options())
	good := question("web", "A")
	edit := func(f func(b []byte) []byte) []byte { return f(append([]byte(nil), good...)) }
	opt := []byte{0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0}
	for _, c := range []struct {
		what  string
		msg   []byte
		rcode int // -1: no answer
	}{
		{"a plain question", good, dns.RcodeSuccess},
		{"QR=1", edit(func(b []byte) []byte { b[2] |= flagQR; return b }), -1},
		{"half a header", good[:7], -1},
		{"nothing", nil, -1},
		{"a header alone", good[:headerSize], dns.RcodeFormatError},
		{"a name cut short", good[:headerSize+3], dns.RcodeFormatError},
		{"no type", good[:headerSize+5], dns.RcodeFormatError},
		{"an OPT record cut short", good[:len(good)-3], dns.RcodeFormatError},
		{"an OPT record announced and missing", good[:len(good)-optSize], dns.RcodeFormatError},
		{"a name that points to itself", []byte("\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"), dns.RcodeFormatError},
		{"a name that points into the header", []byte("\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\xc0\x0b\x00\x01\x00\x01"), dns.RcodeFormatError},
		{"a label type that does not exist", []byte("\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x83web\x00\x00\x01\x00\x01"), dns.RcodeFormatError},
		{"a label of 64 octets", []byte("\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x40" + strings.Repeat("a", 64) + "\x04mesh\x08internal\x00\x00\x01\x00\x01"), dns.RcodeFormatError},
		{"a name of 256 octets", []byte("\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + strings.Repeat("\x04aaaa", 46) + "\x0aaaaaaaaaaa\x04mesh\x08internal\x00\x00\x01\x00\x01"), dns.RcodeFormatError},
		{"a name of 255 octets", []byte("\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + strings.Repeat("\x04aaaa", 46) + "\x09aaaaaaaaa\x04mesh\x08internal\x00\x00\x01\x00\x01"), dns.RcodeNameError},
		{"two questions", edit(func(b []byte) []byte { b[5] = 2; return b }), dns.RcodeFormatError},
		{"two questions in truth", []byte("\x01\x02\x01\x00\x00\x02\x00\x00\x00\x00\x00\x00\x03web\x00\x00\x01\x00\x01\x03web\x00\x00\x01\x00\x01"), dns.RcodeFormatError},
		{"two OPT records", edit(func(b []byte) []byte { b[11] = 2; return append(b, opt...) }), dns.RcodeFormatError},
		{"an answer in the question", edit(func(b []byte) []byte { b[7], b[11] = 1, 0; return b }), dns.RcodeFormatError},
		{"type 0", edit(func(b []byte) []byte { b[headerSize+6] = 0; return b }), dns.RcodeFormatError},
		{"type OPT", edit(func(b []byte) []byte { b[headerSize+6] = 41; return b }), dns.RcodeFormatError},
		{"an option longer than its record", edit(func(b []byte) []byte {
			b[len(b)-1] = 4
			return append(b, 0xFD, 0xE9, 0, 9)
		}), dns.RcodeFormatError},
		{"an OPT record whose owner has a name", withRecord("web", append([]byte{0xC0, headerSize}, opt[1:]...)), dns.RcodeFormatError},
		{"a record whose owner points to itself", withRecord("web", append([]byte{0xC0, headerSize + 5 + 4}, record(dns.TypeTSIG, nil)[1:]...)), dns.RcodeFormatError},
		{"a version of EDNS we do not know", edit(func(b []byte) []byte { b[len(b)-5] = 1; return b }), dns.RcodeBadVers & 0x0F},
		{"OPT and TSIG", edit(func(b []byte) []byte { b[11] = 2; return append(b, record(dns.TypeTSIG, nil)...) }), dns.RcodeSuccess},
		{"three additional records", edit(func(b []byte) []byte {
			b[11] = 3
			return append(b, bytes.Repeat(record(dns.TypeNULL, nil), 2)...)
		}), dns.RcodeFormatError},
		{"an answer", edit(func(b []byte) []byte { b[7] = 1; return append(b, opt...) }), dns.RcodeFormatError},
		{"an authority record", edit(func(b []byte) []byte { b[9] = 1; return append(b, opt...) }), dns.RcodeFormatError},
		{"all counts at their most", edit(func(b []byte) []byte {
			copy(b[4:], bytes.Repeat([]byte{0xFF}, 8))
			return b
		}), dns.RcodeFormatError},
		{"the longest question", withRecord("web", record(dns.TypeOPT, padding(maxQuestion-len(good)))), dns.RcodeSuccess},
		{"one octet more", withRecord("web", record(dns.TypeOPT, padding(maxQuestion-len(good)+1))), dns.RcodeFormatError},
		{"one octet more, on the slow path", append(question("web", "ANY"), make([]byte, maxQuestion-len(good)+1)...), dns.RcodeFormatError},
		{"much more", withRecord("web", record(dns.TypeOPT, padding(60_000))), dns.RcodeFormatError},
		{"many names", manyNames(32_000), dns.RcodeFormatError},
		{"NOTIFY, and much of it", edit(func(b []byte) []byte {
			b[2] |= dns.OpcodeNotify << 3
			return append(b, make([]byte, 60_000)...)
		}), dns.RcodeNotImplemented},
	} {
		conn, err := net.Dial("udp4", s.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// A good question behind shows that the odd one got no answer.
		last := question("idle", "A")
		last[0], last[1] = 0xAA, 0x55
		conn.Write(c.msg)
		got := -1
		for range 2 {
			if got == -1 {
				conn.Write(last)
			}
			conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			b := make([]byte, 2048)
			n, err := conn.Read(b)
			if err != nil {
				t.Fatalf("%s: %v", c.what, err)
			}
			if b[0] == 0xAA && b[1] == 0x55 {
				break
			}
			got = int(b[3] & 0x0F)
			if n > len(c.msg)+200 {
				t.Errorf("%s: %d octets answered with %d", c.what, len(c.msg), n)
			}
		}
		if got != c.rcode {
			t.Errorf("%s: rcode %d, want %d", c.what, got, c.rcode)
		}
	}
}

// padding is an option of that many octets (RFC 7830).
func padding(n int) []byte {
	return append([]byte{0, 12, byte((n - 4) >> 8), byte(n - 4)}, make([]byte, n-4)...)
}

// TestPipelining sends many questions on one connection, the first of which
// waits for an upstream, and expects the others' answers meanwhile.
func TestPipelining(t *testing.T) {
	hold := make(chan struct{})
	o := options()
	o.Timeout = 8 * time.Second
	o.Upstreams = []netip.AddrPort{upstreamServer(t, func(w dns.ResponseWriter, m *dns.Msg) {
		<-hold
		w.WriteMsg(replyTo(m, "slow.example. 60 IN A 192.0.2.9"))
	})}
	s := started(t, o)
	conn, err := net.Dial("tcp4", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	var all []byte
	for i, n := range []string{"slow.example", "web", "dup.mesh.internal", "idle", "nobody.mesh.internal"} {
		q := question(n, "A")
		binary.BigEndian.PutUint16(q, uint16(i))
		all = append(all, frame(q)...)
	}
	for _, part := range [][]byte{all[:1], all[1:70], all[70:]} { // frames need not come whole
		conn.Write(part)
	}
	read := func() uint16 {
		b := make([]byte, dns.MaxMsgSize)
		if _, err := readFrame(conn, b); err != nil {
			t.Fatal(err)
		}
		return binary.BigEndian.Uint16(b)
	}
	got := fmt.Sprint(read(), read(), read(), read())
	if got != "1 2 3 4" {
		t.Errorf("answers while the first waits: %s", got)
	}
	conn.(*net.TCPConn).CloseWrite() // and still the answer comes
	close(hold)
	if id := read(); id != 0 {
		t.Errorf("last answer is to question %d", id)
	}
}

func TestIdleConnectionIsClosed(t *testing.T) {
	s := unstarted(t, options())
	s.idle = 200 * time.Millisecond
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp4", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write([]byte{0, 30, 1, 2}) // the beginning of a question
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the idle connection gave %v, want EOF", err)
	}
}

func TestConnectionsOfOneClientAreBounded(t *testing.T) {
	s := started(t, options())
	var open []net.Conn
	dial := func(from string) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.Dial("tcp4", s.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	served := func(c net.Conn) bool {
		c.SetDeadline(time.Now().Add(5 * time.Second))
		c.Write(frame(question("web", "A")))
		_, err := readFrame(c, make([]byte, 2048))
		return err == nil
	}
	for i := range maxConnsEach {
		c := dial("127.0.0.1")
		if !served(c) {
			t.Fatalf("connection %d is not served", i)
		}
		open = append(open, c)
	}
	if served(dial("127.0.0.1")) {
		t.Error("one connection too many is served")
	}
	if !served(dial("127.0.0.2")) {
		t.Error("another client is not served")
	}
	open[0].Close()
	eventually(t, "a closed connection makes room", func() bool { return served(dial("127.0.0.1")) })
}

func TestStrangersAreRefused(t *testing.T) {
	o := options()
	o.Allow = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	s := unstarted(t, o)
	for _, c := range []struct {
		asker   string
		allowed bool
	}{
		{"127.0.0.1", true}, {"127.8.9.10", true}, {"::1", true},
		{"10.244.77.1", true},  // a network of this host
		{"fd00:244::1", true},  // a container
		{"192.0.2.1", true},    // a node
		{"198.51.100.9", true}, // allowed
		{"198.51.101.9", false}, {"8.8.8.8", false}, {"10.96.1.1", false}, {"fd00:244::2", false}, {"192.0.2.2", false},
	} {
		for _, name := range []string{"web", "example.com", "dup.mesh.internal"} {
			msg := question(name, "A")
			m, foreign := slowAnswer(t, s, msg, ip(c.asker), false)
			refused := !foreign && m.Rcode == dns.RcodeRefused
			if refused == c.allowed {
				t.Errorf("%s asks for %s: refused %t", c.asker, name, refused)
			}
			if refused {
				if b, _ := m.Pack(); len(b) > len(msg)+6 {
					t.Errorf("%d octets are refused with %d", len(msg), len(b))
				}
			}
			checkTwins(t, s, msg, ip(c.asker))
		}
	}
}

func TestBeforeTheFirstSnapshot(t *testing.T) {
	s, err := New(options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Over UDP it is silent, so that the asker's resolver comes again.
	udp := dns.Client{Timeout: 300 * time.Millisecond}
	if r, _, err := udp.Exchange(new(dns.Msg).SetQuestion("web.", dns.TypeA), s.Addrs()[0].String()); err == nil {
		t.Errorf("over UDP it says %v", r)
	}
	out := ask(t, s, "dig", "+tcp", "web")
	if !strings.Contains(out, "SERVFAIL") || !strings.Contains(out, "EDE: 14 (Not Ready)") {
		t.Errorf("not SERVFAIL, not ready:\n%s", out)
	}
	s.Update(world(1))
	if out = ask(t, s, "dig", "web"); !strings.Contains(out, "10.96.1.1") {
		t.Errorf("no answer after the first Snapshot:\n%s", out)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for what, change := range map[string]func(*Options){
		"no zone":              func(o *Options) { o.Zone = "" },
		"a zone too long":      func(o *Options) { o.Zone = strings.Repeat("a.", 28) + "b" },
		"a bad zone":           func(o *Options) { o.Zone = "a..b" },
		"no address":           func(o *Options) { o.Listen = nil },
		"a wildcard address":   func(o *Options) { o.Listen = []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:53")} },
		"a negative cache":     func(o *Options) { o.CacheSize = -1 },
		"a TTL below a second": func(o *Options) { o.TTL = time.Millisecond },
	} {
		o := options()
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
}
