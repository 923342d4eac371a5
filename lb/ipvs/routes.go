package ipvs

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/lb"
)

// rulePriority is that of the routing rules by packets' marks, before the main
// table and after the local one. Each mark's table has the number of the mark.
// The rule of the mark without a host's number, into the sandbox, is kept here;
// those of other hosts are the ingress's.
const rulePriority = 540

// outside is an address outside, which stands for all of them when the kernel
// is asked for its routes (RFC 5737, TEST-NET-1).
var outside = netip.MustParseAddr("192.0.2.1")

// ensureReturn keeps the way by which replies come to the sandbox, and the
// route to its own address. With self as its source, what a process of this host
// answers to a UDP request of the sandbox comes from the address that the request
// went to.
func ensureReturn(self netip.Addr) error {
	link, err := netlink.LinkByName(hostDev)
	if err != nil {
		return fmt.Errorf("find the device %s: %w", hostDev, err)
	}
	index := link.Attrs().Index
	have, err := findRule()
	if err != nil {
		return err
	}
	if have != nil && have.Protocol != lb.RuleProtocol { // an earlier version's
		kernel.Wrote("rule", 1)
		if err := netlink.RuleDel(have); err != nil {
			return fmt.Errorf("delete the routing rule of mark %#x: %w", lb.PacketMark, err)
		}
		have = nil
	}
	if have == nil {
		// The rule first: with it the kernel can be asked what its table says.
		kernel.Wrote("rule", 1)
		if err := netlink.RuleAdd(ownRule()); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add the routing rule of mark %#x: %w", lb.PacketMark, err)
		}
	}
	return errors.Join(
		ensureRoute(outside, lb.PacketMark, &netlink.Route{
			LinkIndex: index, Dst: everywhere, Gw: sandboxAddr.AsSlice(), Table: int(lb.PacketMark), Protocol: routeProtocol,
		}),
		ensureRoute(sandboxAddr, 0, &netlink.Route{
			LinkIndex: index, Scope: netlink.SCOPE_LINK, Src: self.AsSlice(), Table: unix.RT_TABLE_MAIN, Protocol: routeProtocol,
			Dst: &net.IPNet{IP: sandboxAddr.AsSlice(), Mask: net.CIDRMask(32, 32)},
		}))
}

// returnStep reads the way by which replies come to the sandbox.
func returnStep() (lb.Step, error) {
	s := lb.Step{What: "return", Evidence: fmt.Sprintf("replies to the sandbox: mark %#x, route none", lb.PacketMark)}
	r, err := kernel.RouteTo(outside, lb.PacketMark)
	if err == nil && r != nil && r.Table == int(lb.PacketMark) {
		s.OK, s.Evidence = true, fmt.Sprintf("replies to the sandbox: mark %#x, route default via %s dev %s", lb.PacketMark, r.Gw, hostDev)
	}
	return s, err
}

// ensureRoute keeps a route: the one that the kernel takes to an address, by
// packets with a mark.
func ensureRoute(to netip.Addr, mark uint32, want *netlink.Route) error {
	have, err := kernel.RouteTo(to, mark)
	if err != nil {
		return err
	}
	if have != nil && have.Table == want.Table && dstOf(have) == dstOf(want) && have.LinkIndex == want.LinkIndex &&
		have.Gw.Equal(want.Gw) && have.Src.Equal(want.Src) {
		return nil
	}
	kernel.Wrote("route", 1)
	if err := netlink.RouteReplace(want); err != nil {
		if want.Src != nil {
			return fmt.Errorf("add the route to the sandbox, with the source %s: %w; that must be an address of this host", want.Src, err)
		}
		return fmt.Errorf("add the route of mark %#x: %w", mark, err)
	}
	return nil
}

func dstOf(r *netlink.Route) string {
	if r.Dst == nil {
		return everywhere.String()
	}
	return r.Dst.String()
}

// findRule finds the routing rule into the sandbox; nil: there is none.
func findRule() (*netlink.Rule, error) {
	all, err := kernel.Dump(func() ([]netlink.Rule, error) { return netlink.RuleList(netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list the routing rules: %w", err)
	}
	i := slices.IndexFunc(all, func(r netlink.Rule) bool {
		return r.Priority == rulePriority && r.Mark == lb.PacketMark && r.Table == int(lb.PacketMark)
	})
	if i < 0 {
		return nil, nil
	}
	return &all[i], nil
}

func ownRule() *netlink.Rule {
	mask := lb.MarkMask
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table, r.Mark, r.Mask = netlink.FAMILY_V4, rulePriority, int(lb.PacketMark), lb.PacketMark, &mask
	r.Protocol = lb.RuleProtocol
	return r
}

// dropReturn takes away the rule into the sandbox and the table that it leads
// to.
func dropReturn() error {
	have, err := findRule()
	if err != nil || have == nil {
		return err
	}
	kernel.Wrote("route", 1)
	err = netlink.RouteDel(&netlink.Route{Dst: everywhere, Table: int(lb.PacketMark)})
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete the route of mark %#x: %w", lb.PacketMark, err)
	}
	kernel.Wrote("rule", 1)
	if err := netlink.RuleDel(have); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete the routing rule of mark %#x: %w", lb.PacketMark, err)
	}
	return nil
}
