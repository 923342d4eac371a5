package model

import (
	"net/netip"
	"slices"
)

// Other hosts' records tell where packets go and who may ask this host's
// resolver. So a subnet that a mistake, or worse, has put there is taken out of
// Snapshots before anybody acts on it.

// CheckSubnets clears the subnets of other hosts that this one must not act on,
// and says why in their Problem. They have to be of the pool; without one, which
// is where each host brings its engine's own network, of a private range.
func CheckSubnets(nodes []Node, self string, pools Pools) {
	refuse := func(check func(Node) error) {
		var refused []int // cleared once all are checked: they may depend on each other
		for i := range nodes {
			n := &nodes[i]
			if n.Name == self || !n.Subnet.IsValid() {
				continue
			}
			if err := check(*n); err != nil {
				n.Problem, n.ProblemCode = err.Error(), CodeOf(err, SubnetInvalid)
				refused = append(refused, i)
			}
		}
		for _, i := range refused {
			nodes[i].Subnet = netip.Prefix{}
		}
	}
	refuse(func(n Node) error { return checkSubnet(n, pools) })
	if AnyOverlap(nodes) {
		refuse(func(n Node) error { return Overlap(n, nodes) })
	}
}

// private are the ranges that a host's own network can be of: RFC 1918, RFC 6598.
var private = Pools{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"),
}

// checkSubnet tells what is wrong with a host's subnet by itself.
func checkSubnet(n Node, pools Pools) error {
	switch {
	case !n.Addr.IsValid() || n.Addr.IsUnspecified() || n.Addr.IsMulticast():
		return AddressMissing.Errorf("host %s has the address %s, by which nobody reaches it: give it one with --advertise", n.Name, n.Addr)
	case !n.Subnet.Addr().Is4():
		return SubnetInvalid.Errorf("host %s has the subnet %s: only IPv4 is carried between hosts", n.Name, n.Subnet)
	case len(pools) > 0 && (!pools.Has(n.Subnet) || slices.Contains(pools, n.Subnet)):
		return SubnetInvalid.Errorf("the subnet %s of host %s is no part of the pool %s: start all hosts with the same --subnet-pool and --network", n.Subnet, n.Name, pools)
	case len(pools) == 0 && !private.Has(n.Subnet):
		return SubnetInvalid.Errorf("the subnet %s of host %s is of no private range: give its network one (`bip` in Docker's daemon.json)", n.Subnet, n.Name)
	}
	return nil
}

// AnyOverlap tells whether [Overlap] may have something to tell of any of these
// nodes. It takes little longer for a thousand than to sort them.
func AnyOverlap(nodes []Node) bool {
	var subnets []netip.Prefix
	for _, n := range nodes {
		if n.Subnet.IsValid() {
			subnets = append(subnets, n.Subnet.Masked())
		}
	}
	slices.SortFunc(subnets, netip.Prefix.Compare)
	for i := 1; i < len(subnets); i++ {
		if subnets[i-1].Overlaps(subnets[i]) { // one that holds any other holds the next
			return true
		}
	}
	for _, n := range nodes {
		i, found := slices.BinarySearchFunc(subnets, n.Addr, func(p netip.Prefix, a netip.Addr) int { return p.Addr().Compare(a) })
		if found || i > 0 && subnets[i-1].Contains(n.Addr) {
			return true
		}
	}
	return false
}

// Overlap tells why the subnet of a node cannot stand beside those of others,
// naming both hosts; nil: it can. Of two that overlap the one with the lower
// number keeps its subnet: all hosts see it the same way, and a host that
// joins cannot take from one that is there.
func Overlap(node Node, nodes []Node) error {
	for _, o := range nodes {
		if o.Name == node.Name {
			continue
		}
		if o.Subnet.IsValid() && o.Subnet.Overlaps(node.Subnet) && before(o, node) {
			return SubnetOverlap.Errorf("the subnet %s of host %s overlaps %s of host %s, which came first: give %s another (`bip` in Docker's daemon.json, where its own bridge is used)",
				node.Subnet, node.Name, o.Subnet, o.Name, node.Name)
		}
		if o.Addr.IsValid() && node.Subnet.Contains(o.Addr) {
			return SubnetOverlap.Errorf("the subnet %s of host %s holds the address %s of host %s: give %s another subnet",
				node.Subnet, node.Name, o.Addr, o.Name, node.Name)
		}
	}
	return nil
}

// before tells which of two nodes came first; one without a number came last.
func before(a, b Node) bool {
	if a.Number != b.Number && a.Number != 0 && b.Number != 0 {
		return a.Number < b.Number
	}
	if (a.Number == 0) != (b.Number == 0) {
		return a.Number != 0
	}
	return a.Name < b.Name
}
