// Package transport says what the fabric has to know of a way to carry packets
// between hosts.
//
// In: the hosts, and the addresses of this one. Out: by which device a peer is
// reached, what its packets are recognised by, and the tunnel device that this
// takes. Each transport is a package of its own; which of them a peer is reached
// by, and what of it is written, is the fabric's to decide.
package transport

import (
	"net/netip"

	"github.com/vishvananda/netlink"

	"shoal/model"
)

// Transport is one way to carry packets to other hosts.
type Transport interface {
	// Name is what settings and problems call it, "vxlan".
	Name() string

	// Overhead is what it adds to a packet, in octets.
	Overhead() int

	// Reach is the device by which a peer's packets leave and come in, on host self
	// with these addresses. The error says why this transport does not reach it.
	Reach(self, peer model.Node, addrs []Addr) (device string, err error)

	// Sender is the Ethernet address that packets of a host come in with; zero:
	// they have none, and the source of the outer packet tells whose they are.
	Sender(host model.Node) model.MAC

	// Tunnel is the device that it needs; nil: it needs none.
	Tunnel() Tunnel
}

// Tunnel is the device of a transport.
type Tunnel interface {
	// Name is that of the device. It begins with [Prefix].
	Name() string

	// Outer is what its outer packets are known by: their protocol's IANA number,
	// and the port that they come to; 0: the protocol has none.
	Outer() (protocol uint8, port uint16)

	// Device is the device as host self should have it, whose packets leave by a
	// network card of MTU nic.
	Device(self model.Node, nic int) Device

	// Link is a device to be made.
	Link(d Device) netlink.Link

	// Read reads what a device was made with, and its feature; nil where it is
	// of another kind.
	Read(l netlink.Link) (made, feature any, err error)

	// SetFeature sets the feature of a device that is there.
	SetFeature(d Device) error

	// Hint adds to an error of making or changing a device what to do about it.
	Hint(d Device, err error) error

	// Neighbour is the Ethernet address of a peer's end of the tunnel, for a
	// neighbour entry and a forwarding entry of the device; false: it takes none.
	Neighbour(peer model.Node) (model.MAC, bool)
}

// Prefix begins the names of all tunnel devices. A device of that name that no
// transport in use wants is removed.
const Prefix = "shoal."

// Device is a tunnel device. It can be compared.
type Device struct {
	Name string
	Made any // what it was made with: it takes another device to change it

	// What can be changed.
	MTU     int
	Addr    netip.Addr // the source of what the host itself sends
	Up      bool
	Loose   bool // rp_filter 2: published ports bring clients' own addresses through tunnels
	Feature any  // what only the transport knows of
}

// Addr is an address of this host, with the network it is in.
type Addr struct {
	Device string
	Addr   netip.Addr
	Net    netip.Prefix // masked
	MTU    int
	MAC    model.MAC
	Ether  bool // every host on it is reached by its Ethernet address
}
