package fabric

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/kernel/ipset"
	"shoal/kernel/rules"
)

// found is what the kernel has.
type found struct {
	state
	index   map[string]int  // devices
	missing map[string]bool // sets
}

// read reads all that is the fabric's but the rules.
func read() (found, error) {
	f := found{newState(), map[string]int{}, map[string]bool{}}
	names, err := deviceNames()
	if err != nil {
		return found{}, err
	}
	for index, name := range names {
		f.index[name] = index
	}
	for _, name := range []string{vxlanName, ipipName} {
		d, index, exists, err := readDevice(name)
		if err != nil {
			return found{}, err
		}
		if !exists {
			continue
		}
		f.devices[name], f.index[name] = d, index
		if d.kind == "vxlan" {
			if f.neigh, f.fdb, err = neighbours(index); err != nil {
				return found{}, err
			}
		}
	}
	routes, err := listRoutes()
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
	return f, f.readSets()
}

func (f *found) readSets() error {
	for _, s := range []ipset.Set{setNets, setHosts} {
		entries, err := ipset.List(s.Name)
		if errors.Is(err, ipset.ErrNotExist) {
			f.missing[s.Name] = true
			continue
		}
		if err != nil {
			return err
		}
		for e := range entries {
			if s == setNets {
				f.nets[e.Net] = struct{}{}
			} else {
				f.hosts[e.Net.Addr()] = struct{}{}
			}
		}
	}
	var exists bool
	var err error
	f.links, exists, err = readLinkSet()
	f.missing[setLinks] = err == nil && !exists
	return err
}

// applier writes changes and remembers what failed.
type applier struct {
	index map[string]int // devices, with those that were made
	paths []path

	parts map[string]error // "iptables", "shoal.vxlan", … -> why
	peers map[string]error // host -> why
}

// apply writes the changes; what it says was wrong with the rules. What fails
// for one peer leaves the others alone, and ends the work for that peer: its
// route, which comes last, is not written.
func (a *applier) apply(ctx context.Context, c *changes, chains []rules.Chain, missing map[string]bool) (wrong []string) {
	a.part("ipset", a.fillSets(c, missing))
	wrong, err := rules.Keep(ctx, chains)
	a.part("iptables", err)

	for _, d := range c.dropDevices {
		a.part(d.name, dropDevice(d.name))
	}
	for _, d := range c.makeDevices {
		a.part(d.name, makeDevice(d))
		if l, err := netlink.LinkByName(d.name); err == nil {
			a.index[d.name] = l.Attrs().Index
		}
	}
	for _, d := range c.setDevices {
		a.part(d.to.name, setDevice(d.from, d.to))
	}
	for mac, host := range c.putFDB {
		a.peer(host, vxlanName, func(index int) error {
			return written("fdb", fmt.Sprintf("write the forwarding entry %s dst %s", mac, host), netlink.NeighSet(fdbEntry(index, mac, host)))
		})
	}
	for host, mac := range c.putNeigh {
		a.peer(host, vxlanName, func(index int) error {
			return written("neighbour", fmt.Sprintf("write the neighbour %s lladdr %s", host, mac), netlink.NeighSet(neighEntry(index, host, mac)))
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
				a.peers[p.peer.Name] = fmt.Errorf("the subnet %s of host %s is routed elsewhere on this host (%s): remove that route, `ip route del %s`", dst, p.peer.Name, what, dst)
			}
		}
	}
	for dst, r := range c.dropRoutes {
		a.part("route "+dst.String(), a.on(r.dev, func(index int) error {
			return written("route", "remove the route "+dst.String(), netlink.RouteDel(routeTo(dst, r, index)))
		}))
	}
	for host, mac := range c.dropNeigh {
		a.part("neighbour "+host.String(), a.on(vxlanName, func(index int) error {
			return written("neighbour", "remove the neighbour "+host.String(), netlink.NeighDel(neighEntry(index, host, mac)))
		}))
	}
	for mac, host := range c.dropFDB {
		a.part("forwarding entry "+mac.String(), a.on(vxlanName, func(index int) error {
			return written("fdb", "remove the forwarding entry "+mac.String(), netlink.NeighDel(fdbEntry(index, mac, host)))
		}))
	}
	for _, d := range c.oldDevices {
		a.part(d.name, dropDevice(d.name))
	}
	a.part("ipset", a.drainSets(c))
	return wrong
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
				a.peers[p.peer.Name] = fmt.Errorf("reach host %s by %s: %w", p.peer.Name, p.backend, err)
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

func (a *applier) fillSets(c *changes, missing map[string]bool) error {
	for _, s := range []ipset.Set{setNets, setHosts} {
		if missing[s.Name] {
			if err := ipset.Create(s); err != nil {
				return fmt.Errorf("%w; run `modprobe ip_set` on the host, or install the package with the kernel's extra modules", err)
			}
		}
	}
	if missing[setLinks] {
		if err := createLinkSet(); err != nil {
			return err
		}
	}
	errs := []error{
		change(ipset.Put, setNets, netEntries(c.putNets)),
		change(ipset.Put, setHosts, hostEntries(c.putHosts)),
	}
	for _, e := range c.putLinks {
		errs = append(errs, changeLinkSet(e, true))
	}
	return errors.Join(errs...)
}

func (a *applier) drainSets(c *changes) error {
	errs := []error{
		change(ipset.Remove, setNets, netEntries(c.dropNets)),
		change(ipset.Remove, setHosts, hostEntries(c.dropHosts)),
	}
	for _, e := range c.dropLinks {
		errs = append(errs, changeLinkSet(e, false))
	}
	return errors.Join(errs...)
}

type entries = map[ipset.Entry]uint32

func change(do func(ipset.Set, entries) map[ipset.Entry]error, s ipset.Set, es entries) error {
	var errs []error
	for _, err := range do(s, es) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func netEntries(nets []netip.Prefix) entries {
	es := entries{}
	for _, n := range nets {
		es[ipset.Entry{Net: n}] = 0
	}
	return es
}

func hostEntries(hosts []netip.Addr) entries {
	es := entries{}
	for _, h := range hosts {
		es[ipset.Addr(h)] = 0
	}
	return es
}

// Down takes everything away that any Fabric made in the network namespace of
// the calling thread. Nothing of ours there is not an error; connections
// between containers of different hosts end.
func Down(ctx context.Context) error {
	var errs []error
	have, err := read()
	errs = append(errs, err)
	a := &applier{index: have.index, parts: map[string]error{}}
	c := diff(newState(), have.state)
	for dst, r := range c.dropRoutes {
		errs = append(errs, a.on(r.dev, func(index int) error {
			return written("route", "remove the route "+dst.String(), netlink.RouteDel(routeTo(dst, r, index)))
		}))
	}
	for _, d := range c.oldDevices {
		errs = append(errs, dropDevice(d.name))
	}
	errs = append(errs, rules.Remove(ctx, chain, chainIn))
	for _, name := range []string{setNets.Name, setHosts.Name, setLinks} {
		errs = append(errs, ipset.Destroy(name))
	}
	return errors.Join(errs...)
}
