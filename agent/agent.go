package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"shoal/api"
	"shoal/catalog"
	"shoal/cluster"
	"shoal/diagnose"
	"shoal/dnsd"
	"shoal/dockerwatch"
	"shoal/events"
	"shoal/fabric"
	"shoal/firewall/firewalld"
	"shoal/ingress"
	"shoal/internal/health"
	"shoal/internal/memory"
	"shoal/kernel/rules"
	"shoal/kernel/watch"
	"shoal/lb"
	"shoal/lb/host"
	"shoal/model"
	"shoal/store"
	"shoal/traffic"
	"shoal/vip"
)

// Agent is shoal on one host.
type Agent struct {
	config   Config
	version  string
	started  time.Time
	log      *slog.Logger
	registry *prometheus.Registry
	metrics  *metrics
	problems *diagnose.Problems
	health   *health.State

	store    *store.Store
	catalog  *catalog.Catalog
	dns      *dnsd.Server
	member   *membership
	plane    *plane
	balancer *lb.Balancer
	fabric   *fabric.Fabric
	ingress  *ingress.Ingress
	policy   *ingress.Policy // which ports labels may publish
	claimer  ingress.Claimer // of publish alone
	watcher  *dockerwatch.Watcher
	vips     *vip.Allocator
	inspect  *diagnose.Inspector
	sampler  *traffic.Sampler
	page     *page // nil: none is served
	events   *events.Log

	firewalld *firewalld.Keeper
	firewall  firewallState

	founded  bool        // this run is the first of a cluster's first host
	network  meshState   // of settleNetwork alone
	holders  portHolders // of answer alone
	balanced bool        // of balance alone: the data plane has had a whole Snapshot, and other ones have nothing in the kernel any more

	engineCame atomic.Int64 // how often it was there again, or for the first time

	mu     sync.Mutex
	engine error // why the engine is away; nil while it is there

	peersMu  sync.Mutex
	peersDNS netip.Addr // where other hosts ask the DNS server
}

// Run is shoal on this host until ctx ends. It leaves the kernel as it is: a
// stopped agent's services go on. The error is a [ConfigError] where a
// setting cannot work.
func Run(ctx context.Context, c Config, version string, log *slog.Logger) error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	if err := c.Check(); err != nil {
		return err
	}
	sv := newSupervisor(log)
	defer context.AfterFunc(ctx, sv.stops)()
	memory.Limit(memory.AgentShare, log)
	go memory.BoundGrowth(ctx)
	w, err := newAddrWatch(&c)
	if err != nil {
		return preflightOf(ctx, &c, err, planesByName{}, log) // that, and all else that keeps it from running
	}
	for {
		err := run(ctx, c, w, version, sv, log)
		moved, follow := (*movedError)(nil), (*followError)(nil)
		switch {
		case ctx.Err() != nil && errors.Is(err, context.Canceled): // while it was starting
			log.Info("agent is stopped; it was waiting still")
			return nil
		case ctx.Err() == nil && errors.As(err, &follow):
			sv.startsAnew("another host has a new store, which this one follows to")
			if err := follow.takeOver(c, log); err != nil {
				return fmt.Errorf("follow to the new store: %w", err)
			}
			continue
		case ctx.Err() != nil || !errors.As(err, &moved):
			return err
		}
		sv.startsAnew("this host has another address")
		log.Warn("this host has another address: starting anew with that", "was", c.Advertise, "is", moved.to)
		c.Advertise = moved.to
		w = &addrWatch{own: moved.to, byDefault: moved.byDefault}
	}
}

// run is shoal on a host for as long as it has its address, else the error is a
// [movedError]. The address is in the certificate, in what listens and in what
// other hosts have of this one: a new start is the way to change it everywhere,
// and leaves alone what it finds right in the kernel.
func run(ctx context.Context, c Config, w *addrWatch, version string, sv *supervisor, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	planes := planesByName{}
	if err := preflightOf(ctx, &c, nil, planes, log); err != nil {
		return err
	}
	socket, err := api.Listen(c.RunDir)
	if err != nil {
		return err
	}
	defer socket.Close()
	g, ctx := errgroup.WithContext(ctx)
	var a *Agent
	h := health.New(readyParts...)
	g.Go(func() error { sv.follow(ctx, h, func() string { return a.statusText() }); return nil })
	door := new(api.Starting)
	waitsFor := func(format string, args ...any) {
		door.WaitsFor(format, args...)
		sv.waitsFor(format, args...)
	}
	g.Go(func() error { return api.Serve(ctx, socket, door, log) })

	problems := diagnose.NewProblems(c.Node, log)
	g.Go(func() error { return w.watch(ctx, c.Node, problems) })
	a, err = newAgent(ctx, c, planes, problems, version, h, log, waitsFor)
	if err != nil {
		cancel()
		return cmp.Or(g.Wait(), err)
	}
	defer a.close()
	log.Info("agent is up", "version", version, "node", c.Node, "addr", c.Advertise, "pool", c.Pool, "dns", c.DNS)
	door.Ready(api.Handler(a.backend()))
	sv.waitsFor("the engine, and to know which hosts are alive")
	if c.MetricsAddr != "" {
		metrics := a.metricsHandler()
		g.Go(func() error {
			return a.listening(ctx, "metrics-addr", c.MetricsAddr, func(ctx context.Context, l net.Listener) error {
				return serveMetrics(ctx, l, c.MetricsWebConfig, metrics, a.alive, a.ready, log.With("part", "metrics"))
			})
		})
	}
	if a.page != nil {
		g.Go(func() error { return a.listening(ctx, "ui-addr", c.UIAddr, a.serveUI) })
	}
	if c.TellManagers {
		tellManagers(ctx, g, log)
	}
	g.Go(func() error { return a.watch(ctx) })
	g.Go(func() error { return a.takePart(ctx, g) })
	g.Go(func() error { return a.watchLimits(ctx) })
	g.Go(func() error { return a.watchOutside(ctx) })
	g.Go(func() error { a.watchStore(ctx); return nil })
	g.Go(func() error { a.watchEvents(ctx); return nil })
	if err := a.dns.Start(ctx); err != nil {
		return err
	}
	defer a.dns.Shutdown()
	changed := map[string]<-chan struct{}{}
	for part, in := range map[string]watch.Interest{"fabric": fabric.Interest(), "ingress": ingress.Interest(), "lb": host.Interest()} {
		if changed[part], err = watch.Start(ctx, in); err != nil {
			return err
		}
	}
	for _, part := range []string{"fabric", "lb"} { // those that keep rules of iptables
		iptables, err := rules.Watch(ctx)
		if err != nil {
			return err
		}
		changed[part] = watch.Any(ctx, changed[part], iptables)
	}
	a.follow(ctx, g, "vip", 0, nil, a.vips.Reconcile)
	a.follow(ctx, g, "dnsd", 0, nil, a.answer)
	a.follow(ctx, g, "network", 0, nil, a.settleNetwork)
	a.follow(ctx, g, "fabric", c.Repair, watch.Any(ctx, changed["fabric"], a.fabric.Proved(), a.firewalld.Changed()), a.fabric.Reconcile)
	g.Go(func() error { return a.fabric.Prove(ctx) })
	a.follow(ctx, g, "publish", 0, nil, a.publish)
	a.follow(ctx, g, "firewall", c.Repair, a.firewalld.Changed(), a.passFirewalls)
	// The next two give connections to other hosts' tasks: not before it is
	// known which of those hosts live.
	g.Go(func() error {
		select {
		case <-ctx.Done():
		case <-a.member.judged:
			lb := watch.First(ctx, watch.Any(ctx, changed["lb"], a.plane.Changed(), a.ingress.Occupied(ctx), a.member.doors.changed, a.firewalld.Changed()), func() {
				if err := a.plane.RepairRoutes(); err != nil { // the pass that follows tells
					log.Debug("put routes back", "error", err)
				}
			})
			a.follow(ctx, g, "lb", c.Repair, lb, a.balance)
			a.follow(ctx, g, "ingress", c.Repair, watch.Any(ctx, changed["ingress"], a.fabric.Moved()), a.ingress.Reconcile)
		}
		return nil
	})
	err = g.Wait()
	a.member.stop()
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		log.Info("agent is stopped; names aside, services go on without it")
		return nil
	}
	return err
}

// newAgent makes the parts. What it waits for meanwhile is told by waitsFor.
func newAgent(ctx context.Context, c Config, planes planesByName, problems *diagnose.Problems, version string, h *health.State, log *slog.Logger, waitsFor func(string, ...any)) (*Agent, error) {
	waitsFor("the kernel's tables")
	a := &Agent{
		config: c, version: version, started: time.Now(), log: log,
		registry:  prometheus.NewRegistry(),
		problems:  problems,
		events:    events.NewLog(),
		health:    h,
		engine:    errors.New("not asked yet"),
		firewalld: firewalld.New(c.StateDir, log.With("part", "firewall")),
		network:   newNetwork(),
	}
	reserved := []netip.Addr{c.DNS, c.DNSPeers}

	var err error
	if a.plane, err = openPlane(ctx, c.DataPlane, planes, c.planeOptions(log)); err != nil {
		return nil, err
	}
	log.Info("data plane is chosen", "plane", a.plane.Name(), "why", a.plane.why)
	if err := a.plane.leadSockets(&c, c.planeOptions(log), log); err != nil {
		return nil, err
	}
	if a.policy, err = c.policy(); err != nil {
		return nil, &ConfigError{err}
	}
	ingressOptions := c.ingress(log)
	ingressOptions.Policy = a.policy
	if a.ingress, err = ingress.New(ingressOptions); err != nil {
		return nil, err
	}
	if a.balancer, err = lb.New(lb.Options{
		DNS: c.DNS, DNSPeers: c.DNSPeers, DNSPorts: a.dnsPorts, Recognise: c.recognise, Admit: a.ingress.Admit, Guard: a.guard, Log: log.With("part", "lb"),
	}, a.plane); err != nil {
		return nil, err
	}
	etcdTLS, err := c.etcdTLS()
	if err != nil {
		return nil, err
	}
	var upstreams []netip.AddrPort
	for _, u := range c.Upstreams {
		ap, err := parseUpstream(u)
		if err != nil {
			return nil, err
		}
		upstreams = append(upstreams, ap)
	}
	if a.dns, err = dnsd.New(dnsd.Options{
		Zone: c.Zone, Listen: []netip.AddrPort{netip.AddrPortFrom(c.DNS, lb.DNSPort)}, SparePort: spareDNSPort, Pool: c.Pool,
		Subnets: c.SubnetPool, FlatNames: c.FlatNames,
		Upstreams: upstreams, ResolvConf: c.ResolvConf, Log: log.With("part", "dnsd"), Registerer: a.registry,
		Health: h,
	}); err != nil {
		return nil, err
	}
	if a.watcher, err = dockerwatch.New(dockerwatch.Options{
		Host: c.Docker, Node: c.Node, NodeAddr: func() netip.Addr { return c.Advertise },
		Pool: c.Pool, Reserved: reserved, Reached: a.reached, Ready: c.Ready, Recorded: a.recorded,
		Log: log.With("part", "dockerwatch"), Registerer: a.registry, Health: h,
	}); err != nil {
		return nil, &ConfigError{err}
	}
	if a.fabric, err = fabric.New(fabric.Options{
		Backend: c.Backend, VNI: c.VNI, Port: c.VXLANPort, ChecksumOff: c.NoOffload, Prove: true,
		Firewall: a.plane, Log: log.With("part", "fabric"),
	}); err != nil {
		return nil, &ConfigError{err}
	}
	if err := a.openCatalog(ctx, etcdTLS, waitsFor); err != nil {
		return nil, err
	}
	a.vips = vip.New(vip.Options{Pool: c.Pool, Reserved: reserved, ReclaimIdle: c.VIPReclaim, Rest: c.VIPRest}, a.catalog)
	if a.page, err = newPage(&a.config, a.member.id.Certificate); err != nil {
		return nil, errors.Join(err, a.closeStore())
	}
	a.metrics = newMetrics(a.registry, a)
	return a, nil
}

// openCatalog opens the store and the catalog in it, and finds out who this host is in the cluster;
// which of them is first depends on whose etcd it is.
func (a *Agent) openCatalog(ctx context.Context, etcdTLS *tls.Config, waitsFor func(string, ...any)) error {
	c, log := a.config, a.log.With("part", "cluster")
	o := store.Options{Node: c.Node, StateDir: c.StateDir, Etcd: c.Etcd, TLS: etcdTLS, Log: a.log.With("part", "store")}
	var id *cluster.Identity
	var err error
	if len(c.Etcd) == 0 {
		if len(c.Join) > 0 {
			waitsFor("%s to let it join", strings.Join(c.Join, ", "))
		}
		if id, o.Join, a.founded, err = identify(ctx, c, log); err != nil {
			return err
		}
		f := id.Files()
		o.Peers = &store.Peers{
			Addr: c.Advertise, CertFile: f.Cert, KeyFile: f.Key, CAFile: f.CA, TLS: id.ClientTLS(),
			CRLFile: f.CRL, RevokedFile: f.Revoked,
		}
	}
	waitsFor("the store: its etcd's start")
	if a.store, err = store.Open(ctx, o); err != nil {
		return err
	}
	co := catalog.Options{
		Self: model.Node{Name: c.Node, Addr: c.Advertise, Settings: c.Shared(), Alive: true}, StateDir: c.StateDir,
		Client: a.store.Client(), RemoveServer: a.store.RemoveServer, Rest: c.VIPRest, Applies: true,
		Log: a.log.With("part", "catalog"), Registerer: a.registry, Health: a.health,
	}
	if c.Network == meshNetwork {
		co.SubnetPool = c.SubnetPool // else each host has what its engine has
	}
	if store.WasRestored(c.StateDir) {
		co.Settle = settleTime
	}
	if co.Run, err = thisRun(); err != nil {
		log.Warn("a clone of this machine would not be noticed", "error", err)
	}
	co.Report = func(ps []model.Problem) { a.problems.Set("catalog", ps) }
	if a.catalog, err = catalog.Open(ctx, co); err != nil {
		return errors.Join(err, a.store.Close())
	}
	if id == nil {
		waitsFor("the etcd at %s", strings.Join(c.Etcd, ", "))
		id, err = identifyByStore(ctx, c, a.catalog.KV(), etcdTLS, log)
	} else if len(c.Join) > 0 && a.store.Role() == store.RoleAlone {
		err = badSetting("--join: this host runs a cluster of its own already, kept in %s: stop the agent and remove that folder to join another", c.StateDir)
	}
	if err != nil {
		return errors.Join(err, a.closeStore())
	}
	a.member = newMembership(c, id, a.store, a.catalog, log)
	a.inspect, a.sampler = a.inspector(), a.newSampler()
	a.member.ways, a.member.report = a.fabric.Ways, a.problems.Set
	a.member.tasks, a.member.trace, a.member.told = a.held, a.inspect.Part, a.told
	a.member.see = a.inspect.See
	a.member.counted = a.counted
	return nil
}

// guard is what is guarded of the agents' ports; nothing before it is known.
func (a *Agent) guard() lb.Guard {
	if a.member == nil {
		return lb.Guard{}
	}
	return a.member.guard()
}

// ingress are the settings of the routing mesh.
func (c *Config) ingress(log *slog.Logger) ingress.Options {
	return ingress.Options{Pool: c.Pool, Recognise: c.recognise, StateDir: c.StateDir, Log: log.With("part", "ingress")}
}

// recognise tells by which Ethernet addresses a host's packets come to this one.
func (c *Config) recognise(n model.Node) []model.MAC { return fabric.Senders(c.Backend, n) }

// close closes the store and what is open of the kernel, which stays as it is.
func (a *Agent) close() {
	if err := a.closeStore(); err != nil {
		a.log.Warn("close the store", "error", err)
	}
	a.plane.Close()
	a.firewalld.Close()
}

func (a *Agent) closeStore() error {
	a.catalog.Close()
	return a.store.Close()
}

// settleTime is how long a host whose store was restored waits for the other hosts:
// their clients of etcd try again within two seconds.
const settleTime = 3 * time.Second

// takePart begins this host's part in the cluster once its own containers are
// known: other hosts take its answer as word that its tasks are what the store
// says. The store may not answer yet: which of the other hosts live is looked at
// meanwhile.
func (a *Agent) takePart(ctx context.Context, g *errgroup.Group) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.catalog.LocalKnown():
	}
	if len(a.catalog.Peers()) == 0 { // none that is known from the last run
		select {
		case <-ctx.Done():
			return nil
		case <-a.catalog.Watch(ctx):
		}
	}
	if err := a.member.start(ctx, g); err != nil {
		return fmt.Errorf("take part in the cluster: %w", err)
	}
	if store.WasRestored(a.config.StateDir) {
		select {
		case <-ctx.Done():
			return nil
		case <-a.catalog.Watch(ctx):
		}
		if err := store.ForgetRestored(a.config.StateDir); err != nil {
			return fmt.Errorf("take part in the cluster: %w", err)
		}
	}
	if a.founded { // the command itself holds a secret: it is no log's
		a.log.Info("this host is the first of a new cluster; other hosts join by the command that this prints here", "command", "sudo shoal token create")
	}
	return nil
}

// watch tells the catalog of this host's containers for as long as ctx lasts.
func (a *Agent) watch(ctx context.Context) error {
	return a.watcher.Run(ctx, a.catalog.SetLocal, func(err error) {
		a.mu.Lock()
		a.engine = err
		a.mu.Unlock()
		a.problems.Set("engine", engineProblems(a.config.Docker, err))
		if err == nil {
			a.engineCame.Add(1)
		}
		if err != nil && a.catalog.RestoreLocal() {
			a.log.Info("the engine is away: going on with the containers it last had", "error", err)
		}
	})
}

// recorded is a container of this host as the last run of the agent knew it.
func (a *Agent) recorded(id string) (model.Container, bool) { return a.catalog.Recorded(id) }

// reached tells whether there are other hosts, and they reach an address of a
// container of this one.
func (a *Agent) reached(addr netip.Addr) bool {
	s := a.catalog.Snapshot()
	return s != nil && len(s.Nodes) > 1 && s.Self.Subnet.Contains(addr)
}
