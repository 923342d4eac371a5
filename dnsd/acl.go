package dnsd

import (
	"net/netip"
	"slices"

	"shoal/model"
)

// acl is who may ask, by one Snapshot.
type acl struct {
	prefixes []netip.Prefix
	addrs    map[netip.Addr]struct{}
	snap     *model.Snapshot
}

// newACL makes that of a Snapshot. Old may be nil; what hosts and networks say is
// taken over from it where it is the same.
func newACL(o *Options, snap *model.Snapshot, old *acl) *acl {
	if old != nil && model.Shared(old.snap.Nodes, snap.Nodes) && model.Shared(old.snap.Networks, snap.Networks) {
		return &acl{old.prefixes, old.addrs, snap}
	}
	l := &acl{
		prefixes: append([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}, o.Allow...),
		addrs:    map[netip.Addr]struct{}{},
		snap:     snap,
	}
	for _, a := range o.serverAddrs() { // a process on this host that asks from the address it asks
		l.addrs[a] = struct{}{}
	}
	for _, n := range snap.Networks {
		l.prefixes = append(l.prefixes, n.Subnets...)
	}
	for _, n := range snap.Nodes {
		l.addrs[n.Addr] = struct{}{}
		l.prefixes = append(l.prefixes, n.Subnet) // checked by the catalog; the zero one contains nothing
	}
	return l
}

// allows tells whether a may ask. It does not allocate.
func (l *acl) allows(a netip.Addr) bool {
	if l.snap.HasContainer(a) {
		return true
	}
	if _, ok := l.addrs[a]; ok {
		return true
	}
	return slices.ContainsFunc(l.prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// networkOf is the network that a client is on: the smallest that is known, or
// its address alone.
func (l *acl) networkOf(a netip.Addr) netip.Prefix {
	found := netip.PrefixFrom(a, a.BitLen())
	known := false
	for _, p := range l.prefixes {
		if p.Contains(a) && (!known || p.Bits() > found.Bits()) {
			found, known = p, true
		}
	}
	return found
}
