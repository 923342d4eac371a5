package fabric

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/model"
)

// readNeighbours reads the static entries of a device: neighbours and
// forwarding entries. On a device of ours all of them are ours.
func (s *state) readNeighbours(dev string, index int) error {
	list, err := kernel.Dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(index, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list the neighbours on %s: %w", dev, err)
	}
	for _, n := range list {
		if n.State == netlink.NUD_PERMANENT && len(n.HardwareAddr) == 6 {
			s.neigh[neighKey{dev, addrOf(n.IP)}] = model.MAC(n.HardwareAddr)
		}
	}
	list, err = kernel.Dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(index, unix.AF_BRIDGE) })
	if err != nil {
		return fmt.Errorf("list the forwarding entries of %s: %w", dev, err)
	}
	for _, n := range list {
		if len(n.HardwareAddr) == 6 {
			s.fdb[fdbKey{dev, model.MAC(n.HardwareAddr)}] = addrOf(n.IP)
		}
	}
	return nil
}

func neighEntry(index int, a netip.Addr, m model.MAC) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST,
		IP: a.AsSlice(), HardwareAddr: net.HardwareAddr(m[:]),
	}
}

func fdbEntry(index int, m model.MAC, a netip.Addr) *netlink.Neigh {
	n := &netlink.Neigh{
		LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF,
		HardwareAddr: net.HardwareAddr(m[:]),
	}
	if a.IsValid() {
		n.IP = a.AsSlice()
	}
	return n
}
