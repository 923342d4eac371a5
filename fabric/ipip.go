package fabric

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/model"
)

const ipipName = "shoal.ipip"

// ipip carries IP in IP (RFC 2003): one outer header of 20 octets. The device
// has no far end of its own; the kernel sends to the route's next hop.
type ipip struct{}

func (ipip) overhead() int { return 20 }

func (i ipip) device(self model.Node, mtu int) *device {
	return &device{
		name: ipipName, kind: "ipip", local: self.Addr,
		mtu: mtu - i.overhead(), addr: model.PlanOf(self.Subnet).Tunnel, up: true, loose: true,
	}
}

func (ipip) outer() string { return fmt.Sprintf("-p %d", unix.IPPROTO_IPIP) }

func (ipip) path(peer model.Node, _ []link) (path, error) {
	return path{peer: peer, backend: IPIP, dev: ipipName}, nil
}

// ipipLink is the device as it is made. With a TTL of its own the outer header
// does not take the inner one's, and hosts that are far do not depend on it;
// path MTU discovery needs one (ip-link(8)).
func ipipLink(d *device) netlink.Link {
	return &netlink.Iptun{
		LinkAttrs: netlink.LinkAttrs{Name: d.name, MTU: d.mtu},
		Local:     d.local.AsSlice(),
		Ttl:       64,
		PMtuDisc:  1,
		Proto:     unix.IPPROTO_IPIP,
	}
}

func ipipDevice(l *netlink.Iptun, d *device) { d.local = addrOf(l.Local) }

func ipipHint(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("this kernel has no ipip: run `modprobe ipip` on the host, or use the backend %s or %s", HostGW, VXLAN)
	}
	return err
}
