package api

import (
	"fmt"
	"net/http"
	"sync"
)

// Starting answers on the API's socket, which is there from the start, until the
// agent can: with what it waits for.
type Starting struct {
	mu    sync.Mutex
	waits string
	agent http.Handler // once it is there
}

// WaitsFor notes what the start waits for from now on.
func (s *Starting) WaitsFor(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waits = fmt.Sprintf(format, args...)
}

// Ready has h answer from now on.
func (s *Starting) Ready(h http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.agent = h
}

func (s *Starting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	h, waits := s.agent, s.waits
	s.mu.Unlock()
	if h != nil {
		h.ServeHTTP(w, r)
		return
	}
	starts := &StartingError{waits}
	mux := http.NewServeMux()
	HandleHealth(mux, func() error { return nil }, func() error { return starts })
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { Reply(w, nil, starts) })
	mux.ServeHTTP(w, r)
}

// StartingError says that an agent is there, but only starts.
type StartingError struct {
	Waits string // for what
}

func (e *StartingError) Error() string {
	return fmt.Sprintf("the agent starts, and waits for %s; its log says more", e.Waits)
}
