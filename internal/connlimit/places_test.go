package connlimit

import (
	"net/netip"
	"testing"
)

// acquirer returns what takes places, and fails the test if one is had or not against what is wanted.
func acquirer(t *testing.T, p *Places) func(addr string, want bool) (release func()) {
	return func(addr string, want bool) func() {
		t.Helper()
		release, ok := p.Acquire(netip.MustParseAddr(addr))
		if ok != want {
			t.Errorf("%s has a place: %t, want %t", addr, ok, want)
		}
		return release
	}
}

func TestPlacesAreBoundedInAllAndBySite(t *testing.T) {
	acquire := acquirer(t, NewPlaces(5, 2))
	release := acquire("192.0.2.1", true)
	acquire("192.0.2.1", true)
	acquire("192.0.2.1", false)
	acquire("2001:db8::1", true)
	acquire("2001:db8::2", true)
	acquire("2001:db8::3", false) // of the same /64
	acquire("192.0.2.2", true)
	acquire("192.0.2.3", false) // no more in all
	release()
	release() // does nothing
	acquire("192.0.2.3", true)
	acquire("192.0.2.1", false)
}

func TestStrangersLeaveAShareToMembers(t *testing.T) {
	members := map[netip.Addr]bool{netip.MustParseAddr("192.0.2.1"): true, netip.MustParseAddr("192.0.2.2"): true}
	p := NewPlaces(5, 2)
	p.Reserve(2, func(a netip.Addr) bool { return members[a] })
	acquire := acquirer(t, p)
	first := acquire("198.51.100.1", true)
	acquire("198.51.100.1", true)
	acquire("198.51.100.2", true)
	acquire("198.51.100.3", false) // the rest is the members'
	member := acquire("192.0.2.1", true)
	acquire("192.0.2.2", true)
	acquire("192.0.2.2", false) // no more in all
	member()
	acquire("198.51.100.3", false)
	members[netip.MustParseAddr("198.51.100.1")] = true // it was a stranger when it came
	first()
	acquire("198.51.100.3", true)
	acquire("198.51.100.4", false)
}
