package fabric

import (
	"fmt"
	"net/netip"

	"shoal/model"
)

// hostGW routes a peer's subnet through the peer itself, which must be on a
// link of this host.
type hostGW struct {
	// etherOnly leaves other links alone. On a WireGuard device, say, a peer
	// looks near, but packets from containers are dropped unless its keys
	// allow their addresses.
	etherOnly bool
}

func (hostGW) overhead() int { return 0 }

func (hostGW) device(model.Node, int) *device { return nil }

func (hostGW) outer() string { return "" }

func (h hostGW) path(peer model.Node, links []link) (path, error) {
	l := linkTo(peer.Addr, links)
	if l == nil || h.etherOnly && !l.ether {
		return path{}, fmt.Errorf("its address %s is on no link of this host, which %s needs: use %s or %s", peer.Addr, HostGW, Auto, VXLAN)
	}
	return path{peer: peer, backend: HostGW, dev: l.dev}, nil
}

// linkTo is the link that has the address on it: the narrowest, as in the
// kernel's choice of a route; nil: none.
func linkTo(a netip.Addr, links []link) *link {
	var best *link
	for i := range links {
		l := &links[i]
		if l.net.Contains(a) && l.addr != a && (best == nil || l.net.Bits() > best.net.Bits()) {
			best = l
		}
	}
	return best
}

// linkOf is the link on which this host has the address; nil: it has it not.
func linkOf(a netip.Addr, links []link) *link {
	for i := range links {
		if links[i].addr == a {
			return &links[i]
		}
	}
	return nil
}
