package bench

import (
	"net"
	"net/netip"

	"github.com/miekg/dns"
)

// answer is an A record whose name points to that of the question (RFC 1035
// sections 3.2.1 and 4.1.4).
var answer = []byte{0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 96, 0, 1}

// serveEcho answers every datagram with itself and the record: the least that
// a server over Go's sockets could do.
func serveEcho(addr string) error {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	buf := make([]byte, 512)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf[:len(buf)-len(answer)])
		if err != nil {
			return err
		}
		buf[2] |= 0x80 // QR
		buf[7] = 1     // ANCOUNT
		n += copy(buf[n:], answer)
		if _, err := c.WriteToUDPAddrPort(buf[:n], from); err != nil {
			return err
		}
	}
}

// handle answers every question with one address.
func handle(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	m.Compress = true
	m.Answer = []dns.RR{&dns.A{
		Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5},
		A:   net.IP{10, 96, 0, 1},
	}}
	_ = w.WriteMsg(m) // what is lost is asked again
}
