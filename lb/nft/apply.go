package nft

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"shoal/kernel"
	"shoal/lb"
)

// read lists all that the kernel has of the table but clients' affinity. What is
// known of frontends is then who has which balancer, by [state.pool].
func (p *Plane) read() (found *listing, err error) {
	p.mon.forgive()
	gen, err := p.c.generation()
	if err != nil {
		return nil, err
	}
	s, err := readStructure(p.c, p.lib)
	if err != nil {
		return nil, err
	}
	if s.table && !s.sound() {
		p.log.Info("the table shoal is of another version: made anew")
		p.lib.DelTable(table)
		kernel.Wrote("nftables", 1)
		if err := p.lib.Flush(); err != nil {
			return nil, err
		}
		return p.read()
	}
	p.remember()
	p.have = state{generation: gen, structure: s, pool: newPool(), taken: map[string]bool{}}
	p.have.pool.former = p.former.numbers
	found = &listing{entries: entries{}, packets: map[string]uint64{}, balancers: map[string]balancer{}}
	for _, each := range sets {
		if s.sets[each.name] == nil || each == affinity {
			continue
		}
		es := map[string]string{}
		found.entries[each] = es
		err := p.c.list(each, func(e entry) {
			if es[e.key] = e.value; e.packets > 0 {
				found.packets[e.key] = e.packets
			}
		})
		if err != nil {
			return nil, err
		}
	}
	byNumber := map[string]balancer{}
	for n, chain := range found.entries[balancers] {
		if b, ok := parseBalancer(chain); ok {
			byNumber[n] = b
			p.have.pool.adopt(b, readNumber(n))
		}
	}
	for k, n := range found.entries[services] {
		if b, has := byNumber[n]; has {
			found.balancers[k] = b
		}
		if a, _, _ := readKey(k); !p.opts.Pool.Contains(a) {
			p.have.taken[k] = true
		}
	}
	return found, nil
}

// former is what frontends had before the kernel was read anew. What others have
// taken away is made as it was.
type former struct {
	balancers map[lb.Key]balancer
	numbers   map[balancer]uint16
}

func (p *Plane) remember() {
	if p.have.pool == nil || len(p.have.frontends) == 0 {
		return
	}
	p.former = former{map[lb.Key]balancer{}, p.have.pool.numbers}
	for k, f := range p.have.frontends {
		p.former.balancers[k] = f.balancer
	}
}

// listing is what the kernel's sets hold.
type listing struct {
	entries   entries
	packets   map[string]uint64   // service -> packets counted
	balancers map[string]balancer // by service
}

// early takes in what passes between hosts before it is known what else is
// wanted: rules are made only if there are none, and nothing else is removed.
func (p *Plane) early() error {
	found, err := p.read()
	if err != nil {
		return err
	}
	want, have := p.around.entries(), entries{}
	changes := plan{}
	for _, s := range []*set{links, remote, hosts} {
		have[s] = found.entries[s]
		changes.diff(entries{s: have[s]}, entries{s: want[s]})
	}
	b := builder{lib: p.lib}
	chains, fresh := p.around.chains(), !p.have.structure.table
	if fresh {
		if err := b.frame(&p.have.structure); err != nil {
			return err
		}
		b.put(&p.have.structure, without(chains, true))
	}
	if err := b.flush(); err != nil {
		return err
	}
	if err := p.write(changes, nil); err != nil {
		return err
	}
	if fresh {
		b.put(&p.have.structure, chains)
	}
	return b.flush()
}

// without are the chains that the kernel calls, or those that it does not.
func without(chains []chain, hooks bool) []chain {
	return slices.DeleteFunc(slices.Clone(chains), func(c chain) bool { return (c.hook != nil) == hooks })
}

// apply makes the kernel as is wanted: by what has changed, or all of it if the
// kernel is not known.
func (p *Plane) apply(dirty map[lb.Key]bool, moved []netip.Addr, now time.Time) error {
	if !p.begun {
		return nil
	}
	var found *listing // nil: not read
	if !p.have.known {
		var err error
		if found, err = p.read(); err != nil {
			return err
		}
		p.have.frontends, p.have.endpoints = map[lb.Key]*frontend{}, map[netip.Addr]lb.Endpoint{}
		p.have.shared = map[*set]map[string]int{vips: {}, targets: {}}
		dirty = map[lb.Key]bool{}
		for k := range p.frontends {
			dirty[k] = true
		}
		moved = slices.Collect(maps.Keys(p.endpoints))
	}
	around := p.around
	rules := found != nil || p.have.around == nil || !p.have.around.equal(&around)

	changes := plan{}
	old, want := entries{}, entries{}
	shared := counts{}
	if p.opts.DNS.IsValid() && found != nil {
		shared.add(vips, string(p.opts.DNS.AsSlice()), 1)
	}
	if rules {
		if p.have.around != nil {
			old.merge(p.have.around.entries())
		}
		want.merge(around.entries())
	}
	for _, a := range moved {
		if e, had := p.have.endpoints[a]; had {
			old.merge(endpointEntries(a, e))
		}
		if e, wanted := p.endpoints[a]; wanted {
			want.merge(endpointEntries(a, e))
		}
	}
	next := map[lb.Key]*frontend{}
	had := map[lb.Key]balancer{}
	for k := range dirty {
		if o := p.have.frontends[k]; o != nil {
			had[k] = o.balancer
		} else if b, has := p.found(found, k); has {
			had[k] = b
			p.have.pool.users[b]++ // nobody else's, until the frontend has taken it
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(dirty), lb.Key.Compare) {
		o, f := p.have.frontends[k], p.frontends[k]
		if f != nil {
			n := &frontend{Frontend: f}
			n.backends = p.effective(f, o, found, now)
			n.slots = slotsOf(scheduler(f.Scheduler), n.backends)
			n.balancer = p.have.pool.pick(f, len(n.slots), had[k])
			p.have.pool.use(n.balancer, 1)
			own, others := n.entriesOf(p.have.pool.numbers[n.balancer])
			want.merge(own)
			shared.merge(others, 1)
			next[k] = n
		}
		if o != nil {
			own, others := o.entriesOf(p.have.pool.numbers[o.balancer])
			old.merge(own)
			shared.merge(others, -1)
			p.have.pool.use(o.balancer, -1)
		}
	}
	if found != nil {
		p.have.pool.users = map[balancer]int{}
		for _, n := range next {
			p.have.pool.users[n.balancer]++
		}
	}
	if found != nil {
		p.have.withheld = nil
	}
	for k, f := range p.withheld {
		if p.have.withheld[k] != f {
			shared.merge(targetsOf(k, f.Backends), 1)
		}
	}
	for k, f := range p.have.withheld {
		if p.withheld[k] != f {
			shared.merge(targetsOf(k, f.Backends), -1)
		}
	}
	shared.apply(p.have.shared, old, want)

	// Balancers: those that are new come first, those that nobody uses go last.
	unused := p.have.pool.unused()
	var chains []chain
	if found != nil {
		old = found.entries
		for b, n := range p.have.pool.numbers {
			want.put(balancers, be16(n), []byte(b.chain()))
			chains = append(chains, chain{name: b.chain(), rules: b.rules()})
		}
	} else {
		for _, n := range next {
			if b := n.balancer; p.have.structure.chains[b.chain()] == nil {
				want.put(balancers, be16(p.have.pool.numbers[b]), []byte(b.chain()))
				chains = append(chains, chain{name: b.chain(), rules: b.rules()})
			}
		}
		for _, b := range unused {
			old.put(balancers, be16(b.number), []byte(b.chain()))
		}
	}
	changes.diff(old, want)

	b := builder{lib: p.lib}
	if rules {
		if err := b.frame(&p.have.structure); err != nil {
			return err
		}
		chains = append(without(around.chains(), true), chains...)
	}
	b.put(&p.have.structure, unique(chains))
	if err := p.flush(&b); err != nil {
		return err
	}
	leaving, later := p.split(p.leaves(changes))
	if err := p.write(changes, found); err != nil {
		return err
	}
	if rules {
		b.put(&p.have.structure, without(around.chains(), false))
	}
	var gone []string
	if rules {
		wanted := map[string]bool{}
		for _, c := range around.chains() {
			wanted[c.name] = true
		}
		for b := range p.have.pool.numbers {
			wanted[b.chain()] = true
		}
		for name := range p.have.structure.chains {
			if !wanted[name] {
				gone = append(gone, name)
			}
		}
	} else {
		for _, b := range unused {
			gone = append(gone, b.chain())
		}
	}
	b.remove(&p.have.structure, gone)
	if err := p.flush(&b); err != nil {
		return err
	}

	for k := range dirty {
		if o := p.have.frontends[k]; o != nil && k.Published() {
			for _, s := range o.services() {
				delete(p.have.taken, string(s))
			}
		}
		if n := next[k]; n == nil {
			delete(p.have.frontends, k)
		} else {
			p.have.frontends[k] = n
		}
	}
	if found != nil {
		p.have.taken = map[string]bool{}
	}
	for k, n := range next {
		if k.Published() {
			for _, s := range n.services() {
				p.have.taken[string(s)] = true
			}
		}
	}
	for _, a := range moved {
		if e, wanted := p.endpoints[a]; wanted {
			p.have.endpoints[a] = e
		} else {
			delete(p.have.endpoints, a)
		}
	}
	p.have.around, p.have.known = &around, true
	p.have.withheld = maps.Clone(p.withheld)
	if c := changes[services]; found != nil && c != nil && len(c.put) > 0 {
		if err := p.note(); err != nil {
			p.log.Warn("look for connections of services", "error", err)
		}
	}
	if found != nil {
		p.draining = map[lb.Key]bool{}
	}
	for k := range dirty {
		delete(p.draining, k)
	}
	for k := range drainingNow(next) {
		p.draining[k] = true
		p.look = firstLook
	}
	p.forgetFlows(leaving, later)
	return nil
}

// flush writes to the structure, and keeps count of the generation.
func (p *Plane) flush(b *builder) error {
	if b.writes == 0 {
		return nil
	}
	if err := b.flush(); err != nil {
		return err
	}
	if p.have.generation != 0 {
		p.have.generation++
		if gen, err := p.c.generation(); err != nil || gen != p.have.generation {
			p.have.generation = 0
		}
	}
	return nil
}

// write does a plan. Packets that a service has counted stay counted when its
// entry is replaced.
func (p *Plane) write(changes plan, found *listing) error {
	var packets map[string]uint64
	if c := changes[services]; c != nil {
		var replaced []string
		for k := range c.put {
			if _, again := c.remove[k]; again {
				replaced = append(replaced, k)
			}
		}
		if found != nil {
			packets = found.packets
		} else if len(replaced) > 0 {
			var err error
			if packets, err = p.c.counted(replaced); err != nil {
				return err
			}
		}
	}
	for _, steps := range changes.batches(packets) {
		err := p.c.write(steps, p.have.generation)
		if errors.Is(err, errStale) {
			// Somebody else wrote something, most likely elsewhere.
			p.have.generation = 0
			err = p.c.write(steps, 0)
		}
		if err != nil {
			return err
		}
		if p.have.generation != 0 {
			p.have.generation++
		}
	}
	return nil
}

// found is the balancer that a frontend has in the kernel, or else had.
func (p *Plane) found(l *listing, k lb.Key) (b balancer, has bool) {
	f := p.frontends[k]
	if l == nil || f == nil {
		return b, false
	}
	if b, has = l.balancers[string((&frontend{Frontend: f}).services()[0])]; !has {
		b, has = p.former.balancers[k]
	}
	return b, has
}

// unique drops chains that come twice.
func unique(cs []chain) (out []chain) {
	seen := map[string]bool{}
	for _, c := range cs {
		if !seen[c.name] {
			seen[c.name] = true
			out = append(out, c)
		}
	}
	return out
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
