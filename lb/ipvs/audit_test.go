package ipvs

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shoal/kernel/ipset"
	"shoal/kernel/ipvs"
)

func TestFullPassesGoRoundAllThatANamespaceHas(t *testing.T) {
	for name, tc := range map[string]struct {
		share    int
		sizes    []int // of sets
		services int
		want     []string // what passes read, sets by number
	}{
		"nothing":                         {share: 10, want: []string{""}},
		"all fits just so":                {share: 10, sizes: []int{8, 16}, services: 5, want: []string{"0 1 list 5 services"}},
		"services take turns":             {share: 4, sizes: []int{0}, services: 9, want: []string{"0 list 3 services", "4 services", "2 services"}},
		"sets take turns":                 {share: 4, sizes: []int{8, 8, 8}, services: 1, want: []string{"0 1", "2 list 1 services"}},
		"a large set is paid for in turn": {share: 4, sizes: []int{0, 80}, services: 3, want: []string{"0 1", "", "", "list 3 services"}},
		"a set as large as a share":       {share: 4, sizes: []int{24}, services: 4, want: []string{"0", "list 4 services"}},
		"a long list is paid for in turn": {share: 4, sizes: []int{0}, services: 320, want: append([]string{"0 list", "", "1 services"}, rest(319, 4)...)},
	} {
		t.Run(name, func(t *testing.T) {
			var r round
			size := map[string]int{}
			for i, n := range tc.sizes {
				set := ipset.Set{Name: fmt.Sprint(i)}
				r.sets, size[set.Name] = append(r.sets, set), n
			}
			for mark := range tc.services {
				r.marks = append(r.marks, uint32(mark))
			}
			r.list = tc.services > 0
			marks := slices.Clone(r.marks)
			var got []string
			for range 100 {
				w := r.turn(tc.share, func(s ipset.Set) int { return size[s.Name] })
				var words []string
				for _, s := range w.sets {
					words = append(words, s.Name)
				}
				if w.list {
					words = append(words, "list")
				}
				if len(w.marks) > 0 {
					words = append(words, fmt.Sprint(len(w.marks), " services"))
				}
				got = append(got, strings.Join(words, " "))
				if !slices.Equal(w.marks, marks[:len(w.marks)]) {
					t.Errorf("services %v, want the first of %v", w.marks, marks)
				}
				if marks = marks[len(w.marks):]; r.over() {
					break
				}
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// rest is how n services are read, so many in a pass.
func rest(n, share int) (want []string) {
	for ; n > 0; n -= share {
		want = append(want, fmt.Sprint(min(n, share), " services"))
	}
	return want
}

func TestSmallNamespacesAreReadWhole(t *testing.T) {
	s := newSpace(hostSets, newMarks())
	s.read = true
	for mark := range uint32(300) {
		s.table.known[marksOf|mark] = &ipvs.Virtual{}
	}
	// Each set, the list of services, and two steps for their destinations.
	for range 3 {
		if n, want := len(s.steps()), len(hostSets)+1+2; n != want {
			t.Errorf("%d steps, want %d", n, want)
		}
		if !s.round.over() {
			t.Error("something is left for a later pass")
		}
	}
	for mark := range uint32(10 * auditShare) {
		s.table.known[marksOf|mark] = &ipvs.Virtual{}
	}
	passes := 1
	for s.steps(); !s.round.over(); s.steps() {
		passes++
	}
	if passes != 11 {
		t.Errorf("a round of ten shares and some sets took %d passes, want 11", passes)
	}
}
