package ingress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"shoal/kernel"
	"shoal/kernel/watch"
	"shoal/lb"
	"shoal/model"
)

// returnRoute is where replies with a mark go: the next hop, on a device.
type returnRoute struct {
	mark   uint32
	gw     netip.Addr // zero: the device's other end
	index  int        // of the device
	onlink bool       // the next hop is reached though no address says so
}

// Interest is what of the kernel's notifications concerns the ways back.
func Interest() watch.Interest {
	return watch.Interest{Protocols: []uint8{routeProtocol}, Priorities: priorities()}
}

// packetMark is that of replies that go back through a host.
func packetMark(number uint16) uint32 { return lb.PacketMark | uint32(number) }

// probeAddr is an address outside, which stands for all of them when the kernel
// is asked for its routes (RFC 5737, TEST-NET-1).
var probeAddr = netip.MustParseAddr("192.0.2.1")

// waysTo are the routes that replies need, to each peer the way its containers
// are reached: whoever made that route, by whatever means it carries packets, it
// leads to that host. Errs takes those of peers that there is no route to; devs
// are the devices packets come in by.
func waysTo(peers []lb.Peer, errs map[object]error) (ways []returnRoute, devs []string) {
	for i := range peers {
		w, dev, err := wayTo(&peers[i])
		if err != nil {
			errs[object{peer: peers[i].Name}] = err
			continue
		}
		ways = append(ways, w)
		if !slices.Contains(devs, dev) {
			devs = append(devs, dev)
		}
	}
	return ways, devs
}

func wayTo(p *lb.Peer) (w returnRoute, dev string, err error) {
	r, err := kernel.RouteTo(p.Subnet.Addr().Next(), 0)
	if err != nil {
		return w, "", err
	}
	if r == nil || isDefault(r) || !contains(r.Dst, p.Subnet) {
		return w, "", model.RouteMissing.Errorf("there is no route to the containers of host %s, %s: its published ports do not reach tasks here; see the problems of the network between hosts", p.Name, p.Subnet)
	}
	link, err := netlink.LinkByIndex(r.LinkIndex)
	if err != nil {
		return w, "", fmt.Errorf("find the device of the route to %s: %w", p.Subnet, err)
	}
	w = returnRoute{mark: packetMark(p.Number), index: r.LinkIndex, onlink: r.Flags&int(netlink.FLAG_ONLINK) != 0}
	if gw, ok := netip.AddrFromSlice(r.Gw); ok {
		w.gw = gw.Unmap()
	}
	return w, link.Attrs().Name, nil
}

func contains(n *net.IPNet, p netip.Prefix) bool {
	bits, _ := n.Mask.Size()
	return bits <= p.Bits() && n.Contains(p.Addr().AsSlice())
}

// route keeps the tables and the rules that lead to them, and takes away those
// of hosts that are gone.
func route(ws []returnRoute) error {
	var marks []uint32
	for _, w := range ws {
		marks = append(marks, w.mark)
	}
	// The rules first: with them the kernel can be asked what a table says.
	errs := []error{keepRules(marks)}
	for _, w := range ws {
		errs = append(errs, w.keep())
	}
	return errors.Join(errs...)
}

func (w *returnRoute) keep() error {
	want := w.route()
	have, err := kernel.RouteTo(probeAddr, w.mark)
	if err != nil {
		return err
	}
	if have != nil && have.Table == want.Table && isDefault(have) && have.LinkIndex == want.LinkIndex && have.Gw.Equal(want.Gw) {
		return nil
	}
	kernel.Wrote("route", 1)
	if err := netlink.RouteReplace(want); err != nil {
		return fmt.Errorf("add the route of mark %#x: %w", w.mark, err)
	}
	return nil
}

func (w *returnRoute) route() *netlink.Route {
	r := &netlink.Route{LinkIndex: w.index, Dst: everywhere, Table: int(w.mark), Protocol: routeProtocol}
	if w.gw.IsValid() {
		r.Gw = w.gw.AsSlice()
	} else {
		r.Scope = netlink.SCOPE_LINK
	}
	if w.onlink {
		r.Flags = int(netlink.FLAG_ONLINK)
	}
	return r
}

// everywhere is the destination of a default route.
var everywhere = &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}

func isDefault(r *netlink.Route) bool {
	return r.Dst == nil || r.Dst.String() == everywhere.String()
}

// describe is a route in the words of ip route.
func describe(r *netlink.Route) string {
	s := "default"
	if !isDefault(r) {
		s = r.Dst.String()
	}
	if len(r.Gw) > 0 {
		s += " via " + r.Gw.String()
	}
	if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
		s += " dev " + link.Attrs().Name
	}
	return s
}
