package cluster

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/time/rate"

	"shoal/internal/connlimit"
)

// gossipPort is what gossip speaks by, on the gossip port of this host's address.
//
// Connections are by mutual TLS: whoever shows no certificate of the cluster, or one that
// was revoked, is not read from. Packets are encrypted by memberlist. Its own transport
// takes new memory of 64 KiB for each packet, which keeps the garbage collector busy
// where many hosts ask each other: with fifty in one process that was 60 % of what they
// cost.
type gossipPort struct {
	self           netip.Addr // this host's
	udp            *net.UDPConn
	tcp            *net.TCPListener
	server, client *tls.Config
	greeted        *connlimit.Places
	members        *connlimit.Places
	failures       func(what string, err error) // tells of those that are not the end

	packets chan *memberlist.Packet
	conns   chan net.Conn
	ended   chan struct{}
	end     sync.Once
	work    sync.WaitGroup
}

const (
	// largestPacket is what UDP can carry.
	largestPacket = 1 << 16
	// packetBuffer is how much the kernel may hold of packets that were not read yet. It
	// may allow less (net.core.rmem_max).
	packetBuffer = 2 << 20
	// failedPause is how long to wait after the port could not be read.
	failedPause = 100 * time.Millisecond
)

// newGossipPort opens the gossip port.
func newGossipPort(o LivenessOptions) (*gossipPort, error) {
	at := netip.AddrPortFrom(o.Addr, o.Port)
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	_ = udp.SetReadBuffer(packetBuffer)
	seldom := rate.Sometimes{First: 1, Interval: 10 * time.Second}
	g := &gossipPort{
		self: o.Addr, udp: udp, tcp: tcp, server: o.Identity.gossipTLS(), client: o.Identity.gossipTLS(),
		greeted: connlimit.NewPlaces(maxGreeted, maxGreetedEach), members: connlimit.NewPlaces(maxMembersAll, maxMembersEach),
		failures: func(what string, err error) {
			seldom.Do(func() { o.Log.Warn("gossip: "+what, "error", err) })
		},
		packets: make(chan *memberlist.Packet), conns: make(chan net.Conn), ended: make(chan struct{}),
	}
	g.work.Go(g.receive)
	g.work.Go(g.accept)
	return g, nil
}

// over tells whether it has ended, after a while.
func (g *gossipPort) over() bool {
	select {
	case <-g.ended:
		return true
	case <-time.After(failedPause):
		return false
	}
}

// receive hands packets to memberlist.
func (g *gossipPort) receive() {
	buf := make([]byte, largestPacket)
	for {
		n, from, err := g.udp.ReadFromUDPAddrPort(buf)
		at := time.Now()
		if err != nil {
			if g.over() {
				return
			}
			g.failures("read a packet", err)
			continue
		}
		if n == 0 {
			continue
		}
		select {
		case g.packets <- &memberlist.Packet{Buf: append(make([]byte, 0, n), buf[:n]...), From: net.UDPAddrFromAddrPort(from), Timestamp: at}:
		case <-g.ended:
			return
		}
	}
}

// accept greets who connects.
func (g *gossipPort) accept() {
	for {
		c, err := g.tcp.Accept()
		if err != nil {
			if g.over() {
				return
			}
			g.failures("accept a connection", err)
			continue
		}
		from := connlimit.Remote(c.RemoteAddr().String())
		release, ok := g.greeted.Acquire(from)
		if !ok {
			c.Close()
			continue
		}
		g.work.Go(func() { g.greet(c, from, release) })
	}
}

// greet hands a connection to memberlist once it has shown that it is from a host of
// the cluster. It calls greeted once the handshake is over.
func (g *gossipPort) greet(c net.Conn, from netip.Addr, greeted func()) {
	s := tls.Server(c, g.server)
	_ = c.SetDeadline(time.Now().Add(greetTimeout)) // else it ends with the handshake
	err := s.Handshake()
	greeted()
	if err != nil {
		c.Close()
		return
	}
	release, ok := g.members.Acquire(from)
	if !ok {
		c.Close()
		return
	}
	_ = c.SetDeadline(time.Time{})
	m := &stream{Conn: s, left: maxGossipMessage, close: release}
	select {
	case g.conns <- m:
	case <-g.ended:
		m.Close()
	}
}

// PacketCh is where memberlist takes packets from.
func (g *gossipPort) PacketCh() <-chan *memberlist.Packet { return g.packets }

// StreamCh is where memberlist takes connections from.
func (g *gossipPort) StreamCh() <-chan net.Conn { return g.conns }

// FinalAdvertiseAddr is where this host is told to be.
func (g *gossipPort) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return g.self.AsSlice(), g.tcp.Addr().(*net.TCPAddr).Port, nil
}

// WriteTo sends a packet to a host, and tells when it was sent.
func (g *gossipPort) WriteTo(b []byte, addr string) (time.Time, error) {
	return g.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress is as WriteTo.
func (g *gossipPort) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	to, err := netip.ParseAddrPort(a.Addr)
	if err == nil {
		_, err = g.udp.WriteToUDPAddrPort(b, to)
	}
	return time.Now(), err
}

// DialTimeout connects to a host of the cluster.
func (g *gossipPort) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return g.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout is as DialTimeout. It connects from this host's own address, as
// all else that goes to other hosts does: the other end counts connections by address.
func (g *gossipPort) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	end := time.Now().Add(timeout)
	d := dialFrom(g.self)
	d.Timeout = timeout
	c, err := d.Dial("tcp", a.Addr)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(end)
	s := tls.Client(c, g.client)
	if err := s.Handshake(); err != nil {
		c.Close()
		return nil, fmt.Errorf("gossip with %s: %w", a.Addr, err)
	}
	_ = c.SetDeadline(time.Time{})
	return &stream{Conn: s, left: maxGossipMessage, close: func() {}}, nil
}

// Shutdown closes the port, once. Connections that are greeted end by their deadline.
func (g *gossipPort) Shutdown() (err error) {
	g.end.Do(func() {
		close(g.ended)
		err = errors.Join(g.tcp.Close(), g.udp.Close())
		g.work.Wait()
	})
	return err
}

var _ memberlist.NodeAwareTransport = (*gossipPort)(nil)
