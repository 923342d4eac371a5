package ingress

import (
	"net/netip"
	"testing"

	"shoal/kernel/ipset"
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

func TestAClientIsInTheNarrowestNetworkThatHasIt(t *testing.T) {
	held := map[ipset.Entry]uint32{}
	for _, n := range []string{"10.0.0.0/8", "10.244.1.0/24", "10.244.1.7/32"} {
		held[ipset.Entry{Net: netip.MustParsePrefix(n)}] = 0
	}
	for client, want := range map[string]string{"10.244.1.9": "10.244.1.0/24", "10.244.1.7": "10.244.1.7/32", "10.9.9.9": "10.0.0.0/8"} {
		if got, has := narrowest(held, netip.MustParseAddr(client)); !has || got.String() != want {
			t.Errorf("%s is in %s, want %s", client, got, want)
		}
	}
	if got, has := narrowest(held, netip.MustParseAddr("203.0.113.9")); has {
		t.Errorf("a client outside is in %s", got)
	}
}
