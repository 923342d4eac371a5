// Package hostgw reaches a peer's containers by a route through the peer
// itself, which must be on a link of this host. Nothing is added to a packet.
package hostgw

import (
	"fmt"
	"net/netip"

	"shoal/fabric/transport"
	"shoal/model"
)

// Name is that of the transport.
const Name = "host-gw"

// HostGW is the transport.
type HostGW struct {
	// EtherOnly leaves other links alone. On a WireGuard device, say, a peer
	// looks near, but packets from containers are dropped unless its keys
	// allow their addresses.
	EtherOnly bool
}

var _ transport.Transport = HostGW{}

// Name implements [transport.Transport].
func (HostGW) Name() string { return Name }

// Overhead implements [transport.Transport].
func (HostGW) Overhead() int { return 0 }

// Tunnel implements [transport.Transport]: there is none.
func (HostGW) Tunnel() transport.Tunnel { return nil }

// Sender implements [transport.Transport]: the host's own network card.
func (HostGW) Sender(host model.Node) model.MAC { return host.MAC }

// Reach implements [transport.Transport].
func (h HostGW) Reach(peer model.Node, addrs []transport.Addr) (device string, err error) {
	l := linkTo(peer.Addr, addrs)
	if l == nil || h.EtherOnly && !l.Ether {
		return "", fmt.Errorf("its address %s is on no link of this host, which %s needs: use another backend", peer.Addr, Name)
	}
	return l.Device, nil
}

// linkTo is the link that has the address on it: the narrowest, as in the
// kernel's choice of a route; nil: none.
func linkTo(a netip.Addr, addrs []transport.Addr) *transport.Addr {
	var best *transport.Addr
	for i := range addrs {
		l := &addrs[i]
		if l.Net.Contains(a) && l.Addr != a && (best == nil || l.Net.Bits() > best.Net.Bits()) {
			best = l
		}
	}
	return best
}
