package health

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// State is the health of a program. A nil one keeps nothing.
type State struct {
	began time.Time

	mu      sync.Mutex
	missing []string
	ready   chan struct{}
	hearts  map[*Heart]bool
}

// New is the state of a program that serves once all of needs are met.
func New(needs ...string) *State {
	s := &State{began: time.Now(), missing: slices.Clone(needs), ready: make(chan struct{}), hearts: map[*Heart]bool{}}
	s.Met("") // there may be none
	return s
}

// Met says that one of the needs is met, for good. Others, and those that were
// met before, are ignored.
func (s *State) Met(need string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missing = slices.DeleteFunc(s.missing, func(m string) bool { return m == need })
	if len(s.missing) == 0 && !isClosed(s.ready) {
		close(s.ready)
	}
}

// Missing are the needs that are not met yet, in the order that they were given in.
func (s *State) Missing() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.missing)
}

// Ready is closed once all needs are met.
func (s *State) Ready() <-chan struct{} { return s.ready }

// Watch has a loop watched from now on until [Heart.Stop]. It has to beat, else it
// is stale after limit. Several loops may have the same name.
func (s *State) Watch(loop string, limit time.Duration) *Heart {
	if s == nil {
		return nil
	}
	h := &Heart{state: s, loop: loop, limit: limit}
	h.Beat()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hearts[h] = true
	return h
}

// Stale is a loop that makes no progress.
type Stale struct {
	Loop  string
	Since time.Duration // its last beat
}

func (s Stale) String() string { return fmt.Sprintf("%s for %v", s.Loop, s.Since.Round(time.Second)) }

// Stale are the loops that make no progress, by name; of those of one name the
// one that is stuck longest.
func (s *State) Stale() []Stale {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Stale
	for h := range s.hearts {
		if since := h.since(); since > h.limit {
			all = append(all, Stale{h.loop, since})
		}
	}
	slices.SortFunc(all, func(a, b Stale) int { return cmp.Or(cmp.Compare(a.Loop, b.Loop), cmp.Compare(b.Since, a.Since)) })
	return slices.CompactFunc(all, func(a, b Stale) bool { return a.Loop == b.Loop })
}

// Heart is of a loop. A nil one is of a loop that nobody watches.
type Heart struct {
	state *State
	loop  string
	limit time.Duration
	last  atomic.Int64 // nanoseconds since state.began, by the monotonic clock
}

// Beat says that the loop makes progress.
func (h *Heart) Beat() {
	if h != nil {
		h.last.Store(int64(time.Since(h.state.began)))
	}
}

// Every is how often a loop that waits has to beat; 0: never.
func (h *Heart) Every() time.Duration {
	if h == nil {
		return 0
	}
	return h.limit / 4
}

// Tick delivers when a loop that waits has to beat, until stop is called; nil for a
// loop that nobody watches.
func (h *Heart) Tick() (tick <-chan time.Time, stop func()) {
	if h == nil {
		return nil, func() {}
	}
	t := time.NewTicker(h.Every())
	return t.C, t.Stop
}

// Stop says that the loop has ended as it should.
func (h *Heart) Stop() {
	if h == nil {
		return
	}
	h.state.mu.Lock()
	defer h.state.mu.Unlock()
	delete(h.state.hearts, h)
}

func (h *Heart) since() time.Duration {
	return time.Since(h.state.began) - time.Duration(h.last.Load())
}

func isClosed(ch chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
