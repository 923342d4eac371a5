package fabric

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/model"
)

// shadowed tells which Docker network of this host overlaps the peer's subnet;
// nil: none.
func shadowed(self, peer model.Node, networks []model.Network) error {
	for _, n := range networks {
		if slices.Contains(n.Subnets, self.Subnet) {
			continue // that is a matter of the two hosts' subnets
		}
		for _, s := range n.Subnets {
			if s.Overlaps(peer.Subnet) {
				return model.SubnetOverlap.Errorf("the Docker network %s of host %s has %s, which overlaps the subnet %s of host %s: make the network again with another subnet",
					n.Name, self.Name, s, peer.Subnet, peer.Name)
			}
		}
	}
	return nil
}

// CheckPool refuses a pool of containers' subnets that this host already
// routes elsewhere, naming the route. What the fabric routes itself is fine,
// and so are the routes of the named devices: the bridges of the containers'
// own networks.
func CheckPool(pool model.Pools, bridges ...string) (overlap, err error) {
	routes, err := kernel.Routes(unix.RT_TABLE_MAIN)
	if err != nil {
		return nil, err
	}
	names, err := deviceNames()
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		dst := prefixOf(r.Dst)
		if !dst.IsValid() || dst.Bits() == 0 || !pool.Overlaps(dst) || r.Protocol == RouteProtocol {
			continue
		}
		if dev := names[r.LinkIndex]; !slices.Contains(bridges, dev) {
			return fmt.Errorf("the pool %s of containers' subnets overlaps %s, which this host routes to %s: choose another pool", pool, dst, dev), nil
		}
	}
	return nil, nil
}
