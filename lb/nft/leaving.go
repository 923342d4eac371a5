package nft

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"shoal/lb"
	"shoal/model"
	"shoal/reconcile"
)

// How tasks leave. Netfilter asks for a backend at a connection's first packet
// only, so a backend that loses its slots keeps the connections it has. When it
// is gone altogether the kernel forgets them: the next packet of one is taken
// for a new connection's, goes to another task or is refused, and either way the
// client learns of it at once. UDP flows are forgotten as soon as a backend takes
// no new ones, and so are connections that it has not answered, if its host is
// considered dead: the client's next attempt goes to another. Else a connection
// that has the same source port by chance would be taken for one of them, for the
// two minutes in which the kernel remembers it.

// leaver is a backend that a frontend has no more.
type leaver struct {
	key     lb.Key
	backend netip.AddrPort
}

// begun is a UDP port that the host has begun to redirect, on an address or
// 0.0.0.0.
type begun struct {
	addr netip.Addr
	port uint16
}

// leave is who leaves by a plan, and what begins to be served by it.
type leave struct {
	leavers []leaver
	begun   []begun
	served  []lb.Key // UDP of VIPs that had no backend for new flows, and have one now
}

func (l *leave) empty() bool { return len(l.leavers)+len(l.begun)+len(l.served) == 0 }

func (l *leave) add(o leave) {
	l.leavers, l.begun, l.served = append(l.leavers, o.leavers...), append(l.begun, o.begun...), append(l.served, o.served...)
}

// leaves tells by a plan which backends go, and to which UDP ports the host
// begins to redirect: a sender that never pauses would otherwise go on as before
// for ever. So would a process of the host that sends to a VIP while it has no
// backend: what it sends comes back over lo, and the kernel remembers that as a
// flow to the VIP itself, without a change of its destination.
func (p *Plane) leaves(changes plan) (l leave) {
	if c := changes[backends]; c != nil {
		for k := range c.remove {
			one := leaver{keyOf(k), readEndpoint(k[len(k)-8:])}
			if v, again := c.put[k]; !again || one.key.Protocol == model.UDP && readNumber(v) == 0 {
				l.leavers = append(l.leavers, one)
			}
		}
	}
	if c := changes[backends]; c != nil {
		begins := map[lb.Key]bool{}
		for k, v := range c.put {
			key := keyOf(k)
			if key.Protocol == model.UDP && !key.Published() && readNumber(v) > 0 && !p.have.frontends[key].takes() {
				begins[key] = true
			}
		}
		l.served = slices.Collect(maps.Keys(begins))
	}
	if c := changes[services]; c != nil {
		for k := range c.put {
			_, replaced := c.remove[k]
			if addr, proto, port := readKey(k); !replaced && proto == model.UDP && !p.opts.Pool.Contains(addr) {
				l.begun = append(l.begun, begun{addr, port})
			}
		}
	}
	return l
}

// split tells those apart of whose frontends this host has made use: there the
// flows must be forgotten at once. To look for flows takes the kernel tens of
// milliseconds, and where there are ten thousand services this host uses few of
// them. The other frontends' flows are looked for later, in case one was made
// meanwhile.
func (p *Plane) split(all leave) (now, later leave) {
	whose := map[string]lb.Key{} // entries of services
	used := map[lb.Key]bool{}
	for _, l := range all.leavers {
		if _, known := used[l.key]; known {
			continue
		}
		f := p.have.frontends[l.key]
		if used[l.key] = f == nil || p.carried[l.key]; !used[l.key] {
			for _, k := range f.services() {
				whose[string(k)] = l.key
			}
		}
	}
	packets, err := p.c.counted(slices.Collect(maps.Keys(whose)))
	for k, key := range whose {
		used[key] = used[key] || err != nil || packets[k] > 0
	}
	now.begun, later.served = all.begun, all.served
	for _, l := range all.leavers {
		if used[l.key] {
			now.leavers = append(now.leavers, l)
		} else {
			later.leavers = append(later.leavers, l)
		}
	}
	return now, later
}

// note finds the frontends that have flows though their counters, which are
// new, say nothing.
func (p *Plane) note() error {
	return flows(answeredBy[bool](nil), func(f *flow) {
		switch {
		case p.opts.Pool.Contains(f.dest.Addr()):
			class := f.protocol
			if class == model.SCTP {
				class = model.TCP
			}
			p.carried[lb.Key{VIP: f.dest.Addr(), Protocol: f.protocol, Port: f.dest.Port()}] = true
			p.carried[lb.Key{VIP: f.dest.Addr(), Protocol: class}] = true
		case p.carries(f):
			p.carried[lb.Key{Protocol: f.protocol, Port: f.dest.Port()}] = true
		}
	})
}

// forgetFlows has the kernel forget the flows of those who have left. An entry
// that is missed runs out by itself, so a failure is no reason to do anything
// again.
func (p *Plane) forgetFlows(now, later leave) {
	if !now.empty() {
		c, err := open()
		if err == nil {
			err = p.reap(c, now, func() {})
			c.Close()
		}
		if err != nil {
			p.log.Warn("forget connections of tasks that are gone", "error", err)
		}
	}
	r := &p.reaper
	if r.waiting.add(later); !later.empty() && !r.busy {
		r.busy = true
		r.running.Go(p.reapLater)
	}
}

// reaper looks for flows beside the passes.
type reaper struct {
	c       *conn // opened in the right network namespace
	running sync.WaitGroup

	// guarded as the Plane
	waiting leave
	busy    bool
}

// Those who leave are gathered for so long, and then, while there are more, longer and
// longer: a look through the kernel's table takes it 1 to 8 ms however little is in it,
// and whoever needs that processor waits meanwhile.
const firstGathering, lastGathering = 100 * time.Millisecond, time.Second

func (p *Plane) reapLater() {
	for gathering := firstGathering; ; gathering = min(2*gathering, lastGathering) {
		select {
		case <-time.After(gathering):
		case <-p.closing:
		}
		p.mu.Lock()
		all := p.reaper.waiting
		p.reaper.waiting = leave{}
		p.reaper.busy = !all.empty()
		p.mu.Unlock()
		if all.empty() {
			return
		}
		err := p.reap(p.reaper.c, all, func() { p.mu.Lock() })
		p.mu.Unlock()
		if err != nil {
			p.log.Warn("forget connections of tasks that are gone", "error", err)
		}
	}
}

// reap looks for flows and has them forgotten. In between lock is called.
func (p *Plane) reap(c *conn, l leave, lock func()) error {
	byAddr := map[netip.Addr][]leaver{}
	for _, one := range l.leavers {
		byAddr[one.backend.Addr()] = append(byAddr[one.backend.Addr()], one)
	}
	var found, gone []*flow
	var errs []error
	if len(byAddr) > 0 {
		errs = append(errs, c.flows(answeredBy(byAddr), func(f *flow) {
			if byAddr[f.backend.Addr()] != nil {
				found = append(found, f)
			}
		}))
	}
	for _, b := range l.begun {
		errs = append(errs, c.flows(sentTo(model.UDP, b.port), func(f *flow) {
			if f.protocol == model.UDP && f.dest.Port() == b.port && (b.addr.IsUnspecified() || f.dest.Addr() == b.addr) && !p.carries(f) {
				gone = append(gone, f)
			}
		}))
	}
	var unserved []*flow
	if len(l.served) > 0 {
		errs = append(errs, c.flows(of(model.UDP), func(f *flow) {
			if f.protocol == model.UDP && f.backend == f.dest && p.opts.Pool.Contains(f.dest.Addr()) {
				unserved = append(unserved, f)
			}
		}))
	}
	lock()
	for _, f := range unserved {
		if slices.ContainsFunc(l.served, func(k lb.Key) bool { return f.through(k, p.named) }) {
			gone = append(gone, f)
		}
	}
	for _, f := range found {
		for _, one := range byAddr[f.backend.Addr()] {
			if f.at(one.backend) && f.through(one.key, p.named) && !p.serves(one) {
				gone = append(gone, f)
				break
			}
		}
	}
	return errors.Join(append(errs, c.forget(gone))...)
}

// serves tells whether a backend is there after all.
func (p *Plane) serves(l leaver) bool {
	f := p.have.frontends[l.key]
	return f != nil && slices.ContainsFunc(f.backends, func(b lb.Backend) bool { return b.Addr == l.backend && (b.Weight > 0 || l.key.Protocol != model.UDP) })
}

// named tells whether there is a frontend.
func (p *Plane) named(k lb.Key) bool { return p.have.frontends[k] != nil }

// Draining backends are looked at soon, and then more and more rarely.
const (
	firstLook = 200 * time.Millisecond
	lastLook  = time.Second
)

// drain finds the frontends with a draining backend that is idle, or whose time
// is up: they are to be written anew, without it. What those of dead hosts have not
// answered is forgotten.
func (p *Plane) drain(dirty map[lb.Key]bool, now time.Time) {
	clear(p.idle)
	byAddr, lost := map[netip.Addr][]leaver{}, map[leaver]bool{}
	for k := range p.draining {
		f := p.have.frontends[k]
		if f == nil {
			delete(p.draining, k)
			continue
		}
		for _, b := range f.backends {
			if !isDraining(b) {
				continue
			}
			l := leaver{k, b.Addr}
			byAddr[b.Addr.Addr()] = append(byAddr[b.Addr.Addr()], l)
			lost[l] = b.Lost
			if !now.Before(b.Until) {
				dirty[k] = true
			}
		}
	}
	if len(byAddr) == 0 {
		return
	}
	c, err := open()
	if err != nil {
		p.log.Warn("look at connections of draining tasks", "error", err)
		return
	}
	defer c.Close()
	busy := map[leaver]bool{}
	var unanswered []*flow
	err = c.flows(answeredBy(byAddr), func(f *flow) {
		for _, l := range byAddr[f.backend.Addr()] {
			switch {
			case !f.at(l.backend) || !f.through(l.key, p.named):
			case f.busy():
				busy[l] = true
			case lost[l] && f.unanswered():
				unanswered = append(unanswered, f)
			}
		}
	})
	if err = errors.Join(err, c.forget(unanswered)); err != nil {
		p.log.Warn("look at connections of draining tasks", "error", err)
		return
	}
	for _, ls := range byAddr {
		for _, l := range ls {
			if !busy[l] {
				p.idle[l] = true
				dirty[l.key] = true
			}
		}
	}
	p.look = min(2*p.look, lastLook)
}

func isDraining(b lb.Backend) bool { return b.Weight == 0 && !b.Until.IsZero() }

// effective are a frontend's backends without those that are done draining: one
// that the kernel does not have any more stays away.
func (p *Plane) effective(f *lb.Frontend, old *frontend, found *listing, now time.Time) []lb.Backend {
	if !slices.ContainsFunc(f.Backends, isDraining) {
		return f.Backends
	}
	return slices.DeleteFunc(slices.Clone(f.Backends), func(b lb.Backend) bool {
		switch {
		case !isDraining(b):
			return false
		case p.idle[leaver{f.Key, b.Addr}] || !now.Before(b.Until):
			return true
		case found != nil:
			_, has := found.entries[backends][string(backendKey(f.Key, b))]
			return !has
		}
		return old == nil || !slices.ContainsFunc(old.backends, func(o lb.Backend) bool { return o.Addr == b.Addr })
	})
}

// next is when to look again.
func (p *Plane) next(now time.Time) time.Duration {
	next := p.failing.Next(now)
	if len(p.draining) > 0 {
		next = reconcile.Sooner(next, p.look)
	}
	return next
}

// Held reads what the plane still has to do with a task.
func (p *Plane) Held(task netip.Addr) (h lb.Held, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.have.frontends {
		for _, b := range f.backends {
			h.Open = h.Open || b.Addr.Addr() == task && b.Weight > 0
		}
	}
	err = flows(onlyBy(task), func(f *flow) {
		if f.backend.Addr() == task && f.busy() && p.carries(f) {
			h.Connections++
		}
	})
	return h, err
}

// carries tells whether a flow came by a VIP, or by a published port of this
// host.
func (p *Plane) carries(f *flow) bool {
	return p.opts.Pool.Contains(f.dest.Addr()) || f.mark&lb.MarkMask == lb.ConnMark
}

// takes tells whether a backend takes new flows. There is none where there is no
// frontend.
func (f *frontend) takes() bool {
	return f != nil && slices.ContainsFunc(f.backends, func(b lb.Backend) bool { return b.Weight > 0 })
}

// drains tells whether a backend does.
func (f *frontend) drains() bool { return slices.ContainsFunc(f.backends, isDraining) }
