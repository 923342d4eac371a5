package connlimit

import (
	"net/netip"
	"sync"
)

// Places are so many that may be taken in all, and by one site.
type Places struct {
	all, each int
	reserved  int // see Reserve
	member    func(netip.Addr) bool

	mu        sync.Mutex
	taken     int
	strangers int // those taken by others than members
	bySite    map[netip.Prefix]int
}

// NewPlaces returns places that are free.
func NewPlaces(all, each int) *Places {
	return &Places{all: all, each: each, bySite: map[netip.Prefix]int{}}
}

// Reserve leaves so many of all places to members: strangers never have more than the
// others. An address counts as what it is when it takes a place, until it leaves that.
// Member is called for each, at any time. To be called before the first Acquire.
func (p *Places) Reserve(n int, member func(netip.Addr) bool) { p.reserved, p.member = n, member }

// Acquire takes a place for an address, until release is called; once more does
// nothing. If there is none, ok is false and release nil.
func (p *Places) Acquire(a netip.Addr) (release func(), ok bool) {
	site := Site(a)
	stranger := 1
	if p.member != nil && p.member(a) {
		stranger = 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.all || p.bySite[site] >= p.each || stranger == 1 && p.strangers >= p.all-p.reserved {
		return nil, false
	}
	p.taken++
	p.strangers += stranger
	p.bySite[site]++
	return sync.OnceFunc(func() { p.release(site, stranger) }), true
}

// release frees a place of a site; stranger is 1 if it was a stranger's, else 0.
func (p *Places) release(site netip.Prefix, stranger int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	p.strangers -= stranger
	if p.bySite[site]--; p.bySite[site] == 0 {
		delete(p.bySite, site)
	}
}

// Site is what one client can easily have all addresses of: an IPv4 address, or a /64 of
// IPv6.
func Site(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// Remote is the address in an ADDR:PORT of net; zero if there is none.
func Remote(s string) netip.Addr {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}
