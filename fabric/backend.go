package fabric

import (
	"fmt"
	"net/netip"
	"strings"

	"shoal/model"
)

// Backend is a way to carry packets to other hosts.
type Backend string

// The backends.
const (
	HostGW Backend = "host-gw" // by a route through the peer, on a link shared with it
	VXLAN  Backend = "vxlan"   // Ethernet in UDP
	IPIP   Backend = "ipip"    // IP in IP
	Auto   Backend = "auto"    // for each peer, host-gw where it is on a link of ours, else vxlan
)

// backend is one way to carry packets to other hosts.
type backend interface {
	// overhead is what it adds to a packet, in octets.
	overhead() int

	// device is the tunnel it needs on this host, whose network card has that
	// MTU; nil: none.
	device(self model.Node, mtu int) *device

	// outer matches the packets of its tunnel, in a rule; "": it has none.
	outer() string

	// path is the way to a peer, on a host with these links.
	path(peer model.Node, links []link) (path, error)
}

// path is the way to one peer.
type path struct {
	peer    model.Node
	backend Backend
	dev     string // the device that its packets leave and come in by
}

// link is an address of this host, with the network it is in.
type link struct {
	dev   string
	addr  netip.Addr
	net   netip.Prefix // masked
	mtu   int
	mac   model.MAC
	ether bool // every host on it is reached by its Ethernet address
}

// ParseBackend reads the name of a backend.
func ParseBackend(s string) (Backend, error) {
	switch b := Backend(s); b {
	case HostGW, VXLAN, IPIP, Auto:
		return b, nil
	}
	return "", fmt.Errorf("backend %q: use one of %s", s, strings.Join([]string{string(Auto), string(HostGW), string(VXLAN), string(IPIP)}, ", "))
}

// backends are those that a setting may use, the one to be tried first in
// front. Their devices are kept whether a peer needs them or not.
func (o *Options) backends() []backend {
	switch o.Backend {
	case HostGW:
		return []backend{hostGW{}}
	case IPIP:
		return []backend{ipip{}}
	case VXLAN:
		return []backend{o.vxlan()}
	}
	return []backend{hostGW{etherOnly: true}, o.vxlan()}
}

// MTU is that of the containers' network where packets between hosts leave by
// a network card of MTU nic (1500 on most), in octets. All hosts must use the
// same, the least of them: a container cannot be told otherwise by the hosts
// on the way, as filters tend to drop such messages.
func MTU(b Backend, nic int) int {
	o := Options{Backend: b}
	most := 0
	for _, b := range o.backends() {
		most = max(most, b.overhead())
	}
	return nic - most
}
