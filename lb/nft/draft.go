package nft

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"shoal/lb"
	lbslots "shoal/lb/slots"
)

// draft is what a pass is about to do, and by what.
type draft struct {
	found *listing // what the kernel had, if it was read; nil: what is known of it holds
	rules bool     // all rules, and entries that depend on hosts and networks, are looked at

	around surroundings
	dirty  map[lb.Key]bool      // frontends, and published ports that are withheld
	moved  []netip.Addr         // endpoints
	rested []netip.Addr         // addresses that rest, or did
	next   map[lb.Key]*frontend // of those that are dirty
	first  []chain              // that entries lead to
	last   []chain              // that the kernel calls
	gone   []string             // chains that nothing leads to any more
	plan   plan

	old, want entries
	shared    counts
}

// whole makes a draft of everything.
func (p *Plane) whole(found *listing) *draft {
	p.have.frontends, p.have.endpoints = map[lb.Key]*frontend{}, map[netip.Addr]lb.Endpoint{}
	p.have.shared, p.have.withheld = map[*set]map[string]int{vips: {}, targets: {}}, map[lb.Key]*lb.Frontend{}
	p.have.resting = map[netip.Addr]bool{}
	d := &draft{found: found, dirty: map[lb.Key]bool{}, shared: counts{},
		moved: slices.Collect(maps.Keys(p.endpoints)), rested: slices.Collect(maps.Keys(p.resting))}
	for k := range p.frontends {
		d.dirty[k] = true
	}
	for k := range p.withheld {
		d.dirty[k] = true
	}
	if p.opts.DNS.IsValid() {
		d.shared.add(vips, string(p.opts.DNS.AsSlice()), 1)
	}
	return d
}

// draw works out what a draft does.
func (p *Plane) draw(d *draft, now time.Time) {
	d.around, d.old, d.want, d.plan = p.around, entries{}, entries{}, plan{}
	d.rules = d.found != nil || !p.have.around.equal(&d.around)
	if d.rules {
		if p.have.around != nil {
			d.old.merge(p.have.around.entries())
		}
		d.want.merge(d.around.entries())
	}
	for _, a := range d.moved {
		if e, had := p.have.endpoints[a]; had {
			d.old.merge(endpointEntries(a, e))
		}
		if e, wanted := p.endpoints[a]; wanted {
			d.want.merge(endpointEntries(a, e))
		}
	}
	for _, a := range d.rested {
		if p.have.resting[a] {
			d.old.put(resting, a.AsSlice(), nil)
		}
		if p.resting[a] {
			d.want.put(resting, a.AsSlice(), nil)
		}
	}
	p.drawFrontends(d, now)
	d.shared.apply(p.have.shared, d.old, d.want)
	p.drawChains(d)
	if d.found != nil {
		d.old = d.found.entries
	}
	if !d.around.told {
		for _, s := range ofBetween.sets {
			delete(d.old, s)
			delete(d.want, s)
		}
	}
	d.plan.diff(d.old, d.want)
}

// drawFrontends finds the backends, slots and balancers of dirty frontends.
func (p *Plane) drawFrontends(d *draft, now time.Time) {
	d.next = map[lb.Key]*frontend{}
	pool, had := p.have.pool, map[lb.Key]balancer{}
	for k := range d.dirty {
		if o := p.have.frontends[k]; o != nil {
			had[k] = o.balancer
		} else if b, has := p.found(d.found, k); has {
			had[k] = b
			pool.users[b]++ // nobody else's, until the frontend has taken it
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(d.dirty), lb.Key.Compare) {
		o, f := p.have.frontends[k], p.frontends[k]
		if f != nil {
			n := &frontend{Frontend: f, backends: p.effective(f, o, d.found, now)}
			n.slots = lbslots.Fill(scheduler(f.Scheduler), n.backends)
			n.balancer = pool.pick(f, len(n.slots), had[k], d.found != nil)
			pool.use(n.balancer, 1)
			pool.slots += len(n.slots)
			own, shared := n.entriesOf(pool.numbers[n.balancer])
			d.want.merge(own)
			d.shared.merge(shared, 1)
			d.next[k] = n
		}
		if o != nil {
			own, shared := o.entriesOf(pool.numbers[o.balancer])
			d.old.merge(own)
			d.shared.merge(shared, -1)
			pool.use(o.balancer, -1)
			pool.slots -= len(o.slots)
		}
		// Of a port that somebody else has here, other hosts' connections come to
		// this one's tasks all the same.
		if w := p.have.withheld[k]; w != nil {
			d.shared.merge(targetsOf(k, w.Backends), -1)
		}
		if w := p.withheld[k]; w != nil {
			d.shared.merge(targetsOf(k, w.Backends), 1)
		}
	}
	if d.found != nil {
		clear(pool.users)
		for _, n := range d.next {
			pool.users[n.balancer]++
		}
	}
}

// drawChains finds the chains that are made before entries lead to them, and
// those that go after.
func (p *Plane) drawChains(d *draft) {
	unused := p.have.pool.unused()
	put := func(b balancer) {
		d.want.put(balancers, be16(p.have.pool.numbers[b]), []byte(b.chain()))
		d.first = append(d.first, chain{name: b.chain(), rules: b.rules()})
	}
	if d.found != nil {
		for b := range p.have.pool.numbers {
			put(b)
		}
	} else {
		fresh := map[balancer]bool{}
		for _, n := range d.next {
			fresh[n.balancer] = p.have.structure.chains[n.balancer.chain()] == nil
		}
		for b, is := range fresh {
			if is {
				put(b)
			}
		}
		for _, b := range unused {
			d.old.put(balancers, be16(b.number), []byte(b.chain()))
			d.gone = append(d.gone, b.chain())
		}
	}
	if !d.rules {
		return
	}
	wanted := map[string]bool{}
	for b := range p.have.pool.numbers {
		wanted[b.chain()] = true
	}
	for _, c := range d.around.chains() {
		wanted[c.name] = true
		if have := p.have.structure.chains[c.name]; have != nil && !d.around.told && ofBetween.chains[c.name] {
			continue
		}
		if c.hook == nil {
			d.first = append(d.first, c)
		} else {
			d.last = append(d.last, c)
		}
	}
	d.gone = nil
	for name := range p.have.structure.chains {
		if !wanted[name] {
			d.gone = append(d.gone, name)
		}
	}
}

// counts are of entries that several may want.
type counts map[*set]map[string]int

func (c counts) add(s *set, key string, n int) {
	if c[s] == nil {
		c[s] = map[string]int{}
	}
	c[s][key] += n
}

func (c counts) merge(es entries, n int) {
	for s, m := range es {
		for k := range m {
			c.add(s, k, n)
		}
	}
}

// apply adds the counts to others, and puts what is wanted now, or was before,
// into entries.
func (c counts) apply(to map[*set]map[string]int, old, want entries) {
	for s, m := range c {
		for k, n := range m {
			before := to[s][k]
			if before > 0 {
				old.put(s, []byte(k), nil)
			}
			if before+n > 0 {
				to[s][k] = before + n
				want.put(s, []byte(k), nil)
			} else {
				delete(to[s], k)
			}
		}
	}
}
