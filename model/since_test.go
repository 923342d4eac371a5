package model

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// follow makes Snapshots one after the other, the first of nothing, of which each changes
// services, given as "a b".
func follow(changes ...string) (all []*Snapshot) {
	all = append(all, new(Snapshot))
	all[0].Follow(nil, nil)
	for i, names := range changes {
		s := *all[i]
		var ids []ServiceID
		for _, name := range strings.Fields(names) {
			ids = append(ids, ServiceID{Stack: "s", Name: name})
		}
		s.Follow(all[i], ids)
		all = append(all, &s)
	}
	return all
}

func TestASnapshotKnowsWhatChangedSinceAnEarlierOne(t *testing.T) {
	many := slices.Repeat([]string{"a"}, mostSteps)
	var lot []string
	for i := range mostServices {
		lot = append(lot, fmt.Sprint(i))
	}
	one := follow("b a", "", "c a")
	copied := *one[3]
	unmade := *one[3]
	unmade.Follow(new(Snapshot), nil)
	for _, tt := range []struct {
		name     string
		new, old *Snapshot
		want     string // names; "?": not known
	}{
		{"since the one before", one[3], one[2], "a c"},
		{"since one earlier", one[3], one[1], "a c"},
		{"since the first, each once and in order", one[3], one[0], "a b c"},
		{"nothing changed", one[2], one[1], ""},
		{"since itself", one[2], one[2], ""},
		{"since nothing", one[2], nil, "?"},
		{"since a later one", one[1], one[2], "?"},
		{"since one of another catalog", one[3], follow("b a")[1], "?"},
		{"a copy, which may have been changed, knows nothing", &copied, one[3], "?"},
		{"since a copy", one[3], &copied, "?"},
		{"after one that knew nothing", &unmade, one[3], "?"},
		{"made by hand", &Snapshot{}, one[0], "?"},
		{"as many Snapshots ago as are known", follow(many...)[mostSteps], follow()[0], "?"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := since(tt.new, tt.old); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}

	s := follow(many...)
	if got := since(s[mostSteps], s[1]); got != "a" {
		t.Errorf("since %d Snapshots ago: %q", mostSteps-1, got)
	}
	if got := since(s[mostSteps], s[0]); got != "?" {
		t.Errorf("since %d Snapshots ago: %q", mostSteps, got)
	}
	s = follow("a", strings.Join(lot[1:], " "), "b")
	if got := since(s[3], s[2]); got != "b" {
		t.Errorf("since the one before, after much: %q", got)
	}
	if got, known := s[3].ServicesSince(s[1]); !known || len(got) != mostServices {
		t.Errorf("since much: %d services, known %v", len(got), known)
	}
	if got := since(s[3], s[0]); got != "?" {
		t.Errorf("since before much: %q", got)
	}
}

func since(s, old *Snapshot) string {
	ids, known := s.ServicesSince(old)
	if !known {
		return "?"
	}
	var names []string
	for _, id := range ids {
		names = append(names, id.Name)
	}
	return strings.Join(names, " ")
}

func TestASnapshotDoesNotKeepTheOnesBefore(t *testing.T) {
	gone := make(chan struct{})
	all := follow("a", "b")
	runtime.AddCleanup(all[1], func(struct{}) { close(gone) }, struct{}{})
	last := all[2]
	all = nil
	runtime.GC()
	<-gone // or the test does not end
	if got := since(last, new(Snapshot)); got != "?" {
		t.Errorf("since another: %q", got)
	}
	runtime.KeepAlive(last)
}

func TestSlicesThatAreShared(t *testing.T) {
	a := []int{1, 2}
	for _, tt := range []struct {
		a, b []int
		want bool
	}{{a, a, true}, {a, a[:1], false}, {a, []int{1, 2}, false}, {nil, nil, true}, {nil, []int{}, true}, {a[:0], nil, true}} {
		if got := Shared(tt.a, tt.b); got != tt.want {
			t.Errorf("%v and %v: %v", tt.a, tt.b, got)
		}
	}
}
