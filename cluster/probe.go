package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// askHost asks the kernel at an address whether it is there, agent or not, by
// TCP to the port of gossip and by ICMP echo at once. A connection that is
// accepted or refused (a reset) came from the host itself; an ICMP error came
// from a router and shows nothing. how is "" if there was no answer before
// the context ended.
func askHost(ctx context.Context, self netip.Addr, peer netip.AddrPort) (how string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	found := make(chan string, 2)
	go func() { found <- askTCP(ctx, self, peer) }()
	go func() { found <- askEcho(ctx, self, peer.Addr()) }()
	if how = <-found; how == "" {
		how = <-found
	}
	return how
}

func askTCP(ctx context.Context, self netip.Addr, peer netip.AddrPort) string {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: self.AsSlice()}, KeepAlive: -1}
	c, err := d.DialContext(ctx, "tcp", peer.String())
	if err == nil {
		c.(*net.TCPConn).SetLinger(0) // nothing was said: no TIME_WAIT
		c.Close()
		return "it accepts TCP connections on port " + port(peer)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "it refuses TCP connections on port " + port(peer)
	}
	return ""
}

func port(ap netip.AddrPort) string {
	_, p, _ := net.SplitHostPort(ap.String())
	return p
}

func askEcho(ctx context.Context, self, peer netip.Addr) string {
	network, proto := "ip4:icmp", 1
	var request, reply icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if peer.Is6() {
		network, proto = "ip6:ipv6-icmp", 58
		request, reply = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	c, err := icmp.ListenPacket(network, self.String())
	if err != nil {
		return "" // without CAP_NET_RAW there is TCP
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	// A raw socket gets every reply that the host gets: ours has our data.
	data := make([]byte, 16)
	rand.Read(data)
	out, err := (&icmp.Message{Type: request, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: 1, Data: data}}).Marshal(nil)
	if err != nil {
		return ""
	}
	if _, err := c.WriteTo(out, &net.IPAddr{IP: peer.AsSlice()}); err != nil {
		return ""
	}
	in := make([]byte, 1500)
	for {
		n, _, err := c.ReadFrom(in)
		if err != nil {
			return ""
		}
		m, err := icmp.ParseMessage(proto, in[:n])
		if err != nil || m.Type != reply {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && bytes.Equal(e.Data, data) {
			return "it answers ICMP echo"
		}
	}
}
