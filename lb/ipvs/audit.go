package ipvs

import (
	"errors"
	"maps"
	"slices"
	"time"

	"shoal/kernel/ipset"
	"shoal/kernel/ipvs"
)

const (
	// auditSlice is about how long a call goes on with a full pass, before it
	// lets changes be written.
	auditSlice = 20 * time.Millisecond

	// atOnce is of how many services one piece of a full pass reads the
	// destinations, a system call each.
	atOnce = 256

	// perPass is of how many all of a full pass does, at the most. Of more, they
	// take turns: every pass sees all services, and how many destinations each
	// has, in one call; what waits for its turn is a weight that somebody changed.
	perPass = 16 * atOnce
)

// auditStep looks at one part of the kernel. It takes what it finds for what is
// known of the kernel, and touches what is to be compared with what is wanted.
type auditStep func() error

// pieces are what a full pass looks at: with ten thousand services it takes
// longer than a change may wait, so it can be left off after each.
func (s *space) pieces() (ps []auditStep) {
	for _, set := range s.sets {
		ps = append(ps, func() error { return s.auditSet(set) })
	}
	ps = append(ps, s.auditServices)
	for marks := range slices.Chunk(s.turn(perPass), atOnce) {
		ps = append(ps, func() error { return s.auditDestinations(marks) })
	}
	return ps
}

// turn is whose turn it is to have their destinations read: n known services at
// the most, from the one after the last that had it.
func (s *space) turn(n int) []uint32 {
	marks := slices.Sorted(maps.Keys(s.table.known))
	if len(marks) <= n {
		return marks
	}
	next, found := slices.BinarySearch(marks, s.audited)
	if found {
		next++
	}
	marks = slices.Concat(marks[next:], marks[:next])[:n]
	s.audited = marks[n-1]
	return marks
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

// auditServices reads all services, and the destinations of those that are not
// as they are known or have another number of destinations.
func (s *space) auditServices() error {
	found, err := s.table.ipvs.Services()
	if err != nil {
		return err
	}
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
			continue // gone since
		}
		dests, err := s.table.ipvs.ReadDestinations(mark, len(v.Dests))
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
