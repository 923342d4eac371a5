package lb

import (
	"net/netip"
	"slices"
)

// Guard says who reaches the ports by which the agents of the cluster's hosts speak to
// each other. What is sent there is authenticated by the agents themselves; a plane
// keeps those away who have no business there, before they can try.
//
// Containers of this host reach none of them, here or on another host. From elsewhere
// only Trusted reach TCP and UDP, and anybody Join, by which hosts join, and come back
// that have moved.
type Guard struct {
	TCP, UDP             []uint16     // of this host
	Join                 uint16       // of this host, TCP; 0: none
	RemoteTCP, RemoteUDP []uint16     // of other hosts
	Trusted              []netip.Addr // who belongs to the cluster, in order
}

// with is the guard with these addresses trusted as well.
func (g Guard) with(addrs []netip.Addr) Guard {
	all := slices.Concat(g.Trusted, addrs)
	all = slices.DeleteFunc(all, func(a netip.Addr) bool { return !a.Is4() })
	slices.SortFunc(all, netip.Addr.Compare)
	g.Trusted = slices.Compact(all)
	return g
}
