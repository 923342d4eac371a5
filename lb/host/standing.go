package host

import (
	"errors"
	"net/netip"
	"sync"
)

// Standing are the routes of a plane that its passes have made, so that they can
// be put back without a pass. The zero value has none.
type Standing struct {
	mu     sync.Mutex
	routes map[string]func() error
}

// Made notes that a pass made a route, or failed to: what puts it back, and how
// making it ended. It returns that error.
func (s *Standing) Made(name string, err error, again func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.routes == nil {
		s.routes = map[string]func() error{}
	}
	if s.routes[name] = again; err != nil {
		delete(s.routes, name)
	}
	return err
}

// Repair puts back what is missing.
func (s *Standing) Repair() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, again := range s.routes {
		errs = append(errs, again())
	}
	return errors.Join(errs...)
}

// Route is as the function of that name, and noted.
func (s *Standing) Route(pool netip.Prefix, self netip.Addr) error {
	return s.Made("pool", Route(pool, self), func() error { return Route(pool, self) })
}

// Forget has nothing put back: the rules that the routes need do not stand.
func (s *Standing) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.routes)
}
