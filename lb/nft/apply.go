package nft

import (
	"errors"
	"net/netip"
	"time"

	"shoal/lb"
)

// apply makes the kernel as is wanted: by what has changed, or all of it if the
// kernel is not known.
func (p *Plane) apply(dirty map[lb.Key]bool, moved, rested []netip.Addr, now time.Time) error {
	d := &draft{dirty: dirty, moved: moved, rested: rested, shared: counts{}}
	if !p.have.known {
		found, err := p.read()
		if err != nil {
			return err
		}
		d = p.whole(found)
	}
	p.draw(d, now)
	leaving, later := p.split(p.leaves(d.plan))
	if err := p.carry(d); err != nil {
		return err
	}
	p.written(d)
	p.forgetFlows(leaving, later)
	return nil
}

// carry writes a draft: first the chains that entries lead to, then the entries,
// then the chains that the kernel calls.
func (p *Plane) carry(d *draft) error {
	s, b := &p.have.structure, builder{lib: p.lib}
	if d.rules {
		if err := b.frame(s); err != nil {
			return err
		}
	}
	b.put(s, d.first)
	if err := p.flush(&b); err != nil {
		return err
	}
	if err := p.write(d.plan, d.found); err != nil {
		return err
	}
	b.put(s, d.last)
	b.remove(s, d.gone)
	return p.flush(&b)
}

// written records that the kernel has what a draft says.
func (p *Plane) written(d *draft) {
	if d.found != nil {
		p.have.taken, p.draining = map[string]bool{}, map[lb.Key]bool{}
	}
	count := func(f *frontend, taken bool) {
		if f == nil || !f.Published() {
			return
		}
		for _, k := range f.services() {
			if delete(p.have.taken, string(k)); taken {
				p.have.taken[string(k)] = true
			}
		}
	}
	for k := range d.dirty {
		count(p.have.frontends[k], false)
		delete(p.have.frontends, k)
		delete(p.draining, k)
		delete(p.have.withheld, k)
		if w := p.withheld[k]; w != nil {
			p.have.withheld[k] = w
		}
		if n := d.next[k]; n != nil {
			p.have.frontends[k] = n
			count(n, true)
			if n.drains() {
				p.draining[k] = true
				p.look = firstLook
			}
		}
	}
	for _, a := range d.moved {
		if e, wanted := p.endpoints[a]; wanted {
			p.have.endpoints[a] = e
		} else {
			delete(p.have.endpoints, a)
		}
	}
	for _, a := range d.rested {
		if delete(p.have.resting, a); p.resting[a] {
			p.have.resting[a] = true
		}
	}
	p.have.around, p.have.known = &d.around, true
	if c := d.plan[services]; d.found != nil && c != nil && len(c.put) > 0 {
		if err := p.note(); err != nil {
			p.log.Warn("look for connections of services", "error", err)
		}
	}
}

// early writes what passes between hosts before it is known what else is
// wanted: rules are made only if there are none, and nothing else is removed.
func (p *Plane) early() error {
	found, err := p.read()
	if errors.Is(err, errOtherVersion) {
		return nil // the first pass writes all of it
	}
	if err != nil {
		return err
	}
	want, changes := p.around.entries(), plan{}
	for _, s := range ofBetween.sets {
		changes.diff(entries{s: found.entries[s]}, entries{s: want[s]})
	}
	b := builder{lib: p.lib}
	if fresh := !p.have.structure.table; fresh {
		if err := b.frame(&p.have.structure); err != nil {
			return err
		}
		b.put(&p.have.structure, p.around.chains())
	}
	if err := b.flush(); err != nil {
		return err
	}
	return p.write(changes, nil)
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
