// Package bridge reads and sets how the host's bridges forward.
//
// In: names of bridges and ports. Out: whether a bridge may send a frame back
// through the port it came from (hairpin mode), and whether netfilter sees what it
// forwards between its ports. It owns no device.
package bridge

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"shoal/kernel"
)

// Port is a port of a bridge.
type Port struct {
	Name    string // "veth1a2b3c"
	Bridge  int    // the bridge's interface index
	Hairpin bool   // frames may leave by the port they came from
}

// Ports are those of all bridges in the calling thread's network namespace.
func Ports() ([]Port, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list the ports of bridges: %w", err)
	}
	var ports []Port
	for _, m := range msgs {
		attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
		if err != nil {
			return nil, fmt.Errorf("list the ports of bridges: %w", err)
		}
		var p Port
		port := false // a bridge lists itself as well, without this
		for _, a := range attrs {
			switch a.Attr.Type &^ unix.NLA_F_NESTED {
			case unix.IFLA_IFNAME:
				p.Name = nl.BytesToString(a.Value)
			case unix.IFLA_MASTER:
				p.Bridge = int(nl.NativeEndian().Uint32(a.Value))
			case unix.IFLA_PROTINFO:
				port = true
				inner, err := nl.ParseRouteAttr(a.Value)
				if err != nil {
					return nil, fmt.Errorf("read the port %s: %w", p.Name, err)
				}
				for _, i := range inner {
					if i.Attr.Type == nl.IFLA_BRPORT_MODE {
						p.Hairpin = i.Value[0] != 0
					}
				}
			}
		}
		if port {
			ports = append(ports, p)
		}
	}
	return ports, nil
}

// SetHairpin sets a port's hairpin mode; one that is gone is not an error.
func SetHairpin(port string, on bool) error {
	link, err := netlink.LinkByName(port)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		kernel.Wrote("bridge", 1)
		err = netlink.LinkSetHairpin(link, on)
	}
	if err != nil {
		return fmt.Errorf("set hairpin mode of the bridge port %s: %w", port, err)
	}
	return nil
}
