package ipvs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"shoal/kernel/ipset"
	"shoal/kernel/ipvs"
	"shoal/lb"
)

// space is what the plane wants and has in one network namespace, the host's or
// the sandbox: sets, and virtual services.
type space struct {
	sets  []ipset.Set                // in the order in which entries go in
	in    func(f func() error) error // calls f in the namespace
	ours  func(mark uint32) bool     // whether a virtual service is the plane's
	marks marker

	// What is wanted.
	frontends map[lb.Key]*lb.Frontend
	want      map[string]map[ipset.Entry]int // sets without marks of frontends: set -> entry -> how many want it
	given     map[string]entries             // the marks that those entries have; of none: 0

	// What the kernel has, as last read and written since.
	read  bool // it was read to the end since it was unknown
	table table
	held  map[string]entries // by set

	audit    []auditStep     // what is left of a full pass
	round    round           // what passes have left to read before all was read once more
	draining map[lb.Key]bool // to be looked at again soon

	todo    dirty // what this pass compares with the kernel
	changes map[lb.Key]change
	failed  map[lb.Key]error
}

func newSpace(sets []ipset.Set, marks marker) *space {
	s := &space{
		sets: sets, marks: marks,
		in:        func(f func() error) error { return f() },
		ours:      func(uint32) bool { return true },
		frontends: map[lb.Key]*lb.Frontend{}, want: map[string]map[ipset.Entry]int{}, given: map[string]entries{},
		failed: map[lb.Key]error{},
	}
	for _, set := range sets {
		if _, has := keyOf(set.Name, ipset.Entry{}); !has {
			s.want[set.Name] = map[ipset.Entry]int{}
		}
	}
	s.unknown()
	return s
}

// unknown says that nothing is known of the kernel any more, or yet.
func (s *space) unknown() {
	s.read, s.audit = false, nil
	s.held, s.table.known, s.draining = map[string]entries{}, map[uint32]*ipvs.Virtual{}, map[lb.Key]bool{}
	s.todo = newDirty(true)
}

// dirty are the frontends, and the entries of sets without marks of frontends,
// that a pass has to compare with the kernel.
type dirty struct {
	all     bool // each of them
	keys    map[lb.Key]bool
	entries map[string]map[ipset.Entry]bool // by set
	orphans map[uint32]bool                 // marks of services that no frontend has
}

func newDirty(all bool) dirty {
	return dirty{all, map[lb.Key]bool{}, map[string]map[ipset.Entry]bool{}, map[uint32]bool{}}
}

func (t *dirty) entry(set string, e ipset.Entry) {
	if t.entries[set] == nil {
		t.entries[set] = map[ipset.Entry]bool{}
	}
	t.entries[set][e] = true
}

// wants adds n to how many want an entry.
func (s *space) wants(set ipset.Set, e ipset.Entry, n int) {
	w := s.want[set.Name]
	if w[e] += n; w[e] == 0 {
		delete(w, e)
	}
	s.todo.entry(set.Name, e)
}

// wantsMarks has a set hold these entries with their marks, and no others.
func (s *space) wantsMarks(set ipset.Set, new entries) {
	for e := range s.given[set.Name] {
		s.wants(set, e, -1)
	}
	for e := range new {
		s.wants(set, e, +1)
	}
	s.given[set.Name] = new
}

// lacks tells whether the kernel has to be given a wanted entry, or another
// mark of it.
func (s *space) lacks(set ipset.Set, e ipset.Entry) bool {
	mark, has := s.held[set.Name][e]
	return !has || set.Mark && mark != s.given[set.Name][e]
}

// touchSet has all entries of a set compared.
func (s *space) touchSet(name string) {
	for e := range s.want[name] {
		s.todo.entry(name, e)
	}
	for e := range s.held[name] {
		s.todo.entry(name, e)
	}
}

// change is what is to be done about a frontend.
type change struct {
	service ipvs.Service // as wanted; of a frontend that is to go, its mark alone
	plan
	entry uint32 // what the frontend's set should have; 0: nothing
}

// compare is how the kernel comes from what it has of a frontend to what is
// wanted, and whether that is any write at all.
func (s *space) compare(k lb.Key, now time.Time) (c change, writes bool, err error) {
	f := s.frontends[k]
	mark, known := s.marks.of(k)
	if !known && f != nil && f.Live() {
		if mark, known = s.marks.get(k); !known {
			return c, false, errors.New("no mark is left: more than eight million frontends")
		}
	}
	have := s.table.known[mark]
	c.service.Mark = mark
	if f == nil {
		c.plan = diff(nil, have, now)
	} else {
		want := serviceOf(f)
		want.Mark = mark
		c.service, c.plan = want.Service, diff(want, have, now)
	}
	if !c.gone {
		c.entry = s.marks.entry(mark, f.Live())
	}
	return c, c.entry != s.entry(k) || have != nil && c.writes() || c.put, nil
}

// drainsOf tells whether a destination is to drain that has no weight already.
func drainsOf(f *lb.Frontend, have *ipvs.Virtual) bool {
	return f != nil && have != nil && slices.ContainsFunc(f.Backends, func(b lb.Backend) bool {
		h, has := have.Dests[b.Addr]
		return has && h.Weight == 0 && !b.Until.IsZero()
	})
}

// entry is the mark that the kernel's set has for a frontend; 0: none.
func (s *space) entry(k lb.Key) uint32 {
	set, e := where(k)
	if mark, has := s.held[set][e]; has {
		return max(mark, 1) // somebody's entry without a mark is still an entry
	}
	return 0
}

// look adds draining destinations to what is compared, with fresh counts of
// their connections.
func (s *space) look() {
	for k := range s.draining {
		s.todo.keys[k] = true
	}
	for k := range s.todo.keys {
		if mark, _ := s.marks.of(k); s.draining[k] || drainsOf(s.frontends[k], s.table.known[mark]) {
			s.fail(k, s.table.recount(mark))
		}
	}
}

func (s *space) fail(k lb.Key, err error) {
	if err != nil && s.failed[k] == nil {
		s.failed[k] = err
	}
}

// decide compares all that was touched.
func (s *space) decide(now time.Time) {
	s.changes = map[lb.Key]change{}
	if s.todo.all {
		s.everyKey(func(k lb.Key) { s.todo.keys[k] = true })
		for set := range s.want {
			s.touchSet(set)
		}
	}
	for k := range s.todo.keys {
		c, writes, err := s.compare(k, now)
		s.fail(k, err)
		delete(s.draining, k)
		if c.draining {
			s.draining[k] = true
		}
		if writes && err == nil {
			s.changes[k] = c
		}
	}
}

// everyKey visits those that are wanted and those that the kernel has.
func (s *space) everyKey(visit func(lb.Key)) {
	for k := range s.frontends {
		visit(k)
	}
	for _, set := range s.sets {
		for e := range s.held[set.Name] {
			k, has := keyOf(set.Name, e)
			if !has {
				break
			}
			visit(k)
		}
	}
	for mark := range s.table.known {
		if k, known := s.marks.key(mark); known {
			visit(k)
		}
	}
}

// The steps of a pass, in the order in which it does them. A frontend has
// destinations before its set gives packets its mark, and loses the mark before it
// loses them.

// retire takes away the frontends that go.
func (s *space) retire() {
	s.giveMarks(true)
	for k, c := range s.changes {
		if c.gone && s.entry(k) == 0 { // else its mark could not be taken back: leave both
			s.fail(k, s.table.lower(c.service.Mark, c.plan))
		}
	}
	for mark := range s.todo.orphans {
		if s.table.delete(mark) == nil {
			s.marks.release(mark)
		} else {
			s.table.count = -1 // the next full pass finds it again
		}
	}
}

func (s *space) raise() {
	for k, c := range s.changes {
		if !c.gone {
			s.fail(k, s.table.raise(c.service, c.plan))
		}
	}
}

func (s *space) lower() {
	for k, c := range s.changes {
		if !c.gone {
			s.fail(k, s.table.lower(c.service.Mark, c.plan))
		}
	}
}

// giveMarks brings the entries of frontends in line, set by set: of those that
// go, or of the others.
func (s *space) giveMarks(gone bool) {
	put, remove := map[string]entries{}, map[string]entries{}
	for k, c := range s.changes {
		into := put
		switch {
		case c.gone != gone || c.entry == s.entry(k):
			continue
		case c.entry == 0:
			into = remove
		case s.marks.entry(c.service.Mark, true) == c.entry && !serves(s.table.known[c.service.Mark]):
			continue // no destination could be added: keep refusing
		}
		set, e := where(k)
		if into[set] == nil {
			into[set] = entries{}
		}
		into[set][e] = c.entry
	}
	for _, set := range s.sets {
		for e, err := range s.put(set, put[set.Name]) {
			k, _ := keyOf(set.Name, e)
			s.fail(k, err)
		}
		for e, err := range s.remove(set, remove[set.Name]) {
			k, _ := keyOf(set.Name, e)
			s.fail(k, err)
		}
	}
}

// finish frees the marks of frontends that the kernel has nothing of any more.
func (s *space) finish() {
	for k := range s.todo.keys {
		if mark, has := s.marks.of(k); has && s.entry(k) == 0 && s.table.known[mark] == nil {
			s.marks.free(k)
		}
	}
}

// fill adds what is wanted and missing in a set without marks of frontends, and
// returns what the kernel refused.
func (s *space) fill(set ipset.Set) map[ipset.Entry]error {
	missing := entries{}
	for e := range s.todo.entries[set.Name] {
		if s.want[set.Name][e] > 0 && s.lacks(set, e) {
			missing[e] = s.given[set.Name][e]
		}
	}
	return s.put(set, missing)
}

// drain removes what is there, not wanted and no business of keep from a set
// without marks of frontends, and returns what the kernel refused.
func (s *space) drain(set ipset.Set, keep func(ipset.Entry) bool) map[ipset.Entry]error {
	stale := entries{}
	for e := range s.todo.entries[set.Name] {
		if _, has := s.held[set.Name][e]; has && s.want[set.Name][e] == 0 && (keep == nil || !keep(e)) {
			stale[e] = 0
		}
	}
	return s.remove(set, stale)
}

func (s *space) put(set ipset.Set, batch entries) map[ipset.Entry]error {
	refused := s.write(ipset.Put, set, batch)
	for e, mark := range batch {
		if refused[e] == nil {
			s.held[set.Name][e] = mark
		}
	}
	return refused
}

func (s *space) remove(set ipset.Set, batch entries) map[ipset.Entry]error {
	refused := s.write(ipset.Remove, set, batch)
	for e := range batch {
		if refused[e] == nil {
			delete(s.held[set.Name], e)
		}
	}
	return refused
}

func (s *space) write(do func(ipset.Set, map[ipset.Entry]uint32) map[ipset.Entry]error, set ipset.Set, batch entries) (refused map[ipset.Entry]error) {
	if len(batch) == 0 {
		return nil
	}
	err := s.in(func() error {
		refused = do(set, batch)
		return nil
	})
	if err == nil {
		return refused
	}
	refused = map[ipset.Entry]error{}
	for e := range batch {
		refused[e] = err
	}
	return refused
}

// refusal is one error for all entries that a set refused; nil: it took all.
func refusal(refused map[ipset.Entry]error) error {
	compare := func(a, b ipset.Entry) int { return cmp.Or(a.Net.Compare(b.Net), bytes.Compare(a.MAC[:], b.MAC[:])) }
	for _, e := range slices.SortedFunc(maps.Keys(refused), compare) {
		return fmt.Errorf("%d entries were refused, %s with: %w", len(refused), e, refused[e])
	}
	return nil
}
