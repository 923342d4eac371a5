package socket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"shoal/kernel/sockets"
	"shoal/lb"
	"shoal/reconcile"
)

// Options are the settings of a [Plane]. Of those that every plane takes, it reads
// DNSPeers and Log.
type Options struct {
	lb.PlaneOptions

	// Next carries everything; frontends that are led are carried by it too, for
	// whoever is not led.
	Next lb.DataPlane

	// Cgroup is the folder of a control group of version 2. The processes in it and
	// below are led, in whatever network namespace they are; the one that calls
	// [New] has to be one of them.
	Cgroup string

	// Pins is a folder on a BPF file system, made if missing. Where there is no such
	// file system at /sys/fs/bpf, and Pins is below that, it is mounted.
	Pins string

	// Destroy closes the sockets with these cookies that are in one of the states, in whatever
	// network namespace of this machine they are; the processes that have them find them closed by
	// ECONNABORTED. It returns how many it closed. It is called from one goroutine at
	// a time, outside of passes. Nil: connections to tasks that are gone are left as
	// they are.
	Destroy func(ctx context.Context, cookies map[uint64]sockets.States) (closed int, err error)

	// Reconnect has the connected UDP sockets with these cookies connected again, in
	// whatever network namespace of this machine they are, and returns what became of
	// those that it found, as [sockets.Reconnect] does; led tells where the programs lead
	// a socket at that moment. It is called from one goroutine at a time, outside of
	// passes. Nil: UDP is not led, as a socket could not follow its service when its task
	// leaves.
	Reconnect func(ctx context.Context, peers map[uint64]sockets.Peer, led func(cookie uint64) netip.AddrPort) (found map[uint64]error, err error)
}

// Plane leads clients to tasks in connect(), and has another plane carry
// everything. It is a [lb.DataPlane].
type Plane struct {
	opts Options
	log  *slog.Logger
	next lb.DataPlane

	programs *programs
	maps     *kernelMaps
	closer   *closer
	closed   sync.Once

	counted counted

	passing sync.Mutex // held for a whole pass
	mu      sync.Mutex // held for what follows, not while next has its turn

	begun     bool // by a first Reconcile: before it, frontends are not known
	leaving   bool // tasks may have left, and the closer is to look at the end of the pass
	around    surroundings
	frontends map[lb.Key]*lb.Frontend // ours
	peers     []netip.Addr            // hosts' own addresses, of the last Base
	ownHosts  map[netip.Addr]bool     // likewise, of endpoints
	table     table
	pending   map[lb.Key]bool // to be written once next has done its part
	failing   *lb.Failures
}

var _ lb.DataPlane = (*Plane)(nil)

// programsPart is the object of failures that concern all frontends.
var programsPart = lb.Object{Part: "BPF programs"}

// New makes a Plane. It attaches its programs to the cgroup, or adopts those that
// are attached, and proves new ones by a connection of its own. The error says
// what the kernel lacks; then nothing is left behind, and opts.Next is untouched.
func New(opts Options) (*Plane, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	p := &Plane{
		opts: opts, log: opts.Log, next: opts.Next,
		around:    surroundings{scheduler: opts.Next.Scheduler, dnsPeers: opts.DNSPeers, udp: opts.Reconnect != nil},
		frontends: map[lb.Key]*lb.Frontend{}, ownHosts: map[netip.Addr]bool{}, pending: map[lb.Key]bool{}, failing: lb.NewFailures(),
	}
	if err := p.open(); err != nil {
		logVerifier(p.log, err)
		if p.maps != nil {
			p.maps.close()
		}
		return nil, errors.Join(fmt.Errorf("balancing in connect() is not possible: %w", err), Down(opts))
	}
	p.closer = newCloser(p)
	return p, nil
}

// open has programs and maps there.
func (p *Plane) open() (err error) {
	number, err := checkCgroup(p.opts.Cgroup)
	if err != nil {
		return err
	}
	if err := checkClassifiers(p.opts.Cgroup); err != nil {
		return err
	}
	if err := prepare(p.opts.Pins); err != nil {
		return err
	}
	if p.maps, err = openMaps(mapsFolder(p.opts.Pins)); err != nil {
		return err
	}
	p.table = table{maps: p.maps}
	p.programs = &programs{cgroup: p.opts.Cgroup, number: number, pins: p.opts.Pins, udp: p.around.udp, maps: p.maps}
	changed, err := p.programs.ensure()
	if err != nil {
		return err
	}
	// Also where nothing changed: the agent that changed it may have been killed before this.
	if err := dropOtherLayouts(p.opts); err != nil || !changed {
		return err
	}
	if err := p.table.read(false); err != nil {
		return err
	}
	return p.prove()
}

func mapsFolder(pins string) string { return filepath.Join(pins, layout) }

// Name is that of the plane that carries everything.
func (p *Plane) Name() string { return p.next.Name() }

// Scheduler is the one that the plane behind uses where the named one is asked
// for.
func (p *Plane) Scheduler(name string) string { return p.next.Scheduler(name) }

// Between implements [lb.DataPlane].
func (p *Plane) Between(ctx context.Context, b lb.Between) (changed bool, err error) {
	return p.next.Between(ctx, b)
}

// Redirects implements [lb.DataPlane].
func (p *Plane) Redirects(f *lb.Frontend) bool { return p.next.Redirects(f) }

// Client implements [lb.DataPlane].
func (p *Plane) Client(a netip.Addr) (lb.ClientView, error) { return p.next.Client(a) }

// Changed is signalled by the plane behind: of what others do to maps and
// programs the kernel does not tell.
func (p *Plane) Changed() <-chan struct{} { return p.next.Changed() }

// RepairRoutes implements [lb.DataPlane].
func (p *Plane) RepairRoutes() error { return p.next.RepairRoutes() }

// Close closes what it and the plane behind have open; the kernel stays as it is.
func (p *Plane) Close() {
	p.closed.Do(func() {
		p.closer.stop()
		p.passing.Lock()
		defer p.passing.Unlock()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.maps.close()
		p.next.Close()
	})
}

// Reconcile takes in a change. Who is led nowhere any more is not led before the
// plane behind takes it in, and who is led elsewhere, after.
func (p *Plane) Reconcile(ctx context.Context, d lb.Delta, full bool) lb.Result {
	p.passing.Lock()
	defer p.passing.Unlock()
	now := time.Now()
	p.before(&d, full, now)
	r := p.next.Reconcile(ctx, d, full)
	if !r.More {
		p.after(now)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leaving {
		p.closer.look()
		p.leaving = r.More || p.table.entries == nil // else it has seen all that it can
	}
	r.Next = reconcile.Sooner(r.Next, p.failing.Next(now))
	r.Failures = append(r.Failures, p.failing.List(lb.Object.Compare)...)
	slices.SortStableFunc(r.Failures, func(a, b lb.Failure) int { return a.Object.Compare(b.Object) })
	return r
}

// before takes in a change, and writes what of it must stand before the plane
// behind takes it in.
func (p *Plane) before(d *lb.Delta, full bool, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	left := p.take(d)
	first := !p.begun
	p.begun = true
	due := p.failing.Due(now)
	if first || p.table.entries == nil || slices.Contains(due, programsPart) {
		p.failing.Put(programsPart, p.repair(), now)
	} else if full {
		p.failing.Put(programsPart, p.look(), now)
	}
	for _, o := range due {
		if o != programsPart {
			p.pending[o.Key] = true
		}
	}
	p.leaving = p.leaving || left || full
	if p.table.entries == nil {
		return
	}
	for _, k := range sorted(p.pending) {
		e, w := p.table.entries[k], p.wanted(k)
		switch {
		case e == nil:
		case w == nil:
			p.note(k, p.table.remove(k), now)
		case !e.broken:
			p.note(k, p.table.put(k, e.first(w)), now)
		}
	}
}

// after writes the rest.
func (p *Plane) after(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.table.entries == nil { // what could not be read is read by the next pass
		return
	}
	for _, k := range sorted(p.pending) {
		if w := p.wanted(k); w != nil {
			p.note(k, p.table.put(k, *w), now)
		} else if p.table.entries[k] == nil {
			p.note(k, nil, now)
		}
	}
	clear(p.pending)
}

// note records how writing a frontend ended.
func (p *Plane) note(k lb.Key, err error, now time.Time) {
	p.failing.Put(lb.Object{Key: k}, err, now)
}

// wanted is what the maps are to say of a frontend; nil: nothing.
func (p *Plane) wanted(k lb.Key) *wanted {
	f := p.frontends[k]
	if f == nil {
		return nil
	}
	w, _ := p.around.want(f)
	return &w
}

// take takes in a change, and tells whether a task may have left.
func (p *Plane) take(d *lb.Delta) (left bool) {
	hosts := d.Base != nil
	if d.Base != nil {
		p.peers = []netip.Addr{d.Base.Self.Addr}
		for _, peer := range d.Base.Peers {
			p.peers = append(p.peers, peer.Addr)
		}
		if p.around.self != d.Base.Self.Addr {
			p.around.self = d.Base.Self.Addr
			p.touchAll()
		}
	}
	for a, e := range d.Endpoints {
		own := e != nil && e.Host
		hosts = hosts || own != p.ownHosts[a]
		if delete(p.ownHosts, a); own {
			p.ownHosts[a] = true
		}
	}
	for k, f := range d.Frontends {
		if !p.around.ours(k) {
			continue
		}
		p.pending[k] = true
		if delete(p.frontends, k); f != nil {
			p.frontends[k] = f
		}
		left = true
	}
	if hosts {
		now := maps.Clone(p.ownHosts)
		for _, a := range p.peers {
			now[a] = true
		}
		if !maps.Equal(now, p.around.hosts) {
			p.around.hosts = now
			p.touchAll()
		}
	}
	return left
}

func (p *Plane) touchAll() {
	for k := range p.frontends {
		p.pending[k] = true
	}
}

// repair reads the kernel back. What differs there is written as if it were new.
func (p *Plane) repair() error {
	if err := p.ensure(); err != nil {
		return err
	}
	err := p.table.read(true)
	p.touchAll()
	for k := range p.table.entries {
		p.pending[k] = true
	}
	return err
}

// look compares a share of the kernel with what was written there.
func (p *Plane) look() error {
	if err := p.ensure(); err != nil {
		return err
	}
	broken, err := p.table.compare()
	for _, k := range broken {
		p.pending[k] = true
	}
	return err
}

// ensure has programs and pins there.
func (p *Plane) ensure() error {
	if err := prepare(p.opts.Pins); err != nil {
		return err
	}
	if err := p.maps.repin(mapsFolder(p.opts.Pins)); err != nil {
		return err
	}
	if _, err := p.programs.ensure(); err != nil {
		logVerifier(p.log, err)
		return err
	}
	return nil
}

func sorted[V any](m map[lb.Key]V) []lb.Key { return slices.SortedFunc(maps.Keys(m), lb.Key.Compare) }
