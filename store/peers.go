package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// The TCP ports of a server's etcd, both for hosts of the cluster only.
const (
	ClientPort = 2379
	PeerPort   = 2380
)

// Peers says how the embedded etcds of several hosts reach and trust each
// other.
type Peers struct {
	Addr     netip.Addr  // this host's, with which its certificate is good; a server listens there
	CertFile string      // PEM: the certificate, as server and as client; replaced ones are taken up
	KeyFile  string      // PEM
	CAFile   string      // PEM: of all hosts' certificates
	CRLFile  string      // DER: revoked certificates, read at every handshake; "": none. Only servers need it
	TLS      *tls.Config `json:"-"` // of this host as a client of servers

	// RevokedFile tells which certificates of open connections are not good any
	// more, in the words of who calls [RunChild]; "": no certificate is asked about.
	RevokedFile string
}

// Endpoint is where clients find the etcd of a host that serves the store.
func Endpoint(addr netip.Addr) string {
	u := (&Peers{Addr: addr}).clientURL()
	return u.String()
}

func (p *Peers) clientURL() url.URL { return p.url(ClientPort) }
func (p *Peers) peerURL() url.URL   { return p.url(PeerPort) }

func (p *Peers) url(port uint16) url.URL {
	return url.URL{Scheme: "https", Host: netip.AddrPortFrom(p.Addr, port).String()}
}

// configure opens an etcd to the other hosts.
func (p *Peers) configure(c *embed.Config, check func(*x509.Certificate) error) {
	info := transport.TLSInfo{
		CertFile: p.CertFile, KeyFile: p.KeyFile, TrustedCAFile: p.CAFile, CRLFile: p.CRLFile,
		ClientCertAuth: true,
		// A host with several addresses may come from any of them.
		SkipClientSANVerify: true,
		MinVersion:          tls.VersionTLS13,
	}
	c.ClientTLSInfo, c.PeerTLSInfo = info, info
	c.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ChainUnaryInterceptor(recoverStatus)}
	if check != nil {
		c.GRPCAdditionalServerOptions = append(c.GRPCAdditionalServerOptions, revokedOptions(check)...)
	}
	c.ListenClientUrls = append(c.ListenClientUrls, p.clientURL())
	c.AdvertiseClientUrls = []url.URL{p.clientURL()}
	c.ListenPeerUrls = []url.URL{p.peerURL()}
	c.AdvertisePeerUrls = []url.URL{p.peerURL()}
	// What etcd takes for hosts on one network; an election takes 1 to 2 s.
	c.TickMs, c.ElectionMs = 100, 1000
}

// check reports what would keep an etcd from listening.
func (p *Peers) check() error {
	if p == nil || !p.Addr.IsValid() {
		return errors.New("this host has no address and no certificate for other hosts yet")
	}
	if _, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile); err != nil {
		return fmt.Errorf("this host's certificate: %w", err)
	}
	for _, file := range []string{p.CAFile, p.CRLFile} {
		if _, err := os.Stat(file); file != "" && err != nil {
			return fmt.Errorf("the cluster's CA: %w; a server has to have it", err)
		}
	}
	for _, port := range []uint16{ClientPort, PeerPort} {
		l, err := net.Listen("tcp", netip.AddrPortFrom(p.Addr, port).String())
		if err != nil {
			return fmt.Errorf("%w; stop what uses that port, or have shoal use that etcd with --etcd", err)
		}
		l.Close()
	}
	return nil
}

// perNetwork are the credentials of one client for both kinds of listeners of
// embedded etcds: TLS, and nothing on a unix socket, which only root can open.
type perNetwork struct {
	credentials.TransportCredentials
}

func (p perNetwork) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if conn.RemoteAddr().Network() == "unix" {
		return insecure.NewCredentials().ClientHandshake(ctx, authority, conn)
	}
	return p.TransportCredentials.ClientHandshake(ctx, authority, conn)
}

func (p perNetwork) Clone() credentials.TransportCredentials {
	return perNetwork{p.TransportCredentials.Clone()}
}
