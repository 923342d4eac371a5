package ingress

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/model"
)

// ReturnView is where this host sends the replies to connections that came
// through a host's published ports.
type ReturnView struct {
	Node  string
	Mark  uint32      // of the replies' packets
	MACs  []model.MAC // the connections are known by these
	Route string      // in the words of ip route; "": none
}

// Returns reads how this host sends replies back, by host.
func (g *Ingress) Returns() ([]ReturnView, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var views []ReturnView
	for _, p := range g.peers {
		v := ReturnView{Node: p.Name, Mark: packetMark(p.Number), MACs: p.MACs}
		route, err := kernel.RouteTo(probeAddr, v.Mark)
		if err != nil {
			return nil, err
		}
		if route != nil && route.Table == int(v.Mark) {
			v.Route = describe(route)
		}
		views = append(views, v)
	}
	return views, nil
}

// PathView is how a task is reached from this host.
type PathView struct {
	Route string // the host's, "10.244.2.0/24 via 192.168.1.2 dev eth0"; "": none

	// Source is as whom the task sees a client that does not keep its address:
	// that of the device which the route leaves by.
	Source netip.Addr
}

// Path reads how a task is reached from this host.
func (g *Ingress) Path(task netip.Addr) (v PathView, err error) {
	r, err := kernel.RouteTo(task, 0)
	if err != nil || r == nil {
		return v, err
	}
	v.Route = describe(r)
	v.Source, err = masquerade(r, task)
	return v, err
}

// masquerade is the address that a packet to an address is given by a rule that
// masquerades it.
func masquerade(r *netlink.Route, to netip.Addr) (netip.Addr, error) {
	if gw, ok := netip.AddrFromSlice(r.Gw); ok {
		to = gw.Unmap()
	}
	link, err := netlink.LinkByIndex(r.LinkIndex)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the device of the route to %s: %w", to, err)
	}
	on, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list the addresses of %s: %w", link.Attrs().Name, err)
	}
	var addrs []netip.Prefix
	for _, a := range on {
		ip, ok := netip.AddrFromSlice(a.IP)
		if bits, _ := a.Mask.Size(); ok && a.Scope < unix.RT_SCOPE_LINK && a.Flags&unix.IFA_F_SECONDARY == 0 {
			addrs = append(addrs, netip.PrefixFrom(ip.Unmap(), bits))
		}
	}
	return sourceFor(to, addrs), nil
}

// sourceFor is the first address of a device in whose network the next hop is,
// or else its first of all (net/ipv4/devinet.c, inet_select_addr); zero: none.
func sourceFor(hop netip.Addr, addrs []netip.Prefix) (source netip.Addr) {
	for _, a := range addrs {
		if a.Contains(hop) {
			return a.Addr()
		}
		if !source.IsValid() {
			source = a.Addr()
		}
	}
	return source
}
