package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"time"
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
