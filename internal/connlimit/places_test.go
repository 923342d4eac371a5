package connlimit

import (
	"net/netip"
	"testing"
)

func TestPlacesAreBoundedInAllAndBySite(t *testing.T) {
	p := NewPlaces(5, 2)
	acquire := func(addr string, want bool) func() {
		t.Helper()
		release, ok := p.Acquire(netip.MustParseAddr(addr))
		if ok != want {
			t.Errorf("%s has a place: %t, want %t", addr, ok, want)
		}
		return release
	}
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
