package connlimit

import (
	"net/netip"
	"sync"
)

// Places are so many that may be taken in all, and by one site.
type Places struct {
	all, each int

	mu     sync.Mutex
	taken  int
	bySite map[netip.Prefix]int
}

// NewPlaces returns places that are free.
func NewPlaces(all, each int) *Places {
	return &Places{all: all, each: each, bySite: map[netip.Prefix]int{}}
}

// Acquire takes a place for an address, until release is called; once more does
// nothing. If there is none, ok is false and release nil.
func (p *Places) Acquire(a netip.Addr) (release func(), ok bool) {
	site := Site(a)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.all || p.bySite[site] >= p.each {
		return nil, false
	}
	p.taken++
	p.bySite[site]++
	return sync.OnceFunc(func() { p.release(site) }), true
}

func (p *Places) release(site netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
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
