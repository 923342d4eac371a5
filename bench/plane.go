package bench

import (
	"context"
	"net/netip"

	"shoal/lab"
	"shoal/lab/kernel"
	"shoal/lb"
)

// plane is what the bench has to know of a data plane. The functions are for a
// thread in the network namespace in question.
type plane struct {
	name string
	open func(lb.PlaneOptions) (lb.DataPlane, error)
	down func(context.Context, lb.PlaneOptions) error
	look func() (look, error)

	// Addresses from here on are no VIPs, and what is sent to them meets rules
	// of others.
	unused string
}

// look reads what a plane has in the kernel. It starts no process, and what it
// reads of one VIP costs the same however many there are: it is asked while the
// clock runs.
type look interface {
	// vips are the VIPs that are balanced.
	vips() (map[netip.Addr]bool, error)

	// rotation is how many backends of a VIP's TCP ports get new connections.
	rotation(vip netip.Addr) (int, error)

	// rules are n iptables rules in a chain, for iptables-restore: one for each
	// of n services, as those have it that use no sets. The last has addr
	// balanced as the VIP like is, whose only task is task.
	rules(chain string, n int, addr, like, task netip.Addr) (string, error)

	Close()
}

// thePlane is the one that the agents of this lab use.
func thePlane() plane {
	if lab.Plane() == kernel.NFTables {
		return nftPlane
	}
	return ipvsPlane
}
