package reconcile

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal/model"
)

// TestPassesRunWhenTheyAreDue tells stories by a clock that is not the
// machine's: what happens, and which passes follow.
func TestPassesRunWhenTheyAreDue(t *testing.T) {
	snapshot := func(name string) *model.Snapshot { return &model.Snapshot{Self: model.Node{Name: name}} }
	type world struct {
		snapshots chan *model.Snapshot
		changed   chan struct{}
	}
	at := func(second int, f func(w world)) func(w world) {
		return func(w world) {
			time.Sleep(time.Until(time.Date(2000, 1, 1, 0, 0, second, 0, time.UTC)))
			f(w)
		}
	}
	send := func(second int, name string) func(w world) {
		return at(second, func(w world) { w.snapshots <- snapshot(name) })
	}
	kick := func(second int) func(w world) {
		return at(second, func(w world) { w.changed <- struct{}{} })
	}
	problem := []model.Problem{{Reason: "bad"}}
	for _, tt := range []struct {
		name   string
		loop   Loop
		events []func(w world)
		takes  time.Duration     // each pass
		end    int               // when the story ends, second
		result map[string]Result // by Snapshot and number of the pass, "a1"; else the zero one
		want   []string          // second, Snapshot, + if it was full, problems
		done   []string          // full or not, time, problems
	}{
		{name: "one for each Snapshot, the first full",
			events: []func(w world){send(1, "a"), send(2, "b")}, end: 100,
			want: []string{"1 a+ 0", "2 b 0"}, done: []string{"true 0s 0", "false 0s 0"}},
		{name: "again when a pass asks for it",
			events: []func(w world){send(1, "a")}, end: 100,
			result: map[string]Result{"a1": {Again: 3 * time.Second, Problems: problem}, "a2": {Again: 6 * time.Second}},
			want:   []string{"1 a+ 1", "4 a 0", "10 a 0"}, done: []string{"true 0s 1", "false 0s 0", "false 0s 0"}},
		{name: "a Snapshot between takes what was asked for with it",
			events: []func(w world){send(1, "a"), send(2, "b")}, end: 100,
			result: map[string]Result{"a1": {Again: 10 * time.Second}},
			want:   []string{"1 a+ 0", "2 b 0"}, done: []string{"true 0s 0", "false 0s 0"}},
		{name: "repair a period after the last full pass",
			loop: Loop{Repair: 20 * time.Second}, events: []func(w world){send(1, "a"), send(5, "b")}, end: 45,
			want: []string{"1 a+ 0", "5 b 0", "21 b+ 0", "41 b+ 0"}, done: []string{"true 0s 0", "false 0s 0", "true 0s 0", "true 0s 0"}},
		{name: "repair more seldom where passes take long",
			loop: Loop{Repair: 20 * time.Second}, events: []func(w world){send(1, "a")}, end: 45, takes: 3 * time.Second,
			want: []string{"1 a+ 0", "34 a+ 0"}, done: []string{"true 3s 0", "true 3s 0"}},
		{name: "at once where somebody changed something, and the repair later",
			loop: Loop{Repair: 20 * time.Second}, events: []func(w world){send(1, "a"), kick(10)}, end: 35,
			want: []string{"1 a+ 0", "10 a+ 0", "30 a+ 0"}, done: []string{"true 0s 0", "true 0s 0", "true 0s 0"}},
		{name: "not before the first Snapshot",
			events: []func(w world){kick(1), send(2, "a")}, end: 100,
			want: []string{"2 a+ 0"}, done: []string{"true 0s 0"}},
		{name: "half-way: goes on at once, and is done once",
			events: []func(w world){send(1, "a")}, end: 100, takes: time.Second,
			result: map[string]Result{"a1": {More: true}, "a2": {More: true, Problems: problem}},
			want:   []string{"1 a+ 0", "2 a 1", "3 a 0"}, done: []string{"true 3s 0"}},
		{name: "a Snapshot may take a full pass",
			loop:   Loop{Full: func(old, new *model.Snapshot) bool { return old != nil && new.Self.Name == "c" }},
			events: []func(w world){send(1, "a"), send(2, "b"), send(3, "c")}, end: 100,
			want: []string{"1 a+ 0", "2 b 0", "3 c+ 0"}, done: []string{"true 0s 0", "false 0s 0", "true 0s 0"}},
		{name: "the end of Snapshots is the end",
			loop: Loop{Repair: 5 * time.Second}, events: []func(w world){send(1, "a"), at(2, func(w world) { close(w.snapshots) })}, end: 10,
			want: []string{"1 a+ 0"}, done: []string{"true 0s 0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world{make(chan *model.Snapshot), make(chan struct{}, 1)}
				var got, done []string
				runs := map[string]int{}
				l := tt.loop
				l.Changed = w.changed
				l.Pass = func(_ context.Context, s *model.Snapshot, full bool) Result {
					name := s.Self.Name
					entry := fmt.Sprintf("%d %s", time.Now().Second()+60*time.Now().Minute(), name)
					if full {
						entry += "+"
					}
					got = append(got, entry)
					time.Sleep(tt.takes)
					runs[name]++
					return tt.result[fmt.Sprint(name, runs[name])]
				}
				l.Report = func(ps []model.Problem) { got[len(got)-1] += fmt.Sprintf(" %d", len(ps)) }
				l.Done = func(full bool, took time.Duration, problems int) {
					done = append(done, fmt.Sprintf("%v %v %d", full, took, problems))
				}
				ctx, cancel := context.WithCancel(t.Context())
				go l.Run(ctx, w.snapshots)
				for _, event := range tt.events {
					event(w)
				}
				at(tt.end, func(world) {})(w)
				cancel()
				synctest.Wait()
				if d := cmp.Diff(tt.want, got); d != "" {
					t.Errorf("passes: %s", d)
				}
				if d := cmp.Diff(tt.done, done); d != "" {
					t.Errorf("done: %s", d)
				}
			})
		})
	}
}

func TestRepairIsStretchedWherePassesTakeLong(t *testing.T) {
	const period = 4 * time.Second
	for took, want := range map[time.Duration]time.Duration{
		0:                      period,
		9 * time.Millisecond:   period,
		600 * time.Millisecond: 6 * time.Second,
		2 * time.Second:        8 * time.Second,
		time.Minute:            8 * time.Second,
	} {
		if got := stretch(took, period); got != want {
			t.Errorf("after a pass of %v: %v, want %v", took, got, want)
		}
	}
}
