package ipvs

import (
	"slices"
	"testing"

	"shoal/kernel/ipvs"
)

func TestServicesTakeTurnsToBeAudited(t *testing.T) {
	b := newSpace(hostSets, newMarks())
	for mark := range uint32(5) {
		b.table.known[marksOf|mark] = &ipvs.Virtual{}
	}
	turn := func(n int, want ...uint32) {
		t.Helper()
		got := b.turn(n)
		for i := range got {
			got[i] &^= marksOf
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	turn(5, 0, 1, 2, 3, 4)
	turn(2, 0, 1)
	turn(2, 2, 3)
	delete(b.table.known, marksOf|3) // the one that was last
	turn(2, 4, 0)
	turn(2, 1, 2)
	turn(6, 0, 1, 2, 4)
}
