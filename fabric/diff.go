package fabric

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"shoal/model"
)

// changes make of the state there is the one that is wanted, in this order:
// what a route needs is there before the route, and goes after it.
type changes struct {
	putNets  []netip.Prefix
	putHosts []netip.Addr
	putLinks []linkEntry

	dropDevices []device // first those that must be made anew
	makeDevices []device
	setDevices  []deviceChange

	putFDB   map[model.MAC]netip.Addr
	putNeigh map[netip.Addr]model.MAC

	putRoutes  map[netip.Prefix]route // replaces one of ours
	dropRoutes map[netip.Prefix]route

	dropNeigh  map[netip.Addr]model.MAC
	dropFDB    map[model.MAC]netip.Addr
	oldDevices []device // those that are not wanted any more

	dropNets  []netip.Prefix
	dropHosts []netip.Addr
	dropLinks []linkEntry

	refused map[netip.Prefix]string // wanted routes that stand there already, made by somebody else
}

// deviceChange is a device to be changed, from what it is.
type deviceChange struct{ from, to device }

func diff(want, have state) changes {
	var c changes
	c.putNets, c.dropNets = difference(want.nets, have.nets)
	c.putHosts, c.dropHosts = difference(want.hosts, have.hosts)
	c.putLinks, c.dropLinks = difference(want.links, have.links)

	gone := map[string]bool{} // with a device goes all that is on it
	for _, name := range slices.Sorted(maps.Keys(have.devices)) {
		h := have.devices[name]
		w, wanted := want.devices[name]
		switch {
		case !wanted:
			c.oldDevices = append(c.oldDevices, h)
		case w.fixed() != h.fixed():
			c.dropDevices = append(c.dropDevices, h)
			gone[name] = true
		case w != h:
			c.setDevices = append(c.setDevices, deviceChange{h, w})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want.devices)) {
		if _, exists := have.devices[name]; !exists || gone[name] {
			c.makeDevices = append(c.makeDevices, want.devices[name])
		}
	}

	haveFDB, haveNeigh := have.fdb, have.neigh
	if gone[vxlanName] {
		haveFDB, haveNeigh = nil, nil
	}
	c.putFDB, c.dropFDB = changed(want.fdb, haveFDB)
	c.putNeigh, c.dropNeigh = changed(want.neigh, haveNeigh)

	routes := maps.Clone(have.routes)
	maps.DeleteFunc(routes, func(_ netip.Prefix, r route) bool { return gone[r.dev] })
	c.putRoutes, c.dropRoutes = changed(want.routes, routes)
	c.refused = map[netip.Prefix]string{}
	for dst := range c.putRoutes {
		if what, taken := have.foreign[dst]; taken {
			c.refused[dst] = what
			delete(c.putRoutes, dst)
		}
	}
	return c
}

// empty tells whether nothing is to be done.
func (c *changes) empty() bool {
	return len(c.putNets)+len(c.putHosts)+len(c.putLinks)+
		len(c.dropDevices)+len(c.makeDevices)+len(c.setDevices)+
		len(c.putFDB)+len(c.putNeigh)+len(c.putRoutes)+
		len(c.dropRoutes)+len(c.dropNeigh)+len(c.dropFDB)+len(c.oldDevices)+
		len(c.dropNets)+len(c.dropHosts)+len(c.dropLinks) == 0
}

// String says what changes, in a line.
func (c *changes) String() string {
	return fmt.Sprintf("devices +%d ~%d -%d, routes +%d -%d, neighbours +%d -%d, forwarding entries +%d -%d, set entries +%d -%d",
		len(c.makeDevices), len(c.setDevices), len(c.dropDevices)+len(c.oldDevices),
		len(c.putRoutes), len(c.dropRoutes), len(c.putNeigh), len(c.dropNeigh), len(c.putFDB), len(c.dropFDB),
		len(c.putNets)+len(c.putHosts)+len(c.putLinks), len(c.dropNets)+len(c.dropHosts)+len(c.dropLinks))
}

// changed are the entries to write and those to delete. One with another value
// is to be written only: writing replaces.
func changed[K, V comparable](want, have map[K]V) (put, drop map[K]V) {
	put, drop = map[K]V{}, map[K]V{}
	for k, v := range want {
		if h, ok := have[k]; !ok || h != v {
			put[k] = v
		}
	}
	for k, v := range have {
		if _, ok := want[k]; !ok {
			drop[k] = v
		}
	}
	return put, drop
}

func difference[K comparable](want, have map[K]struct{}) (put, drop []K) {
	p, d := changed(want, have)
	return slices.Collect(maps.Keys(p)), slices.Collect(maps.Keys(d))
}
