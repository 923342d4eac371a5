package dnsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"shoal/internal/health"
	"shoal/model"
)

// Options are the settings of a Server. Zone and Listen are needed, the rest
// has defaults.
type Options struct {
	Zone   string           // "mesh.internal"; at most 55 characters
	Listen []netip.AddrPort // for UDP and TCP; never unspecified; port 0 takes a free one

	// SparePort is where an address is listened on whose own port is somebody
	// else's; a free one of the kernel's choice if that one is as well. Then clients
	// have to be led there: [Server.Displaced] tells which. 0: a port that is taken
	// is an error.
	SparePort uint16

	Pool  netip.Prefix   // of VIPs: its reverse zone is ours
	Allow []netip.Prefix // who may ask besides the mesh, such as the host's other addresses

	// Subnets are those that hosts of the mesh have, or may get, for their
	// containers: no name of others leads there. Those that hosts have already
	// count without being named.
	Subnets []netip.Prefix

	// FlatNames has a name without a stack mean the only service of that name, in
	// whichever stack that is, where neither the asker's stack nor "default" has
	// one. Whoever may choose labels then may take names that nobody has yet.
	FlatNames bool

	Upstreams  []netip.AddrPort // who is asked for foreign names; none: the file's nameservers
	ResolvConf string           // default /etc/resolv.conf; read again when it changes

	TTL       time.Duration // of our own names, in whole seconds; default 5 s
	Timeout   time.Duration // for a forwarded question as a whole; default 4 s
	CacheSize int           // in answers, of at most 4 KiB each; default 4096

	Log        *slog.Logger          // default slog.Default
	Registerer prometheus.Registerer // nil: counters are kept, and shown nowhere
	Health     *health.State         // has the loops watched that take questions in; nil: nobody does
}

// Bounds that nobody has asked to set.
const (
	maxInFlight, maxInFlightEach = 1024, 128        // forwarded questions; of one client
	maxConns, maxConnsEach       = 256, 32          // TCP connections; of one client
	tcpIdle                      = 10 * time.Second // without a whole question (RFC 7766 section 6.2.3), or to take an answer
	maxPipelined                 = 64               // questions of one connection under way
	stuckAfter                   = time.Minute      // without a beat of a loop that takes questions in
)

func (o *Options) ttl() uint32 { return uint32(o.TTL / time.Second) }

// serverAddrs are the addresses the server answers on.
func (o *Options) serverAddrs() []netip.Addr {
	var as []netip.Addr
	for _, l := range o.Listen {
		if !slices.Contains(as, l.Addr()) {
			as = append(as, l.Addr())
		}
	}
	return as
}

// Server answers DNS questions from the newest Snapshot it was given. Before
// the first one it is silent over UDP, and answers SERVFAIL over TCP.
type Server struct {
	opt       Options
	zone      zone
	metrics   *metrics
	forwarder *forwarder
	inFlight  *limiter // of forwarded questions
	conns     *limiter // of TCP
	cancel    context.CancelFunc
	idle      time.Duration // tcpIdle; shorter in tests
	tasks     sync.WaitGroup

	binding   sync.Mutex
	bound     []netip.AddrPort
	displaced map[netip.AddrPort]uint16

	update sync.Mutex // held by Update
	table  atomic.Pointer[table]
}

// New checks the options and makes a server, which does not answer before
// [Server.Start].
func New(o Options) (*Server, error) {
	o.ResolvConf = orDefault(o.ResolvConf, "/etc/resolv.conf")
	o.TTL = orDefault(o.TTL, 5*time.Second)
	o.Timeout = orDefault(o.Timeout, 4*time.Second)
	o.CacheSize = orDefault(o.CacheSize, 4096)
	o.Log = orDefault(o.Log, slog.Default())
	z, err := parseName(o.Zone)
	switch {
	case err != nil:
		return nil, fmt.Errorf("DNS zone: %w", err)
	case z.labels == 0 || z.size > maxZone:
		return nil, fmt.Errorf("DNS zone %q: it needs a label, and at most %d characters", o.Zone, maxZone-2)
	case len(o.Listen) == 0:
		return nil, errors.New("DNS: no address to listen on")
	case o.TTL < time.Second || o.Timeout < 0 || o.CacheSize < 0:
		return nil, fmt.Errorf("DNS: TTL %s, timeout %s and cache size %d: at least 1s, 0 and 0", o.TTL, o.Timeout, o.CacheSize)
	}
	for _, l := range o.Listen {
		if !l.Addr().IsValid() || l.Addr().IsUnspecified() || l.Addr().Is4In6() {
			return nil, fmt.Errorf("DNS: listen on %s: name each address, as answers must come from the one that was asked", l)
		}
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	c, err := newCache(o.CacheSize)
	if err != nil {
		return nil, err
	}
	guard, err := newRebindGuard(o.Log, m)
	if err != nil {
		return nil, err
	}
	s := &Server{
		opt: o, zone: zone{name: z, pool: o.Pool.Masked()}, metrics: m,
		inFlight: newLimiter(maxInFlight, maxInFlightEach),
		conns:    newLimiter(maxConns, maxConnsEach),
		idle:     tcpIdle,
	}
	s.forwarder = &forwarder{
		timeout: o.Timeout, cache: c, metrics: m, log: o.Log, guard: guard,
		upstreams: &upstreams{fixed: o.Upstreams, path: o.ResolvConf, log: o.Log, own: s.isOwn},
	}
	s.forwarder.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// isOwn tells the addresses that would ask ourselves: those we listen on,
// and all VIPs, behind which other hosts' servers are.
func (s *Server) isOwn(a netip.AddrPort) bool {
	return s.zone.pool.Contains(a.Addr()) || slices.Contains(s.opt.Listen, a) || slices.Contains(s.Addrs(), a) || s.Displaced()[a] != 0
}

// Update makes the answers of a Snapshot those that are given from now on.
func (s *Server) Update(snap *model.Snapshot) {
	s.update.Lock()
	defer s.update.Unlock()
	old := s.table.Load()
	s.table.Store(buildTable(&s.opt, &s.zone, snap, old))
	if old != nil && model.Shared(old.snap.Nodes, snap.Nodes) {
		return
	}
	if s.forwarder.guard.protect(meshAddrs(&s.opt, snap)) {
		s.forwarder.cache.lru.Purge()
	}
}

// Start binds all addresses, whether or not this host has them yet, and
// answers until ctx ends or [Server.Shutdown] is called. An error names the
// address that could not be bound; nothing is bound then.
func (s *Server) Start(ctx context.Context) error {
	var all []*sockets
	for _, addr := range s.opt.Listen {
		k, err := s.bind(ctx, addr)
		if err != nil {
			for _, k := range all {
				k.close()
			}
			return err
		}
		all = append(all, k)
	}
	for _, k := range all {
		s.serve(k)
	}
	context.AfterFunc(ctx, s.cancel)
	return nil
}

// Listen binds one more address, whether or not this host has it yet, and
// answers on it as well. It must not be called after Shutdown.
func (s *Server) Listen(ctx context.Context, addr netip.AddrPort) error {
	k, err := s.bind(ctx, addr)
	if err != nil {
		return err
	}
	s.serve(k)
	return nil
}

// sockets are those of one address.
type sockets struct {
	want netip.AddrPort // where clients ask, if that is elsewhere
	addr netip.AddrPort // where they are bound
	udp  []*net.UDPConn
	tcp  net.Listener
}

func (k *sockets) close() {
	for _, c := range k.udp {
		c.Close()
	}
	if k.tcp != nil {
		k.tcp.Close()
	}
}

// bind binds the address, or, where its port is taken, another port of it. A
// socket for one address cannot be bound beside one for all addresses, whichever
// device it is for (inet_bind_conflict in the kernel's inet_connection_sock.c), unless
// the other permits it, and for TCP not even then.
func (s *Server) bind(ctx context.Context, addr netip.AddrPort) (*sockets, error) {
	k, err := bind(ctx, addr)
	if !errors.Is(err, unix.EADDRINUSE) || s.opt.SparePort == 0 {
		return k, err
	}
	for _, port := range []uint16{s.opt.SparePort, 0} {
		if other, err := bind(ctx, netip.AddrPortFrom(addr.Addr(), port)); err == nil {
			other.want = addr
			s.opt.Log.Warn("another process has the port of the DNS server: it answers on another", "address", addr, "port", other.addr.Port())
			return other, nil
		} else if !errors.Is(err, unix.EADDRINUSE) {
			return nil, err
		}
	}
	return nil, err
}

func bind(ctx context.Context, addr netip.AddrPort) (*sockets, error) {
	k := &sockets{addr: addr}
	for range runtime.GOMAXPROCS(0) {
		c, err := listenUDP(ctx, k.addr)
		if err != nil {
			k.close()
			return nil, fmt.Errorf("DNS: listen on %s/udp: %w", k.addr, err)
		}
		k.udp = append(k.udp, c)
		k.addr = c.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	lc := net.ListenConfig{Control: control(unix.SO_REUSEADDR)}
	var err error
	if k.tcp, err = lc.Listen(ctx, "tcp"+version(k.addr), k.addr.String()); err != nil {
		k.close()
		return nil, fmt.Errorf("DNS: listen on %s/tcp: %w", k.addr, err)
	}
	return k, nil
}

func (s *Server) serve(k *sockets) {
	s.binding.Lock()
	s.bound = append(slices.Clip(s.bound), k.addr)
	if k.want.IsValid() {
		all := map[netip.AddrPort]uint16{k.want: k.addr.Port()}
		maps.Copy(all, s.displaced)
		s.displaced = all
	}
	s.binding.Unlock()
	for _, c := range k.udp {
		s.tasks.Go(func() { s.serveUDP(c) })
	}
	s.tasks.Go(func() { s.serveTCP(k.tcp) })
	context.AfterFunc(s.forwarder.ctx, k.close)
}

// Addrs are the addresses that are bound.
func (s *Server) Addrs() []netip.AddrPort {
	s.binding.Lock()
	defer s.binding.Unlock()
	return s.bound
}

// Displaced are the addresses whose port somebody else has, and the port on which
// they are answered on instead. An address stays so until the server is made anew,
// also when its port is free again: who had it may be about to take it back. The
// map is not to be changed.
func (s *Server) Displaced() map[netip.AddrPort]uint16 {
	s.binding.Lock()
	defer s.binding.Unlock()
	return s.displaced
}

// Shutdown stops answering and returns when the last question under way has ended.
func (s *Server) Shutdown() {
	s.cancel()
	s.tasks.Wait()
}

func version(a netip.AddrPort) string {
	return [2]string{"4", "6"}[family(a.Addr())]
}

// listenUDP binds one of several sockets of an address: the kernel spreads
// clients over them.
func listenUDP(ctx context.Context, a netip.AddrPort) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: control(unix.SO_REUSEPORT)}
	c, err := lc.ListenPacket(ctx, "udp"+version(a), a.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// control sets a socket option, and lets the socket be bound to an address
// that is not there yet: the balancer makes VIPs local, perhaps after us.
func control(option int) func(network, _ string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) {
			if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, 1); err != nil {
				return
			}
			if network[len(network)-1] == '6' {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
			} else {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
			}
		})
		return errors.Join(cerr, err)
	}
}

func (s *Server) serveUDP(c *net.UDPConn) {
	in := make([]byte, maxQuestion+1) // the kernel cuts a datagram that is longer, and it still shows as too long
	out := make([]byte, udpSize)
	beat := s.watch(c.SetReadDeadline)
	defer beat.stop()
	for {
		n, from, err := c.ReadFromUDPAddrPort(in)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			beat.due(err)
			continue // an error of one datagram
		}
		if s.table.Load() == nil {
			continue // asked again in a second; told SERVFAIL, many a resolver tries its five times at once
		}
		asker := from.Addr().Unmap().WithZone("")
		if n, ok := s.fast(out, in[:n], asker, false); ok {
			c.WriteToUDPAddrPort(out[:n], from) // what is lost is asked again
			continue
		}
		s.slow(slices.Clone(in[:n]), asker, false, func(answer []byte) {
			if answer != nil {
				c.WriteToUDPAddrPort(answer, from)
			}
		})
	}
}
