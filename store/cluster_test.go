package store

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var clusters atomic.Uint32

// cluster is a CA and the hosts it knows, each on a loopback address.
type cluster struct {
	t    *testing.T
	net  byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	dirs map[string]string
	log  logBuffer // of all
	// checked has members change only once all are connected for 5 s, as it
	// is outside of tests.
	checked bool
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, net: byte(clusters.Add(1)), pool: x509.NewCertPool(), dirs: map[string]string{}}
	c.key = newKey(t)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, c.key.Public(), c.key)
	if err == nil {
		c.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.pool.AddCert(c.cert)
	return c
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// addr is a loopback address: the ports are fixed, so other clusters, and
// another run of these tests at the same time, have to have others.
func (c *cluster) addr(node string) netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(2 + os.Getpid()%250), c.net, node[0] - 'a' + 1})
}

func (c *cluster) endpoint(node string) string {
	return fmt.Sprintf("https://%s:%d", c.addr(node), ClientPort)
}

// peers is what a host has from joining.
func (c *cluster) peers(node, dir string, more ...netip.Addr) *Peers {
	c.t.Helper()
	key := newKey(c.t)
	addr := c.addr(node)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: node},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{node + ".node.shoal"}, IPAddresses: []net.IP{addr.AsSlice()}}
	for _, a := range more {
		leaf.IPAddresses = append(leaf.IPAddresses, a.AsSlice())
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, c.cert, key.Public(), c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1),
		ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}, c.cert, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			c.t.Fatal(err)
		}
		return path
	}
	text := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return &Peers{
		Addr:     addr,
		CertFile: write("node.crt", text("CERTIFICATE", der)),
		KeyFile:  write("node.key", text("PRIVATE KEY", pkcs8)),
		CAFile:   write("ca.crt", text("CERTIFICATE", c.cert.Raw)),
		CRLFile:  write("ca.crl", crl),
		TLS: &tls.Config{RootCAs: c.pool, MinVersion: tls.VersionTLS13,
			Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
	}
}

// open opens the store of a host; one that is opened again finds its folder.
func (c *cluster) open(node string, change ...func(*Options)) *host {
	c.t.Helper()
	if c.dirs[node] == "" {
		c.dirs[node] = shortDir(c.t)
	}
	dir := c.dirs[node]
	return open(c.t, node, dir, append([]func(*Options){func(o *Options) {
		o.Peers, o.unchecked = c.peers(node, dir), !c.checked
		o.Log = slog.New(slog.NewTextHandler(io.MultiWriter(c.t.Output(), &c.log), nil)).With("node", node)
	}}, change...)...)
}

// start opens a host that has a task of the service web.
func (c *cluster) start(node string, change ...func(*Options)) *host {
	c.t.Helper()
	h := c.open(node, change...)
	h.SetLocal(local(ctr(node, "1", fmt.Sprintf("10.0.%d.1", node[0]-'a'))))
	return h
}

func (c *cluster) join(node string) func(*Options) {
	return func(o *Options) { o.Join = []string{c.endpoint(node)} }
}

// voters are the hosts with a vote, as one of them sees it; the leader has a
// star, one that does not answer is in parentheses.
func voters(c *host) string {
	members, err := c.Members(context.Background())
	if err != nil {
		return err.Error()
	}
	var names []string
	for _, m := range members {
		name := m.Node
		if m.Leader {
			name += "*"
		}
		if !m.Voter {
			name += "?"
		}
		if !m.Up {
			name = "(" + name + ")"
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

// hasVoters waits until a host knows of these, all up. What it asks may be a
// little behind the others.
func hasVoters(t *testing.T, c *host, names string) {
	t.Helper()
	eventually(t, "the voters are "+names, func() bool { return leaderless(voters(c)) == names })
}

func leaderless(s string) string { return strings.ReplaceAll(s, "*", "") }

// revoke has a's etcd refuse b's certificate, and returns b's configuration.
func (c *cluster) revoke(a, b *host) *tls.Config {
	c.t.Helper()
	conf := b.o.Peers.TLS
	leaf, err := x509.ParseCertificate(conf.Certificates[0].Certificate[0])
	if err != nil {
		c.t.Fatal(err)
	}
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(2),
		ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: leaf.SerialNumber, RevocationTime: time.Now()}}}, c.cert, c.key)
	if err == nil {
		err = os.WriteFile(a.o.Peers.CRLFile, crl, 0o600)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return conf
}

// serving starts a host that is open to others.
func (c *cluster) serving(name string) *host {
	c.t.Helper()
	h := c.start(name)
	if err := h.Serve(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	return h
}

// three are three hosts with a vote each.
func (c *cluster) three() (h [3]*host) {
	c.t.Helper()
	h[0] = c.serving("a")
	for i, name := range []string{"b", "c"} {
		h[i+1] = c.start(name, c.join("a"))
		settled(c.t, h[i+1])
		start := time.Now()
		advice, err := h[i+1].Promote(c.t.Context())
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Logf("%s was promoted in %v: %s", name, time.Since(start), advice)
		if (advice != "") != (i == 0) {
			c.t.Errorf("the advice with %d voters: %q", i+2, advice)
		}
	}
	for _, x := range h {
		settled(c.t, x)
		eventually(c.t, x.o.Node+" knows all servers", func() bool { return len(x.client.Endpoints()) == 3 })
	}
	return h
}

// newFreezer forwards connections until it is frozen: then they stay open, and
// nothing passes.
func newFreezer(t *testing.T, from, to netip.AddrPort) *atomic.Bool {
	t.Helper()
	frozen := new(atomic.Bool)
	l, err := net.Listen("tcp", from.String())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { close(done); l.Close() })
	copy := func(dst, src net.Conn) {
		defer dst.Close()
		b := make([]byte, 32<<10)
		for {
			n, err := src.Read(b)
			if frozen.Load() {
				<-done
			}
			if _, werr := dst.Write(b[:n]); err != nil || werr != nil {
				return
			}
		}
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to.String())
			if err != nil {
				in.Close()
				continue
			}
			go copy(in, out)
			go copy(out, in)
		}
	}()
	return frozen
}
