package fabric

import (
	"context"
	"net/netip"

	"shoal/fabric/transport"
)

// Firewall lets what the fabric carries past the rules of this host, which
// shield its containers, and nothing else.
type Firewall interface {
	// Between makes the rules as b says, whatever they are, and tells whether it
	// changed any. It is called before routes and devices are written, and again
	// for repair. It writes nothing where all is as it should be.
	Between(ctx context.Context, b Between) (changed bool, err error)
}

// Between is who sends what to whom between hosts. Lists are in order, each
// element once.
type Between struct {
	Own     netip.Prefix   // this host's containers
	Nets    []netip.Prefix // the other hosts' containers
	Hosts   []netip.Addr   // the other hosts
	Links   []Link
	Tunnels []Tunnel
}

// Link is where packets of a source come in: others that carry its addresses
// are somebody else's.
type Link struct {
	Net    netip.Prefix
	Device string
}

// Tunnel is what the outer packets of a tunnel are known by. Only the hosts of
// the cluster may send them.
type Tunnel struct {
	Protocol uint8  // IANA number
	Port     uint16 // where they come in; 0: the protocol has none
}

// Devices matches the names of all tunnel devices, in the words of iptables and
// nftables' wildcard "shoal.*".
const Devices = transport.Prefix + "+"
