package nft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"

	"shoal/kernel"
	"shoal/kernel/watch"
	"shoal/lb"
	"shoal/lb/host"
)

// Plane keeps the table of one network namespace. It is a [lb.DataPlane].
type Plane struct {
	opts lb.PlaneOptions
	log  *slog.Logger

	standing host.Standing // routes

	mu  sync.Mutex
	c   *conn
	lib *nftables.Conn
	mon *monitor

	unwatch context.CancelFunc

	// What is wanted.
	begun     bool // by a first Reconcile: before it, frontends are not known
	around    surroundings
	frontends map[lb.Key]*lb.Frontend
	withheld  map[lb.Key]*lb.Frontend // published ports that this host does not take
	endpoints map[netip.Addr]lb.Endpoint
	resting   map[netip.Addr]bool

	have     state
	former   former
	reaper   reaper
	closing  chan struct{}
	closed   sync.Once
	carried  map[lb.Key]bool // frontends that had flows before they were counted
	draining map[lb.Key]bool // frontends with a draining backend
	look     time.Duration   // until they are looked at
	idle     map[leaver]bool // draining backends that hold nothing any more
	failing  *lb.Failures
}

// state is what the kernel has, as last read and written since.
type state struct {
	known      bool   // else nothing of this is true
	generation uint32 // of nf_tables, while nobody else has written since all was read; 0: somebody has
	structure  structure
	around     *surroundings // by which its rules and their sets are
	frontends  map[lb.Key]*frontend
	withheld   map[lb.Key]*lb.Frontend
	endpoints  map[netip.Addr]lb.Endpoint
	resting    map[netip.Addr]bool
	shared     map[*set]map[string]int // entries that several frontends may want: how many do
	pool       *pool
	taken      map[string]bool // keys of services that are published ports
}

var _ lb.DataPlane = (*Plane)(nil)

// New makes a Plane for the network namespace of the calling thread. It changes
// nothing yet. The error says what the kernel lacks.
func New(opts lb.PlaneOptions) (*Plane, error) {
	if !opts.Pool.IsValid() || !opts.Pool.Addr().Is4() {
		return nil, fmt.Errorf("pool of VIPs %s: only IPv4 is balanced so far, use a prefix like 10.96.0.0/16", opts.Pool)
	}
	opts.Pool = opts.Pool.Masked()
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(opts.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	p := &Plane{
		opts: opts, log: opts.Log, failing: lb.NewFailures(),
		around:    surroundings{opts: opts, base: &lb.Base{Alone: true}, zoned: hasZones()},
		frontends: map[lb.Key]*lb.Frontend{}, withheld: map[lb.Key]*lb.Frontend{}, endpoints: map[netip.Addr]lb.Endpoint{},
		resting:  map[netip.Addr]bool{},
		draining: map[lb.Key]bool{}, idle: map[leaver]bool{},
		closing: make(chan struct{}), carried: map[lb.Key]bool{},
	}
	if err := p.connect(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// connect opens the sockets, anew if they are open.
func (p *Plane) connect() (err error) {
	p.disconnect()
	if p.c, err = open(); err != nil {
		return err
	}
	var port uint32
	if p.lib, port, err = library(); err != nil {
		return err
	}
	if p.reaper.c == nil {
		if p.reaper.c, err = open(); err != nil {
			return err
		}
	}
	if p.mon == nil {
		if p.mon, err = newMonitor(); err != nil {
			return err
		}
		watching, unwatch := context.WithCancel(context.Background())
		p.unwatch = unwatch
		changed, err := watch.Start(watching, interest())
		if err != nil {
			return err
		}
		go p.mon.also(changed)
	}
	p.mon.own(p.c.port, port)
	return nil
}

// interest is what of the host's routing the plane stands on: a tunnel's device
// that comes must be told what [Plane.ensureDevices] tells.
func interest() watch.Interest {
	in := host.Interest()
	in.Devices = func(name string) bool { return strings.HasPrefix(name, tunnelDevices) }
	return in
}

func (p *Plane) disconnect() {
	if p.c != nil {
		p.c.Close()
	}
	if p.lib != nil {
		p.lib.CloseLasting()
	}
	p.c, p.lib = nil, nil
}

// Name is "nftables".
func (*Plane) Name() string { return "nftables" }

// Changed is signalled when somebody else changed the table or a route that the
// plane stands on. Rules of iptables are not among them: see [rules.Watch].
func (p *Plane) Changed() <-chan struct{} { return p.mon.changed }

// RepairRoutes implements [lb.DataPlane].
func (p *Plane) RepairRoutes() error { return p.standing.Repair() }

// Close closes what it has open; the kernel stays as it is.
func (p *Plane) Close() { p.closed.Do(p.close) }

func (p *Plane) close() {
	close(p.closing)
	p.reaper.running.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.disconnect()
	if p.reaper.c != nil {
		p.reaper.c.Close()
	}
	if p.mon != nil {
		p.unwatch()
		p.mon.close()
	}
}

// Between takes in what passes between this host's containers and others.
func (p *Plane) Between(ctx context.Context, b lb.Between) (changed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := kernel.Total()
	if !p.around.told {
		p.have.known = false
	}
	p.around.between, p.around.told = b, true
	err = p.retried(func() error {
		if !p.begun {
			return p.early()
		}
		return p.apply(nil, nil, nil, time.Now())
	})
	return kernel.Total() > before, err
}

// Redirects tells whether the host takes connections for a published port, on
// all of its addresses.
func (p *Plane) Redirects(f *lb.Frontend) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.have.taken == nil {
		if _, err := p.read(); errors.Is(err, errOtherVersion) {
			p.have.taken = map[string]bool{}
		} else if err != nil {
			return false
		}
	}
	if every := frontendKey(f.Key); p.have.taken[string(every)] {
		return true
	}
	for _, k := range (&frontend{Frontend: f}).services() {
		if !p.have.taken[string(k)] {
			return false
		}
	}
	return true
}

// Reconcile takes in a change and writes it.
func (p *Plane) Reconcile(ctx context.Context, d lb.Delta, full bool) lb.Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.begun = true
	if d.Base != nil {
		p.around.base = d.Base
	}
	dirty := map[lb.Key]bool{}
	for k, f := range d.Frontends {
		dirty[k] = true
		if f == nil {
			delete(p.frontends, k)
		} else {
			p.frontends[k] = f
		}
	}
	for k, f := range d.Withheld {
		dirty[k] = true
		if f == nil {
			delete(p.withheld, k)
		} else {
			p.withheld[k] = f
		}
	}
	var moved []netip.Addr
	for a, e := range d.Endpoints {
		moved = append(moved, a)
		if e == nil {
			delete(p.endpoints, a)
		} else {
			p.endpoints[a] = *e
		}
	}
	for a, rests := range d.Resting {
		if delete(p.resting, a); rests {
			p.resting[a] = true
		}
	}
	if full {
		p.forgetUnlessSame()
	}
	p.drain(dirty, now)
	err := p.retried(func() error {
		if full {
			if err := p.lookForEngine(); err != nil {
				return err
			}
		}
		return p.apply(dirty, moved, slices.Collect(maps.Keys(d.Resting)), now)
	})
	p.failing.Put(lb.Object{Part: "nftables"}, err, now)
	if full {
		p.ensure(ctx, now)
	}
	if full || d.Base != nil || len(d.Endpoints) > 0 {
		p.ensureDevices(now)
	}
	return lb.Result{Next: p.next(now), Failures: p.failing.List(lb.Object.Compare)}
}

// retried does something again if somebody else got in between: then what is
// known of the kernel is read anew.
func (p *Plane) retried(do func() error) (err error) {
	for range 3 {
		if err = do(); err == nil {
			return nil
		}
		p.have.known = false
		if err := p.connect(); err != nil { // answers to what failed may still be under way
			return err
		}
	}
	return err
}

// forgetUnlessSame has the kernel read back, unless it tells that nobody has
// changed anything of the table since it was.
func (p *Plane) forgetUnlessSame() {
	gen, err := p.c.generation()
	if err != nil || gen != p.have.generation && !p.mon.untouched(gen) {
		p.have.known = false
	} else if p.have.known {
		p.have.generation = gen
	}
}
