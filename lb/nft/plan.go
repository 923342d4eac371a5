package nft

import (
	"maps"
	"slices"
)

// change is what is done to a set. An entry that gets another value is removed
// and put in one go.
type change struct {
	put, remove map[string]string // with the values that they get, or had
}

// plan is what is done to sets.
type plan map[*set]*change

func (p plan) of(s *set) *change {
	if p[s] == nil {
		p[s] = &change{map[string]string{}, map[string]string{}}
	}
	return p[s]
}

// diff adds to a plan what makes of one state another.
func (p plan) diff(have, want entries) {
	for s, w := range want {
		h := have[s]
		for k, v := range w {
			if old, has := h[k]; !has {
				p.of(s).put[k] = v
			} else if old != v {
				c := p.of(s)
				c.put[k], c.remove[k] = v, old
			}
		}
	}
	for s, h := range have {
		w := want[s]
		for k, v := range h {
			if _, wanted := w[k]; !wanted {
				p.of(s).remove[k] = v
			}
		}
	}
}

// step is one write to a set.
type step struct {
	set    *set
	put    bool
	values []entry
}

// most is how many entries one message holds, so that it is shorter than an
// attribute can be (64 KiB), and perBatch how many a transaction does.
const (
	most     = 400
	perBatch = 8000
)

// batches are the writes of a plan, in transactions. All of a small plan is one.
// Of a large one what is found by packets comes last and goes first. An entry
// that is replaced keeps the packets that it has counted.
func (p plan) batches(packets map[string]uint64) (all [][]step) {
	var now []step
	room := perBatch
	add := func(steps ...step) {
		n := 0
		for _, s := range steps {
			n += len(s.values)
		}
		if n > room && len(now) > 0 {
			all = append(all, now)
			now, room = nil, perBatch
		}
		now = append(now, steps...)
		room -= n
	}
	remove := func(s *set, replaced bool) {
		c := p[s]
		var es []entry
		for _, k := range slices.Sorted(maps.Keys(c.remove)) {
			if _, again := c.put[k]; again == replaced {
				es = append(es, entry{key: k, value: c.remove[k]})
			}
		}
		for part := range slices.Chunk(es, most) {
			if !replaced {
				add(step{s, false, part})
				continue
			}
			again := slices.Clone(part)
			for i := range again {
				again[i].value = c.put[again[i].key]
				if s.counter {
					again[i].packets = packets[again[i].key]
				}
			}
			add(step{s, false, part}, step{s, true, again})
		}
	}
	// What packets find no more, before anything takes its place.
	if p[services] != nil {
		remove(services, false)
	}
	for _, s := range sets {
		if p[s] == nil {
			continue
		}
		c := p[s]
		if s.interval {
			remove(s, false) // an overlap with what goes would be refused
		}
		remove(s, true)
		var es []entry
		for _, k := range slices.Sorted(maps.Keys(c.put)) {
			if _, replaced := c.remove[k]; !replaced {
				es = append(es, entry{key: k, value: c.put[k]})
			}
		}
		for part := range slices.Chunk(es, most) {
			add(step{s, true, part})
		}
	}
	for _, s := range slices.Backward(sets) {
		if p[s] != nil && s != services && !s.interval {
			remove(s, false)
		}
	}
	if len(now) > 0 {
		all = append(all, now)
	}
	return all
}
