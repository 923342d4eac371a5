package fabric

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"shoal/fabric/transport"
	"shoal/model"
)

// changes make of the state there is the one that is wanted, in this order:
// what a route needs is there before the route, and goes after it.
type changes struct {
	dropDevices []string // first those that must be made anew
	makeDevices []transport.Device
	setDevices  []deviceChange

	putFDB   map[fdbKey]netip.Addr
	putNeigh map[neighKey]model.MAC

	putRoutes  map[netip.Prefix]route // replaces one of ours
	dropRoutes map[netip.Prefix]route

	dropNeigh  map[neighKey]model.MAC
	dropFDB    map[fdbKey]netip.Addr
	oldDevices []string // those that are not wanted any more

	refused map[netip.Prefix]string // wanted routes that stand there already, made by somebody else
}

// deviceChange is a device to be changed, from what it is.
type deviceChange struct{ from, to transport.Device }

func diff(want, have state) changes {
	var c changes
	gone := map[string]bool{} // with a device goes all that is on it
	for _, name := range slices.Sorted(maps.Keys(have.devices)) {
		h := have.devices[name]
		w, wanted := want.devices[name]
		switch {
		case !wanted:
			c.oldDevices = append(c.oldDevices, name)
		case w.Made != h.Made:
			c.dropDevices = append(c.dropDevices, name)
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

	fdb, neigh := maps.Clone(have.fdb), maps.Clone(have.neigh)
	maps.DeleteFunc(fdb, func(k fdbKey, _ netip.Addr) bool { return gone[k.dev] })
	maps.DeleteFunc(neigh, func(k neighKey, _ model.MAC) bool { return gone[k.dev] })
	c.putFDB, c.dropFDB = changed(want.fdb, fdb)
	c.putNeigh, c.dropNeigh = changed(want.neigh, neigh)

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
	return len(c.dropDevices)+len(c.makeDevices)+len(c.setDevices)+
		len(c.putFDB)+len(c.putNeigh)+len(c.putRoutes)+
		len(c.dropRoutes)+len(c.dropNeigh)+len(c.dropFDB)+len(c.oldDevices) == 0
}

// String says what changes, in a line.
func (c *changes) String() string {
	return fmt.Sprintf("devices +%d ~%d -%d, routes +%d -%d, neighbours +%d -%d, forwarding entries +%d -%d",
		len(c.makeDevices), len(c.setDevices), len(c.dropDevices)+len(c.oldDevices),
		len(c.putRoutes), len(c.dropRoutes), len(c.putNeigh), len(c.dropNeigh), len(c.putFDB), len(c.dropFDB))
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
