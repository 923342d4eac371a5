package ipvs

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netns"

	"shoal/kernel/ipset"
	"shoal/kernel/ipvs"
	"shoal/kernel/watch"
	"shoal/lb"
	"shoal/lb/host"
	"shoal/model"
)

// DefaultNetns is the sandbox: `ip netns exec shoal-ingress ipvsadm -ln` looks
// into it.
const DefaultNetns = "/run/netns/shoal-ingress"

// Options are the settings of a plane.
type Options struct {
	lb.PlaneOptions
	Netns string // where the sandbox has its name; "": [DefaultNetns]
}

// DefaultTimeouts are longer than the kernel's where those hurt: it forgets a
// TCP connection idle for 900 s, which then hangs. A connection with keepalive
// sends something every 7200 s by default (tcp(7), tcp_keepalive_time).
var DefaultTimeouts = lb.Timeouts{TCP: 7440 * time.Second, TCPFin: 120 * time.Second, UDP: 300 * time.Second}

func (o *Options) fill() {
	o.Pool = o.Pool.Masked()
	if o.Netns == "" {
		o.Netns = DefaultNetns
	}
	if o.Timeouts == (lb.Timeouts{}) {
		o.Timeouts = DefaultTimeouts
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

func (o *Options) timeoutsFile() string { return filepath.Join(o.StateDir, "ipvs-timeouts.json") }
func (o *Options) sandboxParamsFile() string {
	return filepath.Join(o.StateDir, "ingress-sandbox-sysctl.json")
}

// Plane carries frontends by IPVS. It is safe for concurrent use; all calls
// must come from threads in the host's network namespace.
type Plane struct {
	opts Options
	log  *slog.Logger

	mu        sync.Mutex
	base      *lb.Base // nil: no pass yet
	endpoints map[netip.Addr]lb.Endpoint
	withheld  map[lb.Key]*lb.Frontend
	host      *space // the VIPs
	box       *space // the published ports, in the sandbox
	sandbox   sandbox
	auditing  bool // a full pass is not finished
	bridges   bool // tasks or networks of this host changed
	failures  *lb.Failures

	changed <-chan struct{}
	unwatch context.CancelFunc

	standing host.Standing // routes and routing rules

	between sync.Mutex  // held where passing is
	passing *lb.Between // between hosts; nil: not told yet
}

var _ lb.DataPlane = (*Plane)(nil)

// New checks that the kernel can balance, and makes a Plane for the network
// namespace of the calling thread. It changes nothing yet, but loads modules.
// The error says what is missing and how to get it.
func New(opts Options) (*Plane, error) {
	if !opts.Pool.IsValid() || !opts.Pool.Addr().Is4() {
		return nil, fmt.Errorf("pool of VIPs %s: only IPv4 is balanced so far, use a prefix like 10.96.0.0/16", opts.Pool)
	}
	opts.fill()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := os.MkdirAll(opts.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	h, err := ipvs.New(ctx)
	if err != nil {
		return nil, err
	}
	if err := hasSets(); err != nil {
		h.Close()
		return nil, err
	}
	p := &Plane{
		opts: opts, log: opts.Log,
		endpoints: map[netip.Addr]lb.Endpoint{}, withheld: map[lb.Key]*lb.Frontend{},
		host: newSpace(hostSets, newMarks()), box: newSpace(boxSets, portMarks{}),
		sandbox:  sandbox{path: opts.Netns, ns: netns.None()},
		failures: lb.NewFailures(),
	}
	p.host.ours, p.host.table.ipvs = ours, h
	p.box.in = p.sandbox.do
	p.box.wants(setClients, ipset.Entry{Net: linkNet}, 1)
	if opts.DNS.IsValid() {
		p.host.wants(setPing, ipset.Addr(opts.DNS), 1)
	}
	watching, unwatch := context.WithCancel(context.Background())
	p.unwatch = unwatch
	if p.changed, err = watch.Start(watching, interest()); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func hasSets() error {
	if _, err := ipset.Names(); err != nil {
		return model.KernelIncomplete.Errorf("this kernel has no IP sets (%w): run `modprobe ip_set` on the host, or install the package with the kernel's extra modules", err)
	}
	return nil
}

// Close closes what it has open; the kernel stays as it is.
func (p *Plane) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unwatch()
	p.host.table.ipvs.Close()
	p.closeBox()
	p.sandbox.close()
}

// Name is "ipvs".
func (*Plane) Name() string { return "ipvs" }

// Scheduler is the name: IPVS has them all.
func (*Plane) Scheduler(name string) string { return name }

// Changed is signalled when routes, routing rules or the sandbox's link change.
// Of sets and virtual services nothing is told; of rules, see [rules.Watch].
func (p *Plane) Changed() <-chan struct{} { return p.changed }

// RepairRoutes implements [lb.DataPlane].
func (p *Plane) RepairRoutes() error { return p.standing.Repair() }

func interest() watch.Interest {
	in := host.Interest()
	in.Devices = func(name string) bool { return name == hostDev }
	in.Protocols = append(in.Protocols, routeProtocol)
	in.Priorities = append(in.Priorities, rulePriority)
	return in
}

// Redirects tells whether this host redirects a published port already, on all
// of the frontend's addresses.
func (p *Plane) Redirects(f *lb.Frontend) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	held := p.host.held[setPublished.Name]
	for _, e := range redirections(f) {
		if !slices.ContainsFunc(append(every, e.Net), func(n netip.Prefix) bool {
			_, has := held[ipset.Entry{Net: n, Proto: e.Proto, Port: e.Port}]
			return has && n.Contains(e.Net.Addr())
		}) {
			return false
		}
	}
	return true
}

// Held reads what the virtual services, here and in the sandbox, still have to
// do with a task. Connections that one end has closed are looked for where it has no
// others: the kernel goes through all of its own for them, which holds up nobody here.
func (p *Plane) Held(task netip.Addr) (lb.Held, error) {
	held, look, err := p.held(task)
	if err != nil || held.Connections > 0 {
		return held, err
	}
	for _, handle := range look {
		closing, err := handle.Closing()
		if err != nil {
			return lb.Held{}, err
		}
		for addr, n := range closing {
			if addr.Addr() == task {
				held.Connections += n
			}
		}
	}
	return held, nil
}

// held reads what is counted, and tells where there are inactive connections besides.
func (p *Plane) held(task netip.Addr) (held lb.Held, look []*ipvs.Handle, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range []*space{p.host, p.box} {
		h, inactive, err := s.table.held(task)
		if err != nil {
			return lb.Held{}, nil, err
		}
		if held = held.Add(h); inactive {
			look = append(look, s.table.ipvs)
		}
	}
	return held, look, nil
}

// Stats reads the counters of virtual services. The kernel brings them up to date
// every two seconds.
func (p *Plane) Stats(visit func(lb.Key, lb.Stats)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range []*space{p.host, p.box} {
		if s.table.ipvs == nil {
			continue
		}
		found, err := s.table.ipvs.Stats()
		if err != nil {
			return err
		}
		for mark, c := range found {
			if k, known := s.marks.key(mark); known && s.ours(mark) {
				visit(k, lb.Stats{
					Connections: uint64(c.Connections), PacketsIn: uint64(c.PacketsIn), PacketsOut: uint64(c.PacketsOut),
					BytesIn: c.BytesIn, BytesOut: c.BytesOut,
				})
			}
		}
	}
	return nil
}
