package traffic

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"shoal/kernel/conntrack"
	"shoal/model"
)

// Bounds of what looking costs.
const (
	samplePeriod = 2 * time.Second   // between two looks at least
	sampleGap    = 100 * time.Second // a connection may have come and gone unseen in a longer one: counting begins anew
	mostEntries  = 65_536            // with more tracked connections than that none are looked at: 50 ms of work
	mostPairs    = 1_000             // that are told apart
	pairIdle     = 10 * time.Minute  // one without a connection for that long is forgotten
)

// Sampler counts for one host. It is safe for concurrent use.
type Sampler struct {
	run   string
	began time.Time

	tracked  func() (int, error)                                 // how many connections the kernel tracks
	list     func(visit func(conntrack.Entry) (more bool)) error // visits them
	local    func() ([]netip.Addr, error)                        // this host's own addresses
	services func() ([]Service, error)                           // what the data plane has counted

	mu       sync.Mutex
	last     Count
	looked   time.Time       // when
	seen     map[uint32]bool // the IDs of the last look; nil: there was none
	pairs    map[Pair]*tally
	revision uint64
	book     *book
}

// tally is the state of a pair.
type tally struct {
	opened uint64
	open   int
	active time.Time // when there was a connection last
}

// NewSampler makes a sampler of the network namespace of the calling threads.
// Tracked is how many connections the kernel tracks there, services what the data
// plane has counted. Run is an agent's run that began at that time.
func NewSampler(began time.Time, tracked func() (int, error), services func() ([]Service, error)) *Sampler {
	return &Sampler{
		run: began.Format(time.RFC3339Nano), began: began,
		tracked: tracked, services: services, list: conntrack.List, local: hostAddrs,
		pairs: map[Pair]*tally{},
	}
}

// Count looks, unless it did so just now, and returns what is counted so far. The
// error is of the data plane's counters.
func (s *Sampler) Count(snapshot *model.Snapshot, now time.Time) (Count, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	since := now.Sub(s.looked)
	if !s.looked.IsZero() && since < samplePeriod {
		return s.last, nil
	}
	services, err := s.services()
	if err != nil {
		return Count{}, err
	}
	if since > sampleGap {
		s.seen = nil
	}
	s.looked = now
	s.last = Count{Run: s.run, At: now.Sub(s.began), Services: services}
	if err := s.look(snapshot, now); err != nil {
		s.seen = nil
		s.last.Unsampled = err.Error()
		return s.last, nil
	}
	for p, t := range s.pairs {
		s.last.Flows = append(s.last.Flows, Flow{p, t.opened, t.open})
	}
	slices.SortFunc(s.last.Flows, func(a, b Flow) int { return a.Compare(b.Pair) })
	return s.last, nil
}

func (s *Sampler) look(snapshot *model.Snapshot, now time.Time) error {
	switch n, err := s.tracked(); {
	case err != nil:
		return err
	case n > mostEntries:
		return fmt.Errorf("this host tracks %d connections: more than %d are not looked at", n, mostEntries)
	}
	addrs, err := s.local()
	if err != nil {
		return err
	}
	local := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		local[a] = true
	}
	if s.book == nil || s.revision != snapshot.Revision {
		s.book, s.revision = newBook(snapshot), snapshot.Revision
	}
	for _, t := range s.pairs {
		t.open = 0
	}
	began := s.seen == nil
	seen := make(map[uint32]bool, len(s.seen))
	err = s.list(func(e conntrack.Entry) bool {
		if seen[e.ID] {
			return true
		}
		p, ok := s.book.pair(e, local)
		if !ok {
			return true
		}
		seen[e.ID] = true
		t := s.tally(p)
		t.active = now
		if e.Open {
			t.open++
		}
		if !began && !s.seen[e.ID] {
			t.opened++
		}
		return len(seen) < 2*mostEntries // they may have become more meanwhile
	})
	s.seen = seen
	for p, t := range s.pairs {
		if now.Sub(t.active) > pairIdle {
			delete(s.pairs, p)
		}
	}
	return err
}

// tally is a pair's own, or where there are too many that of all others.
func (s *Sampler) tally(p Pair) *tally {
	if t := s.pairs[p]; t != nil {
		return t
	}
	if len(s.pairs) >= mostPairs {
		p.From = Client{Kind: KindOthers}
		if t := s.pairs[p]; t != nil {
			return t
		}
	}
	t := &tally{}
	s.pairs[p] = t
	return t
}

// hostAddrs are the IPv4 addresses of the host's devices.
func hostAddrs() (found []netip.Addr, err error) {
	all, err := net.InterfaceAddrs()
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap().Is4() {
				found = append(found, ip.Unmap())
			}
		}
	}
	return found, err
}
