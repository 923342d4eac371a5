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
//
// Peers take packets that come with the Ethernet address which they know of this host: that
// of the network card with its own address. They leave by that one, though another may be
// on the same link.
func (h HostGW) Reach(self, peer model.Node, addrs []transport.Addr) (device string, err error) {
	own := ""
	for _, a := range addrs {
		if a.Addr == self.Addr {
			own = a.Device
			break
		}
	}
	l := linkTo(peer.Addr, own, addrs)
	if l == nil || h.EtherOnly && !l.Ether {
		return "", fmt.Errorf("its address %s is on no link of this host, which %s needs: use another backend", peer.Addr, Name)
	}
	if l.Ether && own != "" && l.Device != own {
		return "", fmt.Errorf("its address %s is on a link of %s, and the other hosts know this one by %s, so that they would not take what comes from there by %s: "+
			"name the address of %[2]s with --advertise, or use another backend", peer.Addr, l.Device, own, Name)
	}
	return l.Device, nil
}

// linkTo is the link that has the address on it: of the host's own device, or else the
// narrowest; nil: none.
func linkTo(a netip.Addr, own string, addrs []transport.Addr) *transport.Addr {
	var best *transport.Addr
	for i := range addrs {
		l := &addrs[i]
		if !l.Net.Contains(a) || l.Addr == a {
			continue
		}
		if best == nil || l.Device == own && best.Device != own || (l.Device == own) == (best.Device == own) && l.Net.Bits() > best.Net.Bits() {
			best = l
		}
	}
	return best
}
