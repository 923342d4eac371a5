package health

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestALoopThatHangsIsStaleAndOneThatWaitsIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		hangs, waits, ended := s.Watch("hangs", time.Minute), s.Watch("waits", time.Minute), s.Watch("ended", time.Minute)
		hangs.Beat()
		ended.Stop()
		done := make(chan struct{})
		go func() {
			tick, stop := waits.Tick()
			defer stop()
			for {
				select {
				case <-tick:
					waits.Beat()
				case <-done:
					return
				}
			}
		}()
		time.Sleep(50 * time.Second)
		if got := s.Stale(); len(got) > 0 {
			t.Errorf("within the limit: %v", got)
		}
		time.Sleep(20 * time.Second)
		if got, want := s.Stale(), []Stale{{"hangs", 70 * time.Second}}; !slices.Equal(got, want) {
			t.Errorf("after the limit: %v, want %v", got, want)
		}
		hangs.Beat()
		if got := s.Stale(); len(got) > 0 {
			t.Errorf("when it goes on: %v", got)
		}
		close(done)
	})
}

func TestOfLoopsOfOneNameTheOneThatHangsLongestIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		s.Watch("dns", time.Second)
		time.Sleep(time.Second)
		s.Watch("dns", time.Second)
		s.Watch("a", time.Second)
		time.Sleep(2 * time.Second)
		if got, want := s.Stale(), []Stale{{"a", 2 * time.Second}, {"dns", 3 * time.Second}}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestReadyWhenAllNeedsAreMet(t *testing.T) {
	s := New("dns", "data plane")
	s.Met("something else")
	s.Met("dns")
	s.Met("dns")
	if got := s.Missing(); !slices.Equal(got, []string{"data plane"}) || isClosed(s.ready) {
		t.Errorf("missing are %q, ready: %v", got, isClosed(s.ready))
	}
	s.Met("data plane")
	if got := s.Missing(); len(got) > 0 || !isClosed(s.ready) {
		t.Errorf("missing are %q, ready: %v", got, isClosed(s.ready))
	}
	if !isClosed(New().ready) {
		t.Error("what needs nothing is not ready")
	}
}

func TestWhatNobodyWatchesBeatsForNothing(t *testing.T) {
	h := (*State)(nil).Watch("loop", time.Second)
	h.Beat()
	h.Stop()
	if tick, stop := h.Tick(); tick != nil || h.Every() != 0 {
		t.Error("it ticks")
	} else {
		stop()
	}
	(*State)(nil).Met("dns")
}
