package model

import (
	"slices"
	"weak"
)

// A Snapshot knows what sets it apart from those shortly before it. Whoever acts
// on Snapshots one after the other asks it ([Snapshot.ServicesSince]) and looks
// at that only, so that a change costs by its own size; where it does not know,
// all has to be compared. Besides, a Snapshot shares with the one before it the
// services and containers that did not change, and the slices in which nothing did
// ([Shared]).

// step says what became different with a Snapshot. It does not keep it in memory.
type step struct {
	to       weak.Pointer[Snapshot]
	services []ServiceID
}

// How much a Snapshot knows of those before it. Whoever is further behind, or has
// more to look at, compares all.
const (
	mostSteps    = 64
	mostServices = 2000
)

// Follow notes that s was made of prev by changing no services but these. S is
// not changed any more afterwards; a copy of it knows nothing. Prev may be nil, or
// have no services.
func (s *Snapshot) Follow(prev *Snapshot, services []ServiceID) {
	var steps []step
	if prev != nil && prev.knows() {
		steps = prev.steps
	}
	named, first := len(services), len(steps)
	for first > 0 && named <= mostServices && len(steps)-first < mostSteps-1 {
		first--
		named += len(steps[first].services)
	}
	s.steps = append(slices.Clone(steps[first:]), step{weak.Make(s), services})
}

// knows tells whether the steps are those of this Snapshot, not of one that it
// is a copy of.
func (s *Snapshot) knows() bool {
	return len(s.steps) > 0 && s.steps[len(s.steps)-1].to == weak.Make(s)
}

// ServicesSince are the services that may not be as they were in an earlier
// Snapshot: that are new, gone, or different. Nothing else in services differs.
// False: it is not known, because there is no such Snapshot (nil), it was of
// another catalog, or it is too long ago.
func (s *Snapshot) ServicesSince(old *Snapshot) (ids []ServiceID, known bool) {
	switch {
	case s == old:
		return nil, true
	case old == nil || !s.knows():
		return nil, false
	}
	from := weak.Make(old)
	for _, st := range slices.Backward(s.steps) {
		if st.to == from {
			slices.SortFunc(ids, ServiceID.Compare)
			return slices.Compact(ids), true
		}
		ids = append(ids, st.services...)
	}
	return nil, false
}

// Shared tells whether two slices are one and the same: then there is nothing to
// compare.
func Shared[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
