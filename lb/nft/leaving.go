package nft

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
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
// no new ones.

// leaver is a backend that a frontend has no more.
type leaver struct {
	key     lb.Key
	backend netip.AddrPort
}

// manyLeavers is from how many on one listing of all flows is cheaper than one
// for each.
const manyLeavers = 8

// forgetFlows forgets the flows of backends that a plan has taken away, and UDP
// flows to ports that the host has begun to redirect: a sender that never pauses
// would otherwise go on as before for ever.
func (p *Plane) forgetFlows(changes plan) error {
	byAddr := map[netip.Addr][]leaver{}
	if c := changes[backends]; c != nil {
		for k := range c.remove {
			l := leaver{keyOf(k), readEndpoint(k[len(k)-8:])}
			if v, again := c.put[k]; !again || l.key.Protocol == model.UDP && readNumber(v) == 0 {
				byAddr[l.backend.Addr()] = append(byAddr[l.backend.Addr()], l)
			}
		}
	}
	var gone []*flow
	var errs []error
	see := func(f *flow) {
		for _, l := range byAddr[f.backend.Addr()] {
			if f.at(l.backend) && f.through(l.key, p.named) {
				gone = append(gone, f)
				return
			}
		}
	}
	if len(byAddr) > manyLeavers {
		errs = append(errs, flows(nil, see))
	} else {
		for a := range byAddr {
			errs = append(errs, flows(answeredBy(a), see))
		}
	}
	if c := changes[services]; c != nil {
		for k := range c.put {
			_, replaced := c.remove[k]
			addr, proto, port := readKey(k)
			if replaced || proto != model.UDP || p.opts.Pool.Contains(addr) {
				continue
			}
			errs = append(errs, flows(sentTo(proto, port), func(f *flow) {
				if f.protocol == proto && f.dest.Port() == port && (addr.IsUnspecified() || f.dest.Addr() == addr) &&
					f.mark&lb.MarkMask != lb.ConnMark && !p.opts.Pool.Contains(f.dest.Addr()) {
					gone = append(gone, f)
				}
			}))
		}
	}
	// An entry that is missed runs out by itself, so this is no reason to do it all
	// again.
	if err := errors.Join(append(errs, forget(gone))...); err != nil {
		p.log.Warn("connections of tasks that are gone", "error", err)
	}
	return nil
}

// named tells whether there is a frontend.
func (p *Plane) named(k lb.Key) bool { return p.have.frontends[k] != nil }

// drainLook is how often draining backends are looked at.
const drainLook = 200 * time.Millisecond

// drain finds the frontends with a draining backend that is idle, or whose time
// is up: they are to be written anew, without it.
func (p *Plane) drain(dirty map[lb.Key]bool, now time.Time) {
	clear(p.idle)
	byAddr := map[netip.Addr][]leaver{}
	for k := range p.draining {
		f := p.have.frontends[k]
		if f == nil {
			delete(p.draining, k)
			continue
		}
		for _, b := range f.backends {
			if isDraining(b) {
				byAddr[b.Addr.Addr()] = append(byAddr[b.Addr.Addr()], leaver{k, b.Addr})
				if !now.Before(b.Until) {
					dirty[k] = true
				}
			}
		}
	}
	for a, ls := range byAddr {
		busy := map[leaver]bool{}
		err := flows(answeredBy(a), func(f *flow) {
			for _, l := range ls {
				if f.busy() && f.at(l.backend) && f.through(l.key, p.named) {
					busy[l] = true
				}
			}
		})
		if err != nil {
			p.log.Warn("look at connections of a draining task", "task", a, "error", err)
			continue
		}
		for _, l := range ls {
			if !busy[l] {
				p.idle[l] = true
				dirty[l.key] = true
			}
		}
	}
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
		next = reconcile.Sooner(next, drainLook)
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
	err = flows(answeredBy(task), func(f *flow) {
		if f.backend.Addr() == task && f.established() && p.carries(f) {
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

// drainingNow are the frontends of those with a draining backend.
func drainingNow(fs map[lb.Key]*frontend) map[lb.Key]bool {
	now := map[lb.Key]bool{}
	for k := range maps.Keys(fs) {
		if slices.ContainsFunc(fs[k].backends, isDraining) {
			now[k] = true
		}
	}
	return now
}
