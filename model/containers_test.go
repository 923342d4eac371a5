package model

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// Versions that are made of each other are as those made from scratch, and the earlier ones stay as they were.
func TestContainersOfChangesAreThoseFromScratch(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	all := map[ContainerKey]*Container{}
	var cs Containers
	same := func(cs Containers, all map[ContainerKey]*Container) error {
		got := slices.Collect(cs.All())
		want := slices.SortedFunc(maps.Values(all), func(a, b *Container) int {
			return ContainerKey{a.Node, a.ID}.Compare(ContainerKey{b.Node, b.ID})
		})
		if !slices.Equal(got, want) || cs.Len() != len(want) {
			return fmt.Errorf("%d containers, counted as %d, want %d", len(got), cs.Len(), len(want))
		}
		for k, c := range all {
			if cs.Find(k.Node, k.ID) != c || !slices.Contains(cs.Of(k.Node), c) {
				return fmt.Errorf("%v is not found", k)
			}
		}
		return nil
	}
	for round := range 500 {
		before, were := cs, maps.Clone(all)
		keys := map[ContainerKey]bool{}
		for range rnd.IntN(5) {
			k := ContainerKey{fmt.Sprint("host", rnd.IntN(4)), fmt.Sprint(rnd.IntN(6))}
			keys[k] = true
			switch {
			case rnd.IntN(2) == 0:
				delete(all, k)
			case all[k] == nil || rnd.IntN(2) == 0:
				all[k] = &Container{Node: k.Node, ID: k.ID, Name: fmt.Sprint(round)}
			}
		}
		equal := map[ContainerKey]*Container{} // an equal one is not put in the place of what is there
		for k, c := range all {
			copied := *c
			equal[k] = &copied
			if c != were[k] {
				equal[k] = c
			}
		}
		var differs bool
		cs, differs = cs.With(slices.SortedFunc(maps.Keys(keys), ContainerKey.Compare), func(k ContainerKey) *Container { return equal[k] })
		if differs == maps.Equal(all, were) {
			t.Fatalf("round %d: differs: %t", round, differs)
		}
		if err := same(cs, all); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := same(before, were); err != nil {
			t.Fatalf("round %d: the version before: %v", round, err)
		}
		if cs.Find("host1", "none") != nil || cs.Find("none", "1") != nil || cs.Of("none") != nil {
			t.Fatalf("round %d: finds what is not there", round)
		}
		if err := same(ContainersOf(slices.Collect(maps.Values(all))...), all); err != nil {
			t.Fatalf("round %d: from scratch: %v", round, err)
		}
	}
}
