package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// What the gossip port has for those who are not known to be hosts of the cluster:
// connections in all and from one address, and time for the handshake. memberlist
// by itself takes 20 MiB of a connection into memory before it looks for the key.
const (
	maxGreeted       = 64
	maxGreetedEach   = 8
	greetTimeout     = time.Second
	maxMembersEach   = 64      // connections of one host of the cluster, and
	maxMembersAll    = 1024    // of all
	maxGossipMessage = 4 << 20 // what such a connection may say: 10,000 hosts are 3 MiB
)

// streams carries gossip's connections by mutual TLS: whoever shows no certificate of
// the cluster, or one that was revoked, is not read from. It is memberlist's own
// transport in all else; packets are encrypted by memberlist.
type streams struct {
	*memberlist.NetTransport
	self           netip.Addr // this host's
	server, client *tls.Config
	greeted        *places
	members        *places

	conns chan net.Conn
	ended chan struct{}
	work  sync.WaitGroup
}

// newStreams opens the gossip port.
func newStreams(o LivenessOptions, t *memberlist.NetTransport) *streams {
	s := &streams{
		NetTransport: t, self: o.Addr, server: o.Identity.gossipTLS(), client: o.Identity.gossipTLS(),
		greeted: newPlaces(maxGreeted, maxGreetedEach), members: newPlaces(maxMembersAll, maxMembersEach),
		conns: make(chan net.Conn), ended: make(chan struct{}),
	}
	s.work.Go(s.accept)
	return s
}

// accept greets who connects.
func (s *streams) accept() {
	for {
		select {
		case <-s.ended:
			return
		case c := <-s.NetTransport.StreamCh():
			from := remote(c.RemoteAddr().String())
			if !s.greeted.acquire(from) {
				c.Close()
				continue
			}
			s.work.Go(func() { s.greet(c, from) })
		}
	}
}

// greet hands a connection to memberlist once it has shown that it is from a host of
// the cluster.
func (s *streams) greet(c net.Conn, from netip.Addr) {
	t := tls.Server(c, s.server)
	_ = c.SetDeadline(time.Now().Add(greetTimeout)) // else it ends with the handshake
	err := t.Handshake()
	s.greeted.release(from)
	if err != nil || !s.members.acquire(from) {
		c.Close()
		return
	}
	_ = c.SetDeadline(time.Time{})
	m := &stream{Conn: t, left: maxGossipMessage, close: sync.OnceFunc(func() { s.members.release(from) })}
	select {
	case s.conns <- m:
	case <-s.ended:
		m.Close()
	}
}

// StreamCh is where memberlist takes connections from.
func (s *streams) StreamCh() <-chan net.Conn { return s.conns }

// DialTimeout connects to a host of the cluster.
func (s *streams) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return s.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout is as DialTimeout. It connects from this host's own address, as
// all else that goes to other hosts does: the other end counts connections by address.
func (s *streams) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	end := time.Now().Add(timeout)
	d := dialFrom(s.self)
	d.Timeout = timeout
	c, err := d.Dial("tcp", a.Addr)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(end)
	t := tls.Client(c, s.client)
	if err := t.Handshake(); err != nil {
		c.Close()
		return nil, fmt.Errorf("gossip with %s: %w", a.Addr, err)
	}
	_ = c.SetDeadline(time.Time{})
	return &stream{Conn: t, left: maxGossipMessage, close: func() {}}, nil
}

// Shutdown closes the port. Connections that are greeted end by their deadline.
func (s *streams) Shutdown() error {
	err := s.NetTransport.Shutdown() // which waits until what it accepted was taken
	close(s.ended)
	s.work.Wait()
	return err
}

// stream is a connection with a bound of what is read from it.
type stream struct {
	net.Conn
	left  int
	close func()
}

var errTooMuchGossip = errors.New("more gossip on one connection than a cluster has to say")

func (c *stream) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errTooMuchGossip
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

func (c *stream) Close() error {
	defer c.close()
	return c.Conn.Close()
}

var _ io.ReadWriteCloser = (*stream)(nil)

// places are so many that may be taken in all, and from one address.
type places struct {
	all, each int

	mu     sync.Mutex
	taken  int
	byAddr map[netip.Addr]int
}

func newPlaces(all, each int) *places {
	return &places{all: all, each: each, byAddr: map[netip.Addr]int{}}
}

func (p *places) acquire(a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.all || p.byAddr[a] >= p.each {
		return false
	}
	p.taken++
	p.byAddr[a]++
	return true
}

func (p *places) release(a netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if p.byAddr[a]--; p.byAddr[a] == 0 {
		delete(p.byAddr, a)
	}
}

// gossipTLS is for both ends of gossip's connections: any host of the cluster may say
// what any other may, as they share a key, so it matters that a certificate is one of
// the cluster's and not revoked, and not which. A host that has moved has none for its
// new address yet.
func (id *Identity) gossipTLS() *tls.Config {
	c := id.ServerTLS()
	c.ClientAuth = tls.RequireAnyClientCert
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.cert.Load(), nil }
	c.InsecureSkipVerify = true // VerifyConnection does it, without the name
	c.SessionTicketsDisabled = true
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errors.New("no certificate")
		}
		if _, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{
			Roots: id.pool, CurrentTime: id.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		}); err != nil {
			return err
		}
		return id.verify(s)
	}
	return c
}
