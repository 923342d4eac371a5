package lb

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"shoal/kernel/ipset"
	"shoal/kernel/ipvs"
)

// apply compares what was touched with what the kernel has, and writes the
// difference. What is known of the kernel follows each write that succeeded.
func (b *Balancer) apply(t touched, now time.Time) {
	failed := map[front]error{}
	var steps []step
	compare := func(f front) {
		want := b.virtual(f)
		mark, known := b.marks.of[f]
		if !known && want != nil && want.live() {
			if mark, known = b.marks.get(f); !known {
				failed[f] = errors.New("no mark is left: more than eight million fronts")
				return
			}
		}
		ss, draining := diff(f, want, mark, b.found(f), now)
		steps = append(steps, ss...)
		delete(b.draining, f)
		if draining {
			b.draining[f] = true
		}
		if len(ss) > 0 || len(b.failing) > 0 {
			t.fronts[f] = true // its outcome is to be recorded
		}
	}
	if t.all {
		steps = b.orphans()
		b.everyFront(compare)
	} else {
		for f := range t.fronts {
			compare(f)
		}
	}

	b.fill(t, ground...)
	for k := putService; k <= delService; k++ {
		var marks []step
		for _, s := range steps {
			switch {
			case s.kind != k:
			case k == setMark || k == delMark:
				marks = append(marks, s)
			default:
				b.take(s, failed)
			}
		}
		b.takeMarks(k, marks, failed)
	}
	b.fill(t, setPing)
	b.drop(t)

	for f := range t.fronts {
		b.failing.put(object{front: f}, failed[f], now)
		if have := b.found(f); have.entry == 0 && have.service == nil {
			b.marks.free(f)
		}
	}
}

// everyFront visits those that are wanted and those that have a mark in the
// kernel.
func (b *Balancer) everyFront(visit func(front)) {
	for f := range b.owner {
		visit(f)
	}
	for _, s := range sets {
		for e := range b.sets[s.Name] {
			if f, has := frontOf(s.Name, e); !has {
				break
			} else if _, wanted := b.owner[f]; !wanted {
				visit(f)
			}
		}
	}
}

// take does one step that is about IPVS.
func (b *Balancer) take(s step, failed map[front]error) {
	v := b.table[s.mark]
	if s.kind != putService && v == nil {
		return // its service could not be made
	}
	var err error
	switch s.kind {
	case putService:
		if err = b.ipvs.Put(s.service); err == nil {
			if v == nil {
				v = &ipvs.Virtual{Dests: map[netip.AddrPort]ipvs.Dest{}}
				b.table[s.mark] = v
			}
			v.Service = s.service
		}
	case putDest, lowerDest:
		if err = b.ipvs.PutDestination(s.mark, s.dest); err == nil {
			d := v.Dests[s.dest.Addr]
			d.Weight = s.dest.Weight
			v.Dests[s.dest.Addr] = d
		}
	case delDest:
		if err = b.ipvs.DeleteDestination(s.mark, s.dest.Addr); err == nil {
			delete(v.Dests, s.dest.Addr)
		}
	case delService:
		if s.front != (front{}) && b.found(s.front).entry != 0 {
			return // its mark could not be taken back: leave both
		}
		if err = b.ipvs.Delete(s.mark); err == nil {
			delete(b.table, s.mark)
			if s.front == (front{}) {
				delete(b.marks.taken, s.mark)
			}
		}
	}
	if err != nil && failed[s.front] == nil {
		failed[s.front] = err
	}
}

// takeMarks does all steps of one kind that are about marks, set by set.
func (b *Balancer) takeMarks(k kind, steps []step, failed map[front]error) {
	bySet := map[string]entries{}
	for _, s := range steps {
		if k == setMark && s.mark&parked == 0 && !b.serves(s.mark) {
			continue // no destination could be added: keep refusing
		}
		set, e := s.front.where()
		if bySet[set] == nil {
			bySet[set] = entries{}
		}
		bySet[set][e] = s.mark
	}
	for _, set := range sets {
		batch := bySet[set.Name]
		var refused map[ipset.Entry]error
		if k == setMark {
			refused = b.put(set, batch)
		} else {
			refused = b.remove(set, batch)
		}
		for e, err := range refused {
			if f, has := frontOf(set.Name, e); has && failed[f] == nil {
				failed[f] = err
			}
		}
	}
}

// serves tells whether the kernel's service of that mark takes connections.
func (b *Balancer) serves(mark uint32) bool {
	if v := b.table[mark]; v != nil {
		for _, d := range v.Dests {
			if d.Weight > 0 {
				return true
			}
		}
	}
	return false
}

// fill adds what is wanted and missing in sets without marks.
func (b *Balancer) fill(t touched, which ...ipset.Set) {
	for _, s := range which {
		missing := entries{}
		check := func(e ipset.Entry) {
			if _, has := b.sets[s.Name][e]; !has && b.want[s.Name][e] > 0 {
				missing[e] = 0
			}
		}
		for e := range t.entries[s.Name] {
			check(e)
		}
		if t.all {
			for e := range b.want[s.Name] {
				check(e)
			}
		}
		b.report(s, b.put(s, missing))
	}
}

// drop removes what is there and not wanted from sets without marks.
func (b *Balancer) drop(t touched) {
	for _, s := range slices.Backward(sets) {
		if s.Mark {
			continue
		}
		stale := entries{}
		check := func(e ipset.Entry) {
			if _, has := b.sets[s.Name][e]; has && b.want[s.Name][e] == 0 {
				stale[e] = 0
			}
		}
		for e := range t.entries[s.Name] {
			check(e)
		}
		if t.all {
			for e := range b.sets[s.Name] {
				check(e)
			}
		}
		if refused := b.remove(s, stale); len(refused) > 0 {
			b.report(s, refused)
		}
	}
}

// report records what a set without marks refused, one entry for all.
func (b *Balancer) report(s ipset.Set, refused map[ipset.Entry]error) {
	delete(b.failing, object{part: "set " + s.Name})
	for e, err := range refused {
		b.failing.put(object{part: "set " + s.Name}, fmt.Errorf("%d entries were refused, %s with: %w", len(refused), e.Net, err), time.Now())
		return
	}
}

func (b *Balancer) put(s ipset.Set, batch entries) map[ipset.Entry]error {
	refused := ipset.Put(s, batch)
	for e, mark := range batch {
		if refused[e] == nil {
			b.sets[s.Name][e] = mark
		}
	}
	return refused
}

func (b *Balancer) remove(s ipset.Set, batch entries) map[ipset.Entry]error {
	refused := ipset.Remove(s, batch)
	for e := range batch {
		if refused[e] == nil {
			delete(b.sets[s.Name], e)
		}
	}
	return refused
}
