package ipvs

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"shoal/kernel/ipset"
	"shoal/kernel/ipvs"
	"shoal/virtual"
)

// change is what is to be done about a front.
type change struct {
	service ipvs.Service // as wanted; of a front that is to go, its mark alone
	virtual.Plan
	entry uint32 // the mark that the front's set should have, with parked; 0: none
}

// compare is how the kernel comes from what it has of a front to what is wanted,
// and whether that is any write at all.
func (b *Balancer) compare(f front, now time.Time) (c change, writes bool, err error) {
	want := b.wanted(f)
	mark, known := b.marks.of[f]
	if !known && want != nil && want.Live() {
		if mark, known = b.marks.get(f); !known {
			return c, false, errors.New("no mark is left: more than eight million fronts")
		}
	}
	have := b.table.Known[mark]
	c.service.Mark = mark
	if want == nil {
		c.Plan = virtual.Diff(nil, have, now)
	} else {
		service := want.Service
		service.Mark = mark
		c.service, c.Plan = service.Service, virtual.Diff(&service, have, now)
	}
	if !c.Gone {
		if c.entry = mark; !want.Live() {
			c.entry |= parked
		}
	}
	return c, c.entry != b.entry(f) || have != nil && c.Writes() || c.Put, nil
}

// apply compares what was touched with what the kernel has, and writes the
// difference. What is known of the kernel follows each write that succeeded.
//
// A front has real servers before its set gives packets its mark, and loses the
// mark before it loses them.
func (b *Balancer) apply(t touched, now time.Time) {
	changes, failed := map[front]change{}, map[front]error{}
	note := func(f front, err error) {
		if err != nil && failed[f] == nil {
			failed[f] = err
		}
	}
	visit := func(f front) {
		c, writes, err := b.compare(f, now)
		note(f, err)
		delete(b.draining, f)
		if c.Draining {
			b.draining[f] = true
		}
		if writes && err == nil {
			changes[f] = c
		}
		if writes || err != nil || len(b.failing) > 0 {
			t.fronts[f] = true // its outcome is to be recorded
		}
	}
	if t.all {
		b.everyFront(visit)
	} else {
		for f := range t.fronts {
			visit(f)
		}
	}

	b.fill(t, ground...)
	for f, c := range changes {
		note(f, b.table.Raise(c.service, c.Plan))
	}
	b.setMarks(changes, note)
	for f, c := range changes {
		if !c.Gone || b.entry(f) == 0 { // else its mark could not be taken back: leave both
			note(f, b.table.Lower(c.service.Mark, c.Plan))
		}
	}
	for mark := range t.orphans {
		if b.table.Delete(mark) == nil { // else the next full pass tries again
			delete(b.marks.taken, mark)
		}
	}
	b.fill(t, setPing)
	b.drop(t)

	for f := range t.fronts {
		b.failing.put(object{front: f}, failed[f], now)
		if b.entry(f) == 0 && b.table.Known[b.marks.of[f]] == nil {
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

// setMarks brings the entries of fronts in line, set by set.
func (b *Balancer) setMarks(changes map[front]change, note func(front, error)) {
	put, remove := map[string]entries{}, map[string]entries{}
	for f, c := range changes {
		into := put
		switch {
		case c.entry == b.entry(f):
			continue
		case c.entry == 0:
			into = remove
		case c.entry&parked == 0 && !virtual.Serves(b.table.Known[c.service.Mark]):
			continue // no real server could be added: keep refusing
		}
		set, e := f.where()
		if into[set] == nil {
			into[set] = entries{}
		}
		into[set][e] = c.entry
	}
	failed := func(set ipset.Set, refused map[ipset.Entry]error) {
		for e, err := range refused {
			if f, has := frontOf(set.Name, e); has {
				note(f, err)
			}
		}
	}
	for _, set := range sets {
		failed(set, b.put(set, put[set.Name]))
		failed(set, b.remove(set, remove[set.Name]))
	}
}

// entry is the mark that the kernel's set has for a front, with parked; 0: none.
func (b *Balancer) entry(f front) uint32 {
	set, e := f.where()
	if mark, has := b.sets[set][e]; has {
		return max(mark, 1) // somebody's entry without a mark is still an entry
	}
	return 0
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
