package lb

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"shoal/model"
	"shoal/reconcile"
)

// Options are the settings of a Balancer.
type Options struct {
	DNS       netip.Addr // the address of the pool where this host itself answers DNS; zero: it does not
	DNSPeers  netip.Addr // the address of the pool behind which the other hosts' DNS servers are; zero: none
	Recognise Recognise  // nil: there are no tunnels

	// DNSPorts tells on which ports this host's DNS server answers instead of port
	// 53, by address; nil, or an empty answer: on 53. It is asked in every pass.
	DNSPorts func() map[netip.Addr]uint16

	// Admit tells which of these published ports this host must not take, and
	// why: they are somebody else's. It is asked of ports that the host does not
	// take yet; and of those that it has taken, in a full pass and when containers
	// of this host have come or gone. Nil: all are admitted.
	Admit func(ctx context.Context, fs []*Frontend, taken func(Key) bool) map[Key]error

	// Guard says which ports are the agents', and whom they trust beside the hosts of
	// the Snapshot; nil: there are none.
	Guard func() Guard

	Log *slog.Logger // nil: none
}

// Balancer decides what the data plane of this host is to carry, and has it
// carried. It is safe for concurrent use.
type Balancer struct {
	opts  Options
	plane DataPlane

	mu     sync.Mutex
	snap   *model.Snapshot // the last one
	around *surroundings   // of it
	base   *Base

	parts    map[model.ServiceID]*part
	want     map[Key]*Frontend        // as decided
	notable  map[model.ServiceID]bool // services with a problem of their own, or another scheduler than asked for
	losers   map[model.ServiceID]bool // services with a VIP that another has
	users    map[netip.Addr]users     // how many services have the address as what
	refused  *reconcile.Failures[Key] // published ports that are not admitted
	applied  map[Key]*Frontend        // as the plane was told
	withheld map[Key]*Frontend        // likewise, of those that are not admitted
	resting  []netip.Addr             // likewise
}

// What is not admitted is asked again after a second, then after twice as long
// each time: however seldom full passes are, a port that somebody has let go of
// is served soon.
const (
	firstRetry = time.Second
	lastRetry  = 5 * time.Second
)

// New makes a Balancer that uses the plane. It changes nothing yet.
func New(opts Options, plane DataPlane) (*Balancer, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Balancer{
		opts: opts, plane: plane,
		parts: map[model.ServiceID]*part{}, want: map[Key]*Frontend{}, notable: map[model.ServiceID]bool{}, losers: map[model.ServiceID]bool{},
		users: map[netip.Addr]users{}, refused: reconcile.NewFailures[Key](firstRetry, lastRetry),
		applied: map[Key]*Frontend{}, withheld: map[Key]*Frontend{},
	}, nil
}

// Reconcile has the plane carry what the Snapshot says. A full pass has it read
// the kernel back and repair what others broke; any other costs by what has
// changed since the Snapshot before. The problems are all there are, each time.
func (b *Balancer) Reconcile(ctx context.Context, s *model.Snapshot, full bool) reconcile.Result {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	d := Delta{Frontends: map[Key]*Frontend{}, Endpoints: map[netip.Addr]*Endpoint{}, Withheld: map[Key]*Frontend{}}
	recheck := full || b.snap == nil || !sameContainers(b.snap, s)
	dirty := b.decide(s, &d)
	d.Resting, b.resting = rested(b.resting, s.Resting), s.Resting
	b.admit(ctx, dirty, full, recheck, now)
	for k := range dirty {
		f, withheld := b.want[k], (*Frontend)(nil)
		if f != nil && b.refused.Err(k) != nil {
			f, withheld = nil, f
		}
		tell(d.Frontends, b.applied, k, f)
		tell(d.Withheld, b.withheld, k, withheld)
	}
	r := b.plane.Reconcile(ctx, d, full)
	return reconcile.Result{
		Again:    reconcile.Sooner(r.Next, b.refused.Next(now)),
		More:     r.More,
		Problems: b.problems(r.Failures),
	}
}

// tell puts a frontend into a delta if it is not as the plane was told; nil: it
// goes.
func tell(delta, told map[Key]*Frontend, k Key, f *Frontend) {
	old := told[k]
	switch {
	case f == nil && old != nil:
		delta[k] = nil
		delete(told, k)
	case f != nil && (old == nil || !f.equal(old)):
		delta[k] = f
		told[k] = f
	}
}

// rested is what became different of the addresses that rest.
func rested(old, new []netip.Addr) map[netip.Addr]bool {
	if slices.Equal(old, new) {
		return nil
	}
	delta := map[netip.Addr]bool{}
	for _, a := range old {
		if !slices.Contains(new, a) {
			delta[a] = false
		}
	}
	for _, a := range new {
		if !slices.Contains(old, a) {
			delta[a] = true
		}
	}
	return delta
}

// decide takes in a Snapshot: it brings parts, want and users up to date, puts
// into d what concerns no frontend, and returns the keys of those frontends that
// may have changed.
func (b *Balancer) decide(s *model.Snapshot, d *Delta) (dirty map[Key]bool) {
	dirty = map[Key]bool{}
	moved := b.snap == nil || !sameSurroundings(b.snap, s)
	if moved {
		b.around = surroundingsOf(s)
	}
	w := b.around
	fresh := map[model.ServiceID]*part{} // nil: the service is gone
	again := func(svc *model.Service) {
		if _, done := fresh[svc.ID]; !done {
			fresh[svc.ID] = decide(svc, w)
		}
	}
	changed(b.snap, s, func(old, new *model.Service) {
		if new == nil {
			fresh[old.ID] = nil
		} else {
			again(new)
		}
	})
	for id := range b.losers {
		if svc, ok := s.Service(id); ok {
			again(svc)
		}
	}
	if moved {
		for _, svc := range s.Services {
			if slices.ContainsFunc(svc.Tasks, func(t *model.Task) bool { return len(t.Spec.Publish) > 0 || t.Addr == w.self.Addr }) {
				again(svc)
			}
		}
	}
	var ports map[netip.Addr]uint16
	if b.opts.DNSPorts != nil {
		ports = b.opts.DNSPorts()
	}
	portsChanged := b.base != nil && !maps.Equal(ports, b.base.DNSPorts)
	guard := b.guard(s)
	if b.snap == nil || portsChanged || !sharedHosts(b.snap, s) || !reflect.DeepEqual(guard, b.base.Guard) {
		base := BaseOf(s, b.opts.Recognise)
		base.DNSPorts, base.Guard = ports, guard
		if b.opts.DNSPeers.IsValid() && (b.snap == nil || portsChanged || !slices.Equal(otherServers(b.snap), otherServers(s))) {
			fresh[dnsPeersID] = dnsPeers(b.opts.DNSPeers, b.opts.DNS, base.DNSPort(b.opts.DNS), s)
		}
		if b.base == nil || !base.equal(b.base) {
			b.base, d.Base = base, base
		}
	}
	b.snap = s
	b.replace(fresh, dirty, d)
	return dirty
}

// guard is that of the agents' ports.
func (b *Balancer) guard(s *model.Snapshot) Guard {
	if b.opts.Guard == nil {
		return Guard{}
	}
	var hosts []netip.Addr
	for _, n := range s.Nodes {
		if n.Name != s.Self.Name {
			hosts = append(hosts, n.Addr)
		}
	}
	g := b.opts.Guard().with(hosts)
	// This host's own packets come by its loopback.
	g.Trusted = slices.DeleteFunc(g.Trusted, func(a netip.Addr) bool { return a == s.Self.Addr })
	return g
}

// sameSurroundings tells whether published ports and the hosts' addresses are
// as they were. Whether a host lives does not matter.
func sameSurroundings(a, b *model.Snapshot) bool {
	return a.Self.Name == b.Self.Name && a.Self.Addr == b.Self.Addr &&
		(model.Shared(a.Published, b.Published) || slices.Equal(a.Published, b.Published)) &&
		(model.Shared(a.Nodes, b.Nodes) || slices.EqualFunc(a.Nodes, b.Nodes, func(x, y model.Node) bool {
			return x.Name == y.Name && x.Addr == y.Addr && x.Subnet == y.Subnet
		}))
}

// sharedHosts tells whether all that [BaseOf] reads is shared by two Snapshots.
func sharedHosts(a, b *model.Snapshot) bool {
	return a.Self == b.Self && model.Shared(a.Nodes, b.Nodes) && model.Shared(a.Networks, b.Networks)
}

// replace puts parts in the place of those that services had. What goes goes
// first, so that a VIP may pass from one service to another in one Snapshot.
func (b *Balancer) replace(fresh map[model.ServiceID]*part, dirty map[Key]bool, d *Delta) {
	ids := slices.SortedFunc(maps.Keys(fresh), model.ServiceID.Compare)
	before := map[netip.Addr]*Endpoint{} // nil: it was none
	use := func(e partEndpoint, n int) {
		if _, noted := before[e.addr]; !noted {
			before[e.addr] = b.endpoint(e.addr)
		}
		b.use(e.addr, e.Endpoint, n)
	}
	for _, id := range ids {
		old := b.parts[id]
		delete(b.parts, id)
		delete(b.losers, id)
		delete(b.notable, id)
		if old == nil {
			continue
		}
		for _, f := range old.frontends {
			if have := b.want[f.Key]; have != nil && have.Service == id {
				delete(b.want, f.Key)
				dirty[f.Key] = true
			}
		}
		for _, e := range old.endpoints {
			use(e, -1)
		}
	}
	for _, id := range ids {
		p := fresh[id]
		if p == nil {
			continue
		}
		b.parts[id] = p
		if len(p.problems) > 0 || b.nearest(p) != nil {
			b.notable[id] = true
		}
		for _, f := range p.frontends {
			if b.want[f.Key] != nil {
				// VIPs are given out once; should that ever fail, who has it keeps it.
				b.losers[id] = true
				continue
			}
			b.want[f.Key] = f
			dirty[f.Key] = true
		}
		for _, e := range p.endpoints {
			use(e, +1)
		}
	}
	for a, was := range before {
		if is := b.endpoint(a); is == nil && was != nil || is != nil && (was == nil || *was != *is) {
			d.Endpoints[a] = is
		}
	}
}

func (b *Balancer) use(a netip.Addr, e Endpoint, n int) {
	u := b.users[a]
	for i, kind := range endpointKinds {
		if kind == e {
			u[i] += int32(n)
		}
	}
	if u == (users{}) {
		delete(b.users, a)
	} else {
		b.users[a] = u
	}
}

// users counts the services that have an address as each of endpointKinds.
type users [4]int32

var endpointKinds = [4]Endpoint{{}, {Local: true}, {Host: true}, {Local: true, Host: true}}

// endpoint is what an address is, by all services that have a task there; nil: none has.
func (b *Balancer) endpoint(a netip.Addr) (e *Endpoint) {
	for i, n := range b.users[a] {
		if n == 0 {
			continue
		}
		if e == nil {
			e = &Endpoint{}
		}
		e.Local, e.Host = e.Local || endpointKinds[i].Local, e.Host || endpointKinds[i].Host
	}
	return e
}

// admit asks about the published ports among those dirty that the host does
// not take yet, about those that were refused and are due, and, to recheck, about
// all that the host has taken.
func (b *Balancer) admit(ctx context.Context, dirty map[Key]bool, full, recheck bool, now time.Time) {
	b.refused.DeleteFunc(func(k Key) bool { return b.want[k] == nil })
	if b.opts.Admit == nil {
		return
	}
	ask := map[Key]*Frontend{}
	for k := range dirty {
		if f := b.want[k]; f != nil && k.Published() && !b.plane.Redirects(f) {
			ask[k] = f
		}
	}
	if recheck {
		for k, f := range b.want {
			if k.Published() {
				ask[k] = f
			}
		}
	}
	due := b.refused.Due(now)
	if full {
		due = b.refused.Keys()
	}
	for _, k := range due {
		ask[k] = b.want[k]
		dirty[k] = true
	}
	if len(ask) == 0 {
		return
	}
	var fs []*Frontend
	for _, k := range sorted(ask) {
		fs = append(fs, ask[k])
	}
	refused := b.opts.Admit(ctx, fs, func(k Key) bool {
		return b.applied[k] != nil || b.withheld[k] == nil && b.plane.Redirects(b.want[k])
	})
	for k := range ask {
		if (refused[k] == nil) != (b.refused.Err(k) == nil) {
			dirty[k] = true
		}
		b.refused.Put(k, refused[k], now)
	}
}

// sameContainers tells whether this host has the containers that it had, by ID and
// address: each of others may have rules by which it takes a port.
func sameContainers(a, b *model.Snapshot) bool {
	if a.Self.Name != b.Self.Name {
		return false
	}
	was, is := a.Containers.Of(a.Self.Name), b.Containers.Of(b.Self.Name)
	return model.Shared(was, is) || slices.EqualFunc(was, is, func(x, y *model.Container) bool {
		return x == y || x.ID == y.ID && x.Since.Equal(y.Since) && slices.Equal(x.Addrs, y.Addrs)
	})
}

// problems tells all that is not as it should be.
func (b *Balancer) problems(failures []Failure) (ps []model.Problem) {
	add := func(p model.Problem) {
		p.Node = b.snap.Self.Name
		ps = append(ps, p)
	}
	for _, f := range failures {
		if f.Object.Part != "" {
			add(model.Problem{Code: model.CodeOf(f.Err, model.KernelWriteFailed), Kind: "kernel", Object: f.Object.Part, Reason: f.Err.Error(), Since: f.Since})
			continue
		}
		object := f.Object.Key.String()
		if w := b.want[f.Object.Key]; w != nil {
			object = w.Service.String()
		}
		add(model.Problem{Code: model.CodeOf(f.Err, model.KernelWriteFailed), Kind: "service", Object: object, Reason: f.Object.Key.String() + ": " + f.Err.Error(), Since: f.Since})
	}
	for _, p := range b.refused.Problems(func(k Key, err error) model.Problem {
		return model.Problem{Code: model.CodeOf(err, model.PortInUse), Kind: "service", Object: b.want[k].Service.String(), Reason: err.Error()}
	}) {
		add(p)
	}
	for _, id := range slices.SortedFunc(maps.Keys(b.losers), model.ServiceID.Compare) {
		for _, f := range b.parts[id].frontends {
			if w := b.want[f.Key]; w != nil && w.Service != id {
				add(model.Problem{Code: model.VIPTaken, Kind: "kernel", Object: "VIP " + f.VIP.String(),
					Reason: fmt.Sprintf("services %s and %s both have it, and %[1]s keeps it: remove one with `shoal service rm`", w.Service, id)})
				break
			}
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(b.notable), model.ServiceID.Compare) {
		p := b.parts[id]
		ps = append(ps, p.problems...)
		if f := b.nearest(p); f != nil {
			add(model.Problem{Code: model.SchedulerNearest, Notice: true, Kind: "service", Object: id.String(),
				Reason: fmt.Sprintf("the data plane %s has no scheduler %s: %s is used; start the agent with --data-plane ipvs for it", b.plane.Name(), f.Scheduler, b.plane.Scheduler(f.Scheduler))})
		}
	}
	return ps
}

// nearest is a frontend that the plane balances otherwise than asked for.
func (b *Balancer) nearest(p *part) *Frontend {
	for _, f := range p.frontends {
		if b.plane.Scheduler(f.Scheduler) != f.Scheduler {
			return f
		}
	}
	return nil
}

// Refused is why this host does not take a published port; nil: it does, or
// nobody publishes it.
func (b *Balancer) Refused(k Key) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refused.Err(k)
}
