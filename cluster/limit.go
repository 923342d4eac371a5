package cluster

import (
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"shoal/internal/connlimit"
)

// limiter grants each address so many tries at once and one more every so
// often. It remembers the addresses that came last, so that one which guesses
// uses up its own tries and nobody else's.
type limiter struct {
	burst int
	every time.Duration
	now   func() time.Time

	mu    sync.Mutex
	known *simplelru.LRU[netip.Prefix, *tries]
}

type tries struct {
	left int
	at   time.Time // of the last refill
	told bool      // that there are none left
}

const limiterAddrs = 4096

func newLimiter(burst int, every time.Duration, now func() time.Time) *limiter {
	known, err := simplelru.NewLRU[netip.Prefix, *tries](limiterAddrs, nil)
	if err != nil {
		panic(err) // a size below 1
	}
	return &limiter{burst: burst, every: every, now: now, known: known}
}

// allow uses up one try. first tells that it is the first to be refused since the
// last one granted.
func (l *limiter) allow(a netip.Addr) (ok, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := connlimit.Site(a)
	now := l.now()
	t, known := l.known.Get(key)
	if !known {
		t = &tries{left: l.burst, at: now}
		l.known.Add(key, t)
	}
	if n := int(now.Sub(t.at) / l.every); n > 0 {
		t.left = min(t.left+n, l.burst)
		t.at = t.at.Add(time.Duration(n) * l.every)
	}
	if t.left > 0 {
		t.left--
		t.told = false
		return true, false
	}
	first = !t.told
	t.told = true
	return false, first
}

// giveBack returns a try that turned out to be no guess.
func (l *limiter) giveBack(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t, ok := l.known.Get(connlimit.Site(a)); ok {
		t.left = min(t.left+1, l.burst)
	}
}
