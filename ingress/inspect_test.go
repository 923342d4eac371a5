package ingress

import (
	"net/netip"
	"testing"
)

// TestASourceIsOfTheNextHopsNetwork: as net/ipv4/devinet.c chooses it.
func TestASourceIsOfTheNextHopsNetwork(t *testing.T) {
	on := []netip.Prefix{netip.MustParsePrefix("10.1.0.5/24"), netip.MustParsePrefix("192.168.1.5/24")}
	for hop, want := range map[string]string{"10.1.0.9": "10.1.0.5", "192.168.1.1": "192.168.1.5", "203.0.113.1": "10.1.0.5"} {
		if got := sourceFor(netip.MustParseAddr(hop), on); got.String() != want {
			t.Errorf("to %s: from %s, want %s", hop, got, want)
		}
	}
	if got := sourceFor(on[0].Addr(), nil); got.IsValid() {
		t.Errorf("a device without an address sends from %s", got)
	}
}
