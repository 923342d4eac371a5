package agent

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/fabric"
	"shoal/kernel"
	"shoal/model"
)

// hostAddr finds the address by which other hosts reach this one: the source
// address of the default route, else the first global address of a device
// that is up, no bridge and none of shoal's own. It tells whether there is a
// default route.
func hostAddr() (addr netip.Addr, byDefault bool, err error) {
	routes, err := kernel.Routes(unix.RT_TABLE_MAIN)
	if err != nil {
		return netip.Addr{}, false, err
	}
	var viaDefault, other netip.Addr
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if src, ok := netip.AddrFromSlice(r.Src); ok {
			return src.Unmap(), true, nil
		}
		link, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil {
			continue
		}
		if a, ok := firstAddr(link); ok && !viaDefault.IsValid() {
			viaDefault = a
		}
	}
	links, err := kernel.Dump(netlink.LinkList)
	if err != nil {
		return netip.Addr{}, false, fmt.Errorf("list devices: %w", err)
	}
	for _, l := range links {
		if l.Type() == "bridge" || l.Attrs().OperState == netlink.OperDown || strings.HasPrefix(l.Attrs().Name, "shoal") {
			continue
		}
		if a, ok := firstAddr(l); ok {
			other = a
			break
		}
	}
	switch {
	case viaDefault.IsValid():
		return viaDefault, true, nil
	case other.IsValid():
		return other, false, nil
	}
	return netip.Addr{}, false, badSetting("this host has no default route and no global address to be reached by: name one with --advertise")
}

func firstAddr(l netlink.Link) (netip.Addr, bool) {
	addrs, err := kernel.Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_V4) })
	if err != nil {
		return netip.Addr{}, false
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if ok && a.Scope == unix.RT_SCOPE_UNIVERSE && ip.Unmap().IsGlobalUnicast() {
			return ip.Unmap(), true
		}
	}
	return netip.Addr{}, false
}

// checkOverlap refuses a pool that the host already routes somewhere else,
// naming the route. The pool's own local route, left by a former run, is fine.
func checkOverlap(pool netip.Prefix) (overlap, err error) {
	routes, err := kernel.Routes(0)
	if err != nil {
		return nil, err
	}
	local, err := kernel.Routes(unix.RT_TABLE_LOCAL)
	if err != nil {
		return nil, err
	}
	for _, r := range append(routes, local...) {
		dst, ok := prefixOf(r)
		if !ok || dst.Bits() == 0 || !pool.Overlaps(dst) {
			continue
		}
		if dst == pool && r.Type == unix.RTN_LOCAL {
			continue
		}
		dev := "no device"
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			dev = l.Attrs().Name
		}
		return badSetting("the VIP pool %s overlaps %s, which this host routes to %s: choose another with --pool and --dns", pool, dst, dev), nil
	}
	return nil, nil
}

// hostPrefixes are the prefixes that this host routes within the pool of
// subnets, but for those on the bridge that is the mesh's own and those that
// the fabric made.
func hostPrefixes(pool model.Pools, bridge string) ([]netip.Prefix, error) {
	routes, err := kernel.Routes(0)
	if err != nil {
		return nil, err
	}
	own := -1
	if l, err := netlink.LinkByName(bridge); err == nil {
		own = l.Attrs().Index
	}
	var all []netip.Prefix
	for _, r := range routes {
		dst, ok := prefixOf(r)
		if ok && dst.Bits() > 0 && pool.Overlaps(dst) && r.LinkIndex != own && r.Protocol != fabric.RouteProtocol {
			all = append(all, dst)
		}
	}
	return all, nil
}

func prefixOf(r netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(r.Dst.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	bits, _ := r.Dst.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), true
}

// kernelRelease is what uname -r says.
func kernelRelease() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// thisRun is the same for every agent in this network namespace until the machine
// is booted anew (random(4), boot_id).
func thisRun() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	var ns unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &ns); err != nil {
		return "", fmt.Errorf("find the network namespace: %w", err)
	}
	return fmt.Sprintf("%s/%d", bytes.TrimSpace(boot), ns.Ino), nil
}
