// Package vxlan carries Ethernet frames in UDP (RFC 7348) to any host that is
// reached by IP: outer IPv4 header, UDP and VXLAN headers, and the inner Ethernet
// header make 20+8+8+14 octets.
//
// The route's next hop is the peer's own address, as if the peer were on the
// tunnel's link. The neighbour table of the device says which Ethernet address
// that is, its forwarding table (FDB) to which IP address frames for that
// Ethernet address go: the same again. Nothing but the peer's address has to
// be known, and tunnel ends need no addresses for each other.
package vxlan

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/fabric/transport"
	"shoal/model"
)

// Name is that of the transport, Device that of its device.
const (
	Name   = "vxlan"
	Device = transport.Prefix + "vxlan"
)

const (
	// DefaultVNI is the VXLAN network identifier.
	DefaultVNI = 0x53

	// DefaultPort is the UDP port. It is nobody else's: 4789 (IANA's) is Docker
	// Swarm's, and some hypervisors keep it for themselves; 8472 (Linux's own
	// default) is that of flannel and Cilium. Packets to the port from outside the
	// cluster are dropped, which would be theirs.
	DefaultPort = 8483
)

const overhead = 50

// VXLAN is the transport with its settings, which are the same on all hosts.
type VXLAN struct {
	VNI  int
	Port uint16

	// ChecksumOff has the processor make the checksums of what goes into the
	// tunnel (tx-checksum-ip-generic off), for network cards that get them wrong:
	// then pings pass and TCP does not.
	ChecksumOff bool
}

var _ transport.Transport = VXLAN{}

// Name implements [transport.Transport].
func (VXLAN) Name() string { return Name }

// Overhead implements [transport.Transport].
func (VXLAN) Overhead() int { return overhead }

// Reach implements [transport.Transport].
func (VXLAN) Reach(_, _ model.Node, _ []transport.Addr) (device string, err error) {
	return Device, nil
}

// Sender implements [transport.Transport]: the host's tunnel end.
func (VXLAN) Sender(host model.Node) model.MAC { return VTEPMAC(host.Addr) }

// Tunnel implements [transport.Transport].
func (v VXLAN) Tunnel() transport.Tunnel { return tunnel{v} }

// VTEPMAC is the Ethernet address of the tunnel end (VTEP) of the host with
// that address: locally administered, and made of the address alone, so that it
// needs no record and survives restarts.
func VTEPMAC(host netip.Addr) model.MAC {
	m := model.MAC{0x02, 0x53}
	if host = host.Unmap(); host.Is4() {
		a := host.As4()
		copy(m[2:], a[:])
		return m
	}
	h := fnv.New32a()
	h.Write(host.AsSlice())
	copy(m[2:], h.Sum(nil))
	return m
}

type tunnel struct{ VXLAN }

// made is what a device is made with.
type made struct {
	local netip.Addr
	vni   int
	port  uint16
	mac   model.MAC
}

// checksumOff is the feature of a device: it leaves no checksums to the network
// card.
type checksumOff bool

func (tunnel) Name() string { return Device }

func (t tunnel) Outer() (protocol uint8, port uint16) { return unix.IPPROTO_UDP, t.Port }

func (t tunnel) Device(self model.Node, nic int) transport.Device {
	return transport.Device{
		Name: Device, Made: made{self.Addr, t.VNI, t.Port, VTEPMAC(self.Addr)},
		MTU: nic - overhead, Addr: model.PlanOf(self.Subnet).Tunnel, Up: true, Loose: true, Feature: checksumOff(t.ChecksumOff),
	}
}

// Link is bound to no network card: the outer packets go where routes lead.
func (tunnel) Link(d transport.Device) netlink.Link {
	m := d.Made.(made)
	return &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: d.Name, MTU: d.MTU, HardwareAddr: m.mac[:]},
		VxlanId:   m.vni,
		SrcAddr:   m.local.AsSlice(),
		Port:      int(m.port),
		Learning:  false,
	}
}

func (tunnel) Read(l netlink.Link) (m, feature any, err error) {
	v, ok := l.(*netlink.Vxlan)
	if !ok {
		return nil, nil, nil
	}
	local, _ := netip.AddrFromSlice(v.SrcAddr)
	is := made{local: local.Unmap(), vni: v.VxlanId, port: uint16(v.Port)}
	if len(v.HardwareAddr) == len(is.mac) {
		is.mac = model.MAC(v.HardwareAddr)
	}
	on, err := txChecksum(v.Name)
	return is, checksumOff(!on), err
}

func (tunnel) SetFeature(d transport.Device) error {
	if err := setTxChecksum(d.Name, !bool(d.Feature.(checksumOff))); err != nil {
		return fmt.Errorf("set checksum offload: %w", err)
	}
	return nil
}

func (tunnel) Hint(d transport.Device, err error) error {
	m := d.Made.(made)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return model.KernelIncomplete.Errorf("this kernel has no vxlan: run `modprobe vxlan` on the host, or use another backend")
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: another device has VNI %d on UDP port %d: choose another by --vxlan-vni, on all hosts", err, m.vni, m.port)
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("%w: UDP port %d is taken by a process or by another kind of tunnel: choose another by --vxlan-port, on all hosts", err, m.port)
	}
	return err
}

func (tunnel) Neighbour(peer model.Node) (model.MAC, bool) { return VTEPMAC(peer.Addr), true }
