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

	// auditShare is of how many services a full pass reads the destinations, a
	// system call each, or as much of the other things instead.
	auditShare = 1024

	// So many entries of a set, and so many services in a list of all, take no
	// longer to read than the destinations of one service.
	entriesPerService = 8
	listedPerService  = 32

	// atOnce is of how many services one step reads the destinations.
	atOnce = 256
)

// auditStep looks at one part of the kernel. It takes what it finds for what is
// known of the kernel, and touches what is to be compared with what is wanted.
type auditStep func() error

// work is what passes read.
type work struct {
	sets  []ipset.Set
	list  bool     // all services, each with the number of its destinations
	marks []uint32 // of services whose destinations are read
}

// round is what is left to be read of a namespace, of all that it had when the
// round began.
type round struct {
	work
	owed int // what was read beyond a share: sets are read whole, and so is the list
}

// over tells whether everything was read.
func (r *round) over() bool { return len(r.sets)+len(r.marks) == 0 && !r.list }

// turn takes from the round what a full pass reads. Size is how many entries a
// set has.
func (r *round) turn(share int, size func(ipset.Set) int) (w work) {
	left := share - r.owed
	for ; len(r.sets) > 0 && left > 0; r.sets = r.sets[1:] {
		w.sets = append(w.sets, r.sets[0])
		left -= 1 + size(r.sets[0])/entriesPerService
	}
	if r.list && left > 0 {
		w.list, r.list = true, false
		left -= len(r.marks) / listedPerService
	}
	n := min(len(r.marks), max(left, 0))
	w.marks, r.marks = r.marks[:n], r.marks[n:]
	r.owed = max(n-left, 0)
	return w
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
		s.round.work = work{s.sets, true, slices.Sorted(maps.Keys(s.table.known))}
	}
	w := s.round.turn(auditShare, func(set ipset.Set) int { return len(s.held[set.Name]) })
	for _, set := range w.sets {
		steps = append(steps, func() error { return s.auditSet(set) })
	}
	if len(w.sets) < len(s.sets) {
		steps = append(steps, func() error { return s.auditSizes(w.sets) })
	}
	if w.list {
		steps = append(steps, s.auditServices)
	}
	for marks := range slices.Chunk(w.marks, atOnce) {
		steps = append(steps, func() error { return s.auditDestinations(marks) })
	}
	if !w.list {
		steps = append(steps, s.auditCount) // when it is known which of these are gone
	}
	return steps
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

// auditDestinations reads the destinations of services.
func (s *space) auditDestinations(marks []uint32) error {
	for _, mark := range marks {
		v := s.table.known[mark]
		if v == nil {
			continue // gone since the round began
		}
		dests, err := s.table.ipvs.ReadDestinations(mark, len(v.Dests))
		if errors.Is(err, ipvs.ErrNotExist) {
			s.table.forget(mark)
			s.touch(mark)
			continue
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
			s.touch(mark)
		}
	}
	return nil
}

// touch has the frontend of a mark compared.
func (s *space) touch(mark uint32) {
	if k, known := s.marks.key(mark); known {
		s.todo.keys[k] = true
	}
}
