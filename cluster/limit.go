package cluster

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
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
	key := site(a)
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
	if t, ok := l.known.Get(site(a)); ok {
		t.left = min(t.left+1, l.burst)
	}
}

// site is what one client can easily have all addresses of.
func site(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// boundedListener closes connections beyond a number of them in all, and beyond
// a number from one address, as soon as they are there.
type boundedListener struct {
	net.Listener
	all, each int

	mu     sync.Mutex
	open   int
	byAddr map[netip.Addr]int
}

func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr := remote(c.RemoteAddr().String())
		l.mu.Lock()
		ok := l.open < l.all && l.byAddr[addr] < l.each
		if ok {
			l.open++
			l.byAddr[addr]++
		}
		l.mu.Unlock()
		if ok {
			return &boundedConn{Conn: c, close: sync.OnceFunc(func() { l.closed(addr) })}, nil
		}
		c.Close()
	}
}

func (l *boundedListener) closed(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.byAddr[addr]--; l.byAddr[addr] == 0 {
		delete(l.byAddr, addr)
	}
}

type boundedConn struct {
	net.Conn
	close func()
}

func (c *boundedConn) Close() error {
	defer c.close()
	return c.Conn.Close()
}

// remote is the address in an ADDR:PORT of net; zero if there is none.
func remote(s string) netip.Addr {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}
