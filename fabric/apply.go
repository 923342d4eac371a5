package fabric

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/fabric/transport"
	"shoal/kernel"
	"shoal/model"
)

// found is what the kernel has.
type found struct {
	state
	index map[string]int // devices
}

// read reads all that is the fabric's; of the devices that none of the tunnels
// has, only that they are there.
func read(tunnels map[string]transport.Tunnel) (found, error) {
	f := found{newState(), map[string]int{}}
	names, err := deviceNames()
	if err != nil {
		return found{}, err
	}
	for index, name := range names {
		f.index[name] = index
		if !ownDevice(name) {
			continue
		}
		d, err := readDevice(name, tunnels[name])
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue
		}
		if err != nil {
			return found{}, err
		}
		f.devices[name] = d
		if err := f.readNeighbours(name, index); err != nil {
			return found{}, err
		}
	}
	routes, err := kernel.Routes(unix.RT_TABLE_MAIN)
	if err != nil {
		return found{}, err
	}
	for _, r := range routes {
		dst := prefixOf(r.Dst)
		switch {
		case r.Protocol == RouteProtocol:
			f.routes[dst] = route{via: addrOf(r.Gw), dev: names[r.LinkIndex]}
		case r.Priority == 0:
			f.foreign[dst] = fmt.Sprintf("dev %s proto %s", names[r.LinkIndex], r.Protocol)
		}
	}
	return f, nil
}

// applier writes changes and remembers what failed.
type applier struct {
	tunnels map[string]transport.Tunnel
	index   map[string]int // devices, with those that were made
	paths   []path

	parts map[string]error // "firewall", "shoal.vxlan", … -> why
	peers map[string]error // host -> why
}

// apply writes the changes. What fails for one peer leaves the others alone,
// and ends the work for that peer: its route, which comes last, is not written.
func (a *applier) apply(c *changes) {
	for _, name := range c.dropDevices {
		a.part(name, dropDevice(name))
	}
	for _, d := range c.makeDevices {
		a.part(d.Name, makeDevice(a.tunnels[d.Name], d))
		if l, err := netlink.LinkByName(d.Name); err == nil {
			a.index[d.Name] = l.Attrs().Index
		}
	}
	for _, d := range c.setDevices {
		a.part(d.to.Name, setDevice(a.tunnels[d.to.Name], d.from, d.to))
	}
	for k, host := range c.putFDB {
		a.peer(host, k.dev, func(index int) error {
			return written("fdb", fmt.Sprintf("write the forwarding entry %s dst %s", k.mac, host), netlink.NeighSet(fdbEntry(index, k.mac, host)))
		})
	}
	for k, mac := range c.putNeigh {
		a.peer(k.host, k.dev, func(index int) error {
			return written("neighbour", fmt.Sprintf("write the neighbour %s lladdr %s", k.host, mac), netlink.NeighSet(neighEntry(index, k.host, mac)))
		})
	}
	for dst, r := range c.putRoutes {
		a.peer(r.via, r.dev, func(index int) error {
			return written("route", fmt.Sprintf("write the route %s via %s dev %s", dst, r.via, r.dev), netlink.RouteReplace(routeTo(dst, r, index)))
		})
	}
	for dst, what := range c.refused {
		for _, p := range a.paths {
			if p.peer.Subnet.Masked() == dst {
				a.peers[p.peer.Name] = model.RouteForeign.Errorf("the subnet %s of host %s is routed elsewhere on this host (%s): remove that route, `ip route del %s`", dst, p.peer.Name, what, dst)
			}
		}
	}
	for dst, r := range c.dropRoutes {
		a.part("route "+dst.String(), a.on(r.dev, func(index int) error {
			return written("route", "remove the route "+dst.String(), netlink.RouteDel(routeTo(dst, r, index)))
		}))
	}
	for k, mac := range c.dropNeigh {
		a.part("neighbour "+k.host.String(), a.on(k.dev, func(index int) error {
			return written("neighbour", "remove the neighbour "+k.host.String(), netlink.NeighDel(neighEntry(index, k.host, mac)))
		}))
	}
	for k, host := range c.dropFDB {
		a.part("forwarding entry "+k.mac.String(), a.on(k.dev, func(index int) error {
			return written("fdb", "remove the forwarding entry "+k.mac.String(), netlink.NeighDel(fdbEntry(index, k.mac, host)))
		}))
	}
	for _, name := range c.oldDevices {
		a.part(name, dropDevice(name))
	}
}

// written counts a write; what is gone already (ENOENT, ESRCH) was to be
// removed.
func written(facility, what string, err error) error {
	kernel.Wrote(facility, 1)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// part records that a part of the kernel failed; the first reason counts.
func (a *applier) part(name string, err error) {
	if err != nil && a.parts[name] == nil {
		a.parts[name] = err
	}
}

// peer writes something for the peer with that address, unless something
// failed for it before.
func (a *applier) peer(host netip.Addr, dev string, write func(index int) error) {
	for _, p := range a.paths {
		if p.peer.Addr != host {
			continue
		}
		if a.peers[p.peer.Name] == nil {
			if err := a.on(dev, write); err != nil {
				a.peers[p.peer.Name] = fmt.Errorf("reach host %s by %s: %w", p.peer.Name, p.by.Name(), err)
			}
		}
		return
	}
}

// on writes something on a device.
func (a *applier) on(dev string, write func(index int) error) error {
	index, ok := a.index[dev]
	if !ok {
		return fmt.Errorf("there is no device %s", dev)
	}
	return write(index)
}

func routeTo(dst netip.Prefix, r route, index int) *netlink.Route {
	return &netlink.Route{
		Dst: ipNet(dst), Gw: r.via.AsSlice(), LinkIndex: index,
		Table: unix.RT_TABLE_MAIN, Protocol: RouteProtocol, Flags: int(netlink.FLAG_ONLINK),
	}
}

// Down takes everything away that any Fabric made in the network namespace of
// the calling thread, but for what its firewall made. Nothing of ours there is
// not an error; connections between containers of different hosts end.
func Down() error {
	have, err := read(nil)
	errs := []error{err, keepProbe(netip.Addr{})}
	a := &applier{index: have.index}
	c := diff(newState(), have.state)
	for dst, r := range c.dropRoutes {
		errs = append(errs, a.on(r.dev, func(index int) error {
			return written("route", "remove the route "+dst.String(), netlink.RouteDel(routeTo(dst, r, index)))
		}))
	}
	for _, name := range c.oldDevices {
		errs = append(errs, dropDevice(name))
	}
	return errors.Join(errs...)
}
