package ipvs

import (
	"errors"
	"maps"
	"slices"
	"time"

	"shoal/kernel/ipset"
	"shoal/kernel/ipvs"
)

// A full pass reads all of a small namespace. Of a large one it reads how many
// services there are and how many entries each set has, which takes one call each
// and shows at once what was flushed, deleted or added; and beside that a share, so
// that passes go round all of it in turns. What waits for its turn is what
// somebody replaced by as many others, or changed: a mark, a weight, a scheduler,
// destinations.

const (
	// auditSlice is about how long a call goes on with a full pass, before it
	// lets changes be written.
	auditSlice = 20 * time.Millisecond

	// auditShare is how many services a full pass reads with their destinations,
	// two system calls each, or as much of the sets instead.
	auditShare = 1024

	// entriesPerService is how many entries of a set take about as long to read
	// as one service.
	entriesPerService = 8

	// atOnce is how many services one step reads.
	atOnce = 256
)

// auditStep looks at one part of the kernel. It takes what it finds for what is
// known of the kernel, and touches what is to be compared with what is wanted.
type auditStep func() error

// round is what is left to be read of a namespace, of all that it had when the
// round began.
type round struct {
	sets  []ipset.Set
	marks []uint32 // of services
	owed  int      // what was read beyond its share: a set is read whole
}

// over tells whether everything was read.
func (r *round) over() bool { return len(r.sets)+len(r.marks) == 0 }

// turn takes from the round what a full pass reads. Size is how many entries a
// set has.
func (r *round) turn(share int, size func(ipset.Set) int) (sets []ipset.Set, marks []uint32) {
	left := share - r.owed
	for ; len(r.sets) > 0 && left > 0; r.sets = r.sets[1:] {
		sets = append(sets, r.sets[0])
		left -= 1 + size(r.sets[0])/entriesPerService
	}
	n := min(len(r.marks), max(left, 0))
	marks, r.marks = r.marks[:n], r.marks[n:]
	r.owed = max(n-left, 0)
	return sets, marks
}

// steps are what a full pass looks at. It can be left off after each: a set may
// be large, and at first all is read.
func (s *space) steps() (steps []auditStep) {
	if !s.read {
		s.round = round{}
		for _, set := range s.sets {
			steps = append(steps, func() error { return s.auditSet(set) })
		}
		return append(steps, s.auditServices)
	}
	if s.round.over() {
		s.round = round{s.sets, slices.Sorted(maps.Keys(s.table.known)), s.round.owed}
	}
	sets, marks := s.round.turn(auditShare, func(set ipset.Set) int { return len(s.held[set.Name]) })
	for _, set := range sets {
		steps = append(steps, func() error { return s.auditSet(set) })
	}
	if len(sets) < len(s.sets) {
		steps = append(steps, func() error { return s.auditSizes(sets) })
	}
	for marks := range slices.Chunk(marks, atOnce) {
		steps = append(steps, func() error { return s.auditDestinations(marks) })
	}
	return append(steps, s.auditCount) // when it is known which of these are gone
}

// goOn goes on with the audit: to its end if nothing is known yet, else until
// its slice of time is over.
func (s *space) goOn(start time.Time) error {
	for ; len(s.audit) > 0 && (!s.read || time.Since(start) < auditSlice); s.audit = s.audit[1:] {
		if err := s.audit[0](); err != nil {
			return err
		}
	}
	return nil
}

// auditSizes has those sets read that are missing or have another number of
// entries than is known, but for those that are read anyhow. Where the kernel does
// not tell the number, each is read.
func (s *space) auditSizes(but []ipset.Set) error {
	var sizes map[string]int
	if err := s.in(func() (err error) {
		sizes, err = ipset.Sizes()
		return err
	}); err != nil {
		return err
	}
	for _, set := range s.sets {
		if slices.Contains(but, set) {
			continue
		}
		if size, has := sizes[set.Name]; !has || size != len(s.held[set.Name]) {
			s.audit = append(s.audit, func() error { return s.auditSet(set) })
		}
	}
	return nil
}

// auditSet reads a set, and makes it where it is missing.
func (s *space) auditSet(set ipset.Set) error {
	var held entries
	if err := s.in(func() (err error) {
		held, err = ipset.List(set.Name)
		if errors.Is(err, ipset.ErrNotExist) {
			held, err = entries{}, ipset.Create(set)
		}
		return err
	}); err != nil {
		return err
	}
	known := s.held[set.Name]
	s.held[set.Name] = held
	for e, mark := range held {
		if k, has := keyOf(set.Name, e); has {
			s.marks.adopt(k, mark)
			if was, had := known[e]; !had || was != mark {
				s.todo.keys[k] = true
			}
		} else if s.want[set.Name][e] == 0 {
			s.todo.entry(set.Name, e)
		}
	}
	for e := range known {
		if _, has := held[e]; has {
			continue
		}
		if k, has := keyOf(set.Name, e); has {
			s.todo.keys[k] = true
		}
	}
	for e := range s.want[set.Name] {
		if s.lacks(set, e) {
			s.todo.entry(set.Name, e)
		}
	}
	return nil
}

// auditCount has all services read if there are more or fewer than is known.
func (s *space) auditCount() error {
	count, err := s.table.ipvs.Count()
	if err == nil && count != s.table.count {
		s.audit = append(s.audit, s.auditServices)
	}
	return err
}

// auditServices reads all services, and the destinations of those that are not
// as they are known or have another number of destinations.
func (s *space) auditServices() error {
	found, count, err := s.table.ipvs.Services()
	if err != nil {
		return err
	}
	s.table.count = count
	for mark := range s.table.known {
		if _, has := found[mark]; !has {
			delete(s.table.known, mark)
			s.touch(mark)
		}
	}
	for mark, svc := range found {
		if !s.ours(mark) {
			continue
		}
		if !s.marks.reserve(mark) {
			s.todo.orphans[mark] = true
		}
		v := s.table.known[mark]
		if v != nil && v.Service == svc.Service && len(v.Dests) == svc.Destinations {
			continue
		}
		dests, err := s.table.ipvs.ReadDestinations(mark, svc.Destinations)
		if errors.Is(err, ipvs.ErrNotExist) {
			continue // gone since
		}
		if err != nil {
			return err
		}
		s.table.known[mark] = &ipvs.Virtual{Service: svc.Service, Dests: dests}
		s.touch(mark)
	}
	return nil
}

// auditDestinations reads services, each with its destinations.
func (s *space) auditDestinations(marks []uint32) error {
	for _, mark := range marks {
		known := s.table.known[mark]
		if known == nil {
			continue // gone since the round began
		}
		v, err := s.table.ipvs.Read(mark)
		if errors.Is(err, ipvs.ErrNotExist) {
			s.table.forget(mark)
			s.touch(mark)
			continue
		}
		if err != nil {
			return err
		}
		s.table.known[mark] = v
		if !alike(v, known) {
			s.touch(mark)
		}
	}
	return nil
}

// alike tells whether two services are the same, whatever connections their
// destinations have.
func alike(a, b *ipvs.Virtual) bool {
	if a.Service != b.Service || len(a.Dests) != len(b.Dests) {
		return false
	}
	for addr, d := range a.Dests {
		if other, has := b.Dests[addr]; !has || other.Weight != d.Weight {
			return false
		}
	}
	return true
}

// touch has the frontend of a mark compared.
func (s *space) touch(mark uint32) {
	if k, known := s.marks.key(mark); known {
		s.todo.keys[k] = true
	}
}
