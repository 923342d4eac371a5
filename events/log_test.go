package events

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"
)

// numbered are so many events, a second apart from each other.
func numbered(first, count int) (all []Event) {
	for i := range count {
		all = append(all, Event{Type: HostDead, Node: fmt.Sprint(first + i), Time: at.Add(time.Duration(first+i) * time.Second)})
	}
	return all
}

func numbers(l *Log, since time.Time) (all []uint64) {
	for e := range l.Read(context.Background(), since, false) {
		all = append(all, e.Number)
	}
	return all
}

func TestTheLastEventsAreKept(t *testing.T) {
	l := NewLog()
	if got := numbers(l, at); got != nil {
		t.Errorf("an empty log has %v", got)
	}
	l.Add(numbered(1, 3)...)
	for since, want := range map[time.Time][]uint64{
		{}:                              nil,
		at:                              {1, 2, 3},
		at.Add(2 * time.Second):         {3},
		at.Add(3 * time.Second):         nil,
		at.Add(-1000 * time.Hour):       {1, 2, 3},
		at.Add(1500 * time.Millisecond): {2, 3},
	} {
		if got := numbers(l, since); !slices.Equal(got, want) {
			t.Errorf("since %v: %v, want %v", since, got, want)
		}
	}
	l.Add(numbered(4, Kept)...)
	if got := numbers(l, at); len(got) != Kept || got[0] != 4 || got[Kept-1] != Kept+3 {
		t.Errorf("%d are kept, from %d", len(got), got[0])
	}
}

func TestASlowReaderHoldsNobodyUpAndIsToldWhatItMissed(t *testing.T) {
	l := NewLog()
	l.Add(numbered(1, 1)...)
	var got []string
	for e := range l.Read(t.Context(), at, true) {
		if len(got) == 0 { // while it is busy with the first
			if !l.Followed() {
				t.Error("nobody follows")
			}
			l.Add(numbered(2, Kept+5)...)
		}
		got = append(got, fmt.Sprint(e.Type, " ", e.Number, " ", e.Count))
		if len(got) == 3 {
			break
		}
	}
	if want := []string{"host-dead 1 0", "events-dropped 0 5", "host-dead 7 0"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if l.Followed() {
		t.Error("a reader that left follows still")
	}
}

func TestAReaderIsWokenAndLeavesWithTheLog(t *testing.T) {
	l := NewLog()
	got := make(chan uint64)
	go func() {
		defer close(got)
		for e := range l.Read(t.Context(), at, true) {
			got <- e.Number
		}
	}()
	for n := range uint64(3) {
		l.Add(numbered(int(n)+1, 1)...)
		if number := <-got; number != n+1 {
			t.Errorf("got %d, want %d", number, n+1)
		}
	}
	l.Close()
	if _, more := <-got; more {
		t.Error("an event after the end")
	}
}
