// Package ipip carries IP in IP (RFC 2003) to any host that is reached by IP:
// one outer header of 20 octets. The device has no far end of its own; the kernel
// sends to the route's next hop.
package ipip

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/fabric/transport"
	"shoal/model"
)

// Name is that of the transport, Device that of its device.
const (
	Name   = "ipip"
	Device = transport.Prefix + "ipip"
)

const overhead = 20

// IPIP is the transport.
type IPIP struct{}

var _ transport.Transport = IPIP{}

// Name implements [transport.Transport].
func (IPIP) Name() string { return Name }

// Overhead implements [transport.Transport].
func (IPIP) Overhead() int { return overhead }

// Reach implements [transport.Transport].
func (IPIP) Reach(_, _ model.Node, _ []transport.Addr) (device string, err error) { return Device, nil }

// Sender implements [transport.Transport]: there are no Ethernet headers.
func (IPIP) Sender(model.Node) model.MAC { return model.MAC{} }

// Tunnel implements [transport.Transport].
func (IPIP) Tunnel() transport.Tunnel { return tunnel{} }

type tunnel struct{}

// made is what a device is made with.
type made struct{ local netip.Addr }

func (tunnel) Name() string { return Device }

func (tunnel) Outer() (protocol uint8, port uint16) { return unix.IPPROTO_IPIP, 0 }

func (tunnel) Device(self model.Node, nic int) transport.Device {
	return transport.Device{
		Name: Device, Made: made{self.Addr},
		MTU: nic - overhead, Addr: model.PlanOf(self.Subnet).Tunnel, Up: true, Loose: true,
	}
}

// Link has a TTL of its own: so the outer header does not take the inner one's,
// and hosts that are far do not depend on it; path MTU discovery needs one
// (ip-link(8)).
func (tunnel) Link(d transport.Device) netlink.Link {
	return &netlink.Iptun{
		LinkAttrs: netlink.LinkAttrs{Name: d.Name, MTU: d.MTU},
		Local:     d.Made.(made).local.AsSlice(),
		Ttl:       64,
		PMtuDisc:  1,
		Proto:     unix.IPPROTO_IPIP,
	}
}

func (tunnel) Read(l netlink.Link) (m, feature any, err error) {
	if l, ok := l.(*netlink.Iptun); ok {
		local, _ := netip.AddrFromSlice(l.Local)
		m = made{local.Unmap()}
	}
	return m, nil, nil
}

func (tunnel) SetFeature(transport.Device) error { return nil }

func (tunnel) Hint(_ transport.Device, err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) {
		return model.KernelIncomplete.Errorf("this kernel has no ipip: run `modprobe ipip` on the host, or use another backend")
	}
	return err
}

func (tunnel) Neighbour(model.Node) (model.MAC, bool) { return model.MAC{}, false }
