package ipvs

import (
	"errors"
	"maps"
	"slices"
	"time"

	"shoal/kernel/ipset"
	"shoal/kernel/ipvs"
)

// GoOn is the time after which [Balancer.Reconcile] wants to be called when it
// is in the middle of a full pass: at once, with the newest Snapshot.
const GoOn = time.Nanosecond

const (
	// auditSlice is about how long a call goes on with a full pass, before it
	// lets changes of the Snapshot be written.
	auditSlice = 20 * time.Millisecond

	// atOnce is of how many services one piece of a full pass reads the
	// destinations, a system call each.
	atOnce = 256

	// perPass is of how many all of a full pass does, at the most. Of more, they
	// take turns: every pass sees all services, and how many destinations each
	// has, in one call; what waits for its turn is a weight that somebody changed.
	perPass = 16 * atOnce
)

// piece looks at one part of the kernel. It takes what it finds for what is
// known of the kernel, and touches what is to be compared with what is wanted.
type piece func(t touched) error

// pieces are what a full pass looks at: with ten thousand services it takes
// longer than a change may wait, so it can be left off after each.
func (b *Balancer) pieces() (ps []piece) {
	for _, s := range sets {
		ps = append(ps, func(t touched) error { return b.auditSet(s, t) })
	}
	ps = append(ps, b.auditServices)
	for marks := range slices.Chunk(b.turn(perPass), atOnce) {
		ps = append(ps, func(t touched) error { return b.auditDestinations(marks, t) })
	}
	return ps
}

// turn is whose turn it is to have their destinations read: n known services at
// the most, from the one after the last that had it.
func (b *Balancer) turn(n int) []uint32 {
	marks := slices.Sorted(maps.Keys(b.table.Known))
	if len(marks) <= n {
		return marks
	}
	next, found := slices.BinarySearch(marks, b.audited)
	if found {
		next++
	}
	marks = slices.Concat(marks[next:], marks[:next])[:n]
	b.audited = marks[n-1]
	return marks
}

// goOn goes on with the audit: to its end, or for a slice of time.
func (b *Balancer) goOn(t touched) error {
	for start := time.Now(); len(b.audit) > 0 && (t.all || time.Since(start) < auditSlice); b.audit = b.audit[1:] {
		if err := b.audit[0](t); err != nil {
			return err
		}
	}
	return nil
}

// auditSet reads a set, and makes it where it is missing.
func (b *Balancer) auditSet(s ipset.Set, t touched) error {
	held, err := ipset.List(s.Name)
	if errors.Is(err, ipset.ErrNotExist) {
		if err = ipset.Create(s); err != nil {
			return err
		}
		b.log.Debug("set made", "set", s.Name)
		held = entries{}
	}
	if err != nil {
		return err
	}
	known := b.sets[s.Name]
	b.sets[s.Name] = held
	for e, mark := range held {
		if f, has := frontOf(s.Name, e); has {
			b.marks.adopt(f, mark)
			if was, had := known[e]; !had || was != mark {
				t.front(f)
			}
		} else if b.want[s.Name][e] == 0 {
			t.entry(s.Name, e)
		}
	}
	for e := range known {
		if _, has := held[e]; has {
			continue
		}
		if f, has := frontOf(s.Name, e); has {
			t.front(f)
		}
	}
	for e := range b.want[s.Name] {
		if _, has := held[e]; !has {
			t.entry(s.Name, e)
		}
	}
	return nil
}

// auditServices reads all services, and the destinations of those that are not
// as they are known or have another number of destinations.
func (b *Balancer) auditServices(t touched) error {
	found, err := b.table.IPVS.Services()
	if err != nil {
		return err
	}
	for mark := range b.table.Known {
		if _, has := found[mark]; !has {
			delete(b.table.Known, mark)
			b.touch(mark, t)
		}
	}
	for mark, s := range found {
		if !ours(mark) {
			continue
		}
		if !b.marks.reserve(mark) {
			t.orphans[mark] = true
		}
		v := b.table.Known[mark]
		if v != nil && v.Service == s.Service && len(v.Dests) == s.Destinations {
			continue
		}
		dests, err := b.table.IPVS.ReadDestinations(mark, s.Destinations)
		if errors.Is(err, ipvs.ErrNotExist) {
			continue // gone since
		}
		if err != nil {
			return err
		}
		b.table.Known[mark] = &ipvs.Virtual{Service: s.Service, Dests: dests}
		b.touch(mark, t)
	}
	return nil
}

// auditDestinations reads the destinations of services.
func (b *Balancer) auditDestinations(marks []uint32, t touched) error {
	for _, mark := range marks {
		v := b.table.Known[mark]
		if v == nil {
			continue // gone since
		}
		dests, err := b.table.IPVS.ReadDestinations(mark, len(v.Dests))
		if errors.Is(err, ipvs.ErrNotExist) {
			continue // the next pass finds out
		}
		if err != nil {
			return err
		}
		same := len(dests) == len(v.Dests)
		for addr, d := range dests {
			known, has := v.Dests[addr]
			same = same && has && known.Weight == d.Weight
		}
		v.Dests = dests
		if !same {
			b.touch(mark, t)
		}
	}
	return nil
}

// touch has the front of a mark compared.
func (b *Balancer) touch(mark uint32, t touched) {
	if f := b.marks.taken[mark]; f != (front{}) {
		t.front(f)
	}
}

// unknown says that nothing is known of the kernel any more, or yet.
func (b *Balancer) unknown() {
	b.forget()
	b.audit = nil
	b.sets, b.table.Known, b.draining = map[string]entries{}, map[uint32]*ipvs.Virtual{}, map[front]bool{}
}
