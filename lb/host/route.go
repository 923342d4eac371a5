package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/kernel/watch"
	"shoal/lb"
)

// routeProtocol marks the route as ours ("proto 83" in ip route).
const routeProtocol = 83

// Interest is what of the kernel's notifications concerns every plane.
func Interest() watch.Interest {
	return watch.Interest{Addresses: true, Protocols: []uint8{routeProtocol}}
}

// Route makes every address of the pool local to this host, whose own address
// is self. With it the host's own processes talk to a VIP from the host's
// address; without the src they would from the VIP.
func Route(pool netip.Prefix, self netip.Addr) error {
	want, err := poolRoute(pool, self)
	if err != nil {
		return err
	}
	have, err := kernel.RouteTo(pool.Addr(), 0)
	if err != nil {
		return err
	}
	if have != nil && have.Type == want.Type && have.Dst != nil && have.Dst.String() == want.Dst.String() && have.Src.Equal(want.Src) {
		return nil
	}
	kernel.Wrote("route", 1)
	if err := netlink.RouteReplace(want); err != nil {
		if errors.Is(err, unix.EINVAL) && want.Src != nil {
			return fmt.Errorf("add the route local %s src %s: %w: is that address one of this host?", pool, self, err)
		}
		return fmt.Errorf("add the route local %s: %w", pool, err)
	}
	return nil
}

func poolRoute(pool netip.Prefix, src netip.Addr) (*netlink.Route, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find the device lo: %w", err)
	}
	r := &netlink.Route{
		LinkIndex: lo.Attrs().Index,
		Dst:       &net.IPNet{IP: pool.Addr().AsSlice(), Mask: net.CIDRMask(pool.Bits(), 32)},
		Type:      unix.RTN_LOCAL,
		Table:     unix.RT_TABLE_LOCAL,
		Scope:     netlink.SCOPE_HOST,
		Protocol:  routeProtocol,
	}
	if src.Is4() {
		r.Src = src.AsSlice()
	}
	return r, nil
}

// RouteStep reads how the kernel routes a VIP, the first that a packet to it
// meets.
func RouteStep(pool netip.Prefix, vip netip.Addr) (lb.Step, error) {
	s := lb.Step{What: "VIP", Evidence: fmt.Sprintf("the kernel does not route %s to this host", vip)}
	r, err := kernel.RouteTo(vip, 0)
	if err != nil {
		return s, err
	}
	if r != nil && r.Dst != nil && r.Dst.String() == pool.String() {
		s.OK, s.Evidence = true, fmt.Sprintf("local %s dev lo", r.Dst)
		if r.Src != nil {
			s.Evidence += " src " + r.Src.String()
		}
	}
	return s, nil
}

// DropRoute removes the route of the pool, whichever pool it is of. Before the
// last plane goes, it must be gone: without a plane's rules it would open every
// listener of the host.
func DropRoute() error {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4,
		&netlink.Route{Table: unix.RT_TABLE_LOCAL, Protocol: routeProtocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	errs := []error{err}
	for _, r := range routes {
		kernel.Wrote("route", 1)
		if err := netlink.RouteDel(&r); err != nil {
			errs = append(errs, fmt.Errorf("delete the route %s: %w", r.Dst, err))
		}
	}
	return errors.Join(errs...)
}
