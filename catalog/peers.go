package catalog

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Role is what a host has to do with etcd.
type Role string

// The roles of a host. One that joins is a client; [Catalog.Serve],
// [Catalog.Promote] and [Catalog.Demote] lead from one to another.
const (
	RoleAlone    Role = "alone"    // its own etcd, on a unix socket only
	RoleServer   Role = "server"   // a member of the cluster's etcd, open to other hosts
	RoleClient   Role = "client"   // asks the etcds of servers
	RoleExternal Role = "external" // asks an etcd that is the user's
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
	TLS      *tls.Config // of this host as a client of servers

	// Revoked tells why the certificate of an open connection is not good any
	// more; nil: no certificate is asked about. It is called for each request.
	Revoked func(*x509.Certificate) error
}

func (p *Peers) clientURL() url.URL { return p.url(ClientPort) }
func (p *Peers) peerURL() url.URL   { return p.url(PeerPort) }

func (p *Peers) url(port uint16) url.URL {
	return url.URL{Scheme: "https", Host: netip.AddrPortFrom(p.Addr, port).String()}
}

// configure opens an etcd to the other hosts.
func (p *Peers) configure(c *embed.Config) {
	info := transport.TLSInfo{
		CertFile: p.CertFile, KeyFile: p.KeyFile, TrustedCAFile: p.CAFile, CRLFile: p.CRLFile,
		ClientCertAuth: true,
		// A host with several addresses may come from any of them.
		SkipClientSANVerify: true,
		MinVersion:          tls.VersionTLS13,
	}
	c.ClientTLSInfo, c.PeerTLSInfo = info, info
	c.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ChainUnaryInterceptor(outlived)}
	if p.Revoked != nil {
		c.GRPCAdditionalServerOptions = append(c.GRPCAdditionalServerOptions, revokedOptions(p.Revoked)...)
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

// serverRecord tells the other hosts of a server.
type serverRecord struct {
	Endpoint string `json:"endpoint"`
}

// checkEndpoint reports why a client should not be sent there.
func checkEndpoint(s string) error {
	u, err := url.Parse(s)
	if err != nil {
		return err
	}
	if _, err := netip.ParseAddrPort(u.Host); err != nil || u.Scheme != "https" {
		return fmt.Errorf("endpoint %q: use https://ADDR:PORT", s)
	}
	return nil
}

func (c *Catalog) serverRecord() serverRecord {
	u := c.o.Peers.clientURL()
	return serverRecord{u.String()}
}

// place is where this host finds etcd, as remembered on disk.
type place struct {
	Role    Role       `json:"role"`
	Addr    netip.Addr `json:"addr,omitzero"`     // a server's, as its peers know it
	Servers []string   `json:"servers,omitempty"` // endpoints of the other hosts' etcds, as last heard
}

func placePath(dir string) string { return filepath.Join(dir, "store.json") }

// readPlace reads what role this host has. One without a role has none yet.
func readPlace(dir string) (p place, err error) {
	b, err := os.ReadFile(placePath(dir))
	if errors.Is(err, os.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err == nil && !slices.Contains([]Role{RoleAlone, RoleServer, RoleClient}, p.Role) {
		err = fmt.Errorf("role %q is unknown", p.Role)
	}
	if err != nil {
		return p, fmt.Errorf("read %s, where this host's etcd is: %w; if the file is damaged, write {\"role\":\"server\"} "+
			"into it on a host that serves the store, and on another remove it and join again", placePath(dir), err)
	}
	return p, nil
}

func (p place) write(dir string) error {
	f, err := os.OpenFile(placePath(dir)+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(encode(p))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), placePath(dir))
}

// HasPlace tells whether a host whose state is in that folder has taken a place
// among others: as a client, or as a server. One that is alone has not, nor has
// one whose joining broke off.
func HasPlace(dir string) (bool, error) {
	p, err := readPlace(dir)
	return p.Role != "" && p.Role != RoleAlone, err
}

// settle finds this host's role, starts its etcd if it has one, and makes the
// client.
func (c *Catalog) settle() (err error) {
	o := &c.o
	if len(o.Etcd) > 0 {
		c.place.Role = RoleExternal
		if c.client, err = c.dial(o.Etcd, &c.conns); err != nil {
			return fmt.Errorf("etcd at %v: %w; check the endpoints, host:port or https://host:port", o.Etcd, err)
		}
		return nil
	}
	if c.place, err = readPlace(o.StateDir); err != nil {
		return err
	}
	if c.place.Role == "" {
		c.place.Role = RoleAlone
		if len(o.Join) > 0 {
			if _, err := os.Stat(dataDir(o.StateDir)); err == nil {
				return fmt.Errorf("this host has a store of its own in %s, so it cannot join another's cluster; "+
					"move %s away to give it up, and join again", dataDir(o.StateDir), o.StateDir)
			}
			c.place.Role = RoleClient
		}
	}
	for _, endpoint := range o.Join {
		if err := checkEndpoint(endpoint); err != nil {
			return fmt.Errorf("join: %w", err)
		}
		if !slices.Contains(c.place.Servers, endpoint) {
			c.place.Servers = append(c.place.Servers, endpoint)
		}
	}
	if c.place.Role != RoleAlone {
		if o.Peers == nil {
			return fmt.Errorf("this host is a %s of a cluster, and its certificate is missing; join again", c.place.Role)
		}
		if err := c.place.write(o.StateDir); err != nil {
			return err
		}
	}
	if c.place.Role != RoleClient {
		if c.server, err = c.startServer(c.place.Role, nil); err != nil {
			return err
		}
	}
	if c.place.Role == RoleServer {
		c.want[serverKey(o.Self.Name)] = fingerprint(encode(c.serverRecord()))
	}
	c.client, err = c.dial(c.endpoints(), &c.conns)
	return err
}

// dial makes a client of etcd.
func (c *Catalog) dial(endpoints []string, cs *conns) (*clientv3.Client, error) {
	if len(c.o.Etcd) > 0 {
		return newClient(endpoints, c.o.TLS, cs)
	}
	var t *tls.Config
	if c.o.Peers != nil {
		t = c.o.Peers.TLS
	}
	return newClient(endpoints, nil, cs, grpc.WithTransportCredentials(perNetwork{credentials.NewTLS(t)}))
}

func (c *Catalog) startServer(r Role, join map[string]string) (*server, error) {
	sc := serverConfig{dir: c.o.StateDir, name: c.o.Self.Name, join: join, unchecked: c.o.unchecked, unsynced: c.o.unsynced}
	if r == RoleServer {
		sc.peers = c.o.Peers
	}
	return startServer(sc, c.log)
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

// endpoints are where etcd is asked now.
func (c *Catalog) endpoints() []string {
	own := ""
	if c.server != nil && !c.server.apart {
		own = c.server.endpoint
	}
	return choose(own, c.others(), c.records.dead, c.place.Servers, c.found)
}

// others are the endpoints of servers, by host, but for this host's own.
func (c *Catalog) others() map[string]string {
	others := maps.Clone(c.records.servers)
	delete(others, c.o.Self.Name)
	return others
}

// choose picks the endpoints to ask: the own one, and those of the hosts that
// are not dead, and those found. If that is none, the dead ones may do better.
// If no host is known to serve, it is as it was remembered.
func choose(own string, servers map[string]string, dead map[string]time.Time, remembered, found []string) []string {
	var chosen []string
	if own != "" {
		chosen = append(chosen, own)
	}
	chosen = append(chosen, found...)
	if len(servers) == 0 {
		for _, endpoint := range remembered {
			if !slices.Contains(found, endpoint) {
				chosen = append(chosen, endpoint)
			}
		}
		return chosen
	}
	var alive, all []string
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		all = append(all, servers[name])
		if _, is := dead[name]; !is {
			alive = append(alive, servers[name])
		}
	}
	if chosen = append(chosen, alive...); len(chosen) == 0 {
		return all
	}
	return chosen
}

// Found tells a client where etcd may be asked as well, since another host says
// so: endpoints of servers. The servers may have moved while it did not hear of
// it. What the store says of them counts again as soon as it is read there.
func (c *Catalog) Found(endpoints []string) error {
	for _, endpoint := range endpoints {
		if err := checkEndpoint(endpoint); err != nil {
			return err
		}
	}
	c.mu.Lock()
	c.found = slices.Clone(endpoints)
	c.mu.Unlock()
	return c.rewire(nil)
}

// steer has etcd asked where it is, when servers come, go and die.
func (c *Catalog) steer(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.moved:
			if err := c.rewire(nil); err != nil {
				c.log.Warn("the hosts that serve the store could not be written down for a restart", "err", err)
			}
		}
	}
}

// rewire changes what is remembered of this host's place, if change is given,
// and asks etcd where it is to be asked then.
func (c *Catalog) rewire(change func(*place)) error {
	c.wiring.Lock()
	defer c.wiring.Unlock()
	c.mu.Lock()
	p := c.place
	if p.Role == RoleExternal {
		c.mu.Unlock()
		return nil
	}
	if change != nil {
		change(&p)
	}
	if others := slices.Sorted(maps.Values(c.others())); len(others) > 0 {
		p.Servers = others
		c.found = slices.DeleteFunc(c.found, func(endpoint string) bool { return slices.Contains(others, endpoint) })
	}
	save := p.Role != c.place.Role || p.Addr != c.place.Addr || !slices.Equal(p.Servers, c.place.Servers)
	c.place = p
	key := serverKey(c.o.Self.Name)
	delete(c.want, key)
	if p.Role == RoleServer && c.server != nil && !c.server.apart {
		c.want[key] = fingerprint(encode(c.serverRecord()))
	}
	wake(c.unsaved)
	endpoints := c.endpoints()
	var dropped []string // those of dead hosts, unless there are no others
	for name := range c.records.dead {
		if endpoint := c.records.servers[name]; !slices.Contains(endpoints, endpoint) {
			dropped = append(dropped, endpoint)
		}
	}
	c.mu.Unlock()

	if !slices.Equal(endpoints, c.client.Endpoints()) {
		c.client.SetEndpoints(endpoints...)
	}
	for _, endpoint := range dropped {
		c.conns.drop(endpoint)
	}
	if save {
		return p.write(c.o.StateDir)
	}
	return nil
}
