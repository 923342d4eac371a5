package dockerwatch

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/docker/docker/api/types/network"

	"shoal/catalog"
)

// engineNetwork is what is kept of one of the engine's networks.
type engineNetwork struct {
	name, driver string
	bridge       catalog.Network // of the bridge driver's alone
}

// networksOf distils the engine's networks, by ID.
func networksOf(list []network.Summary) map[string]engineNetwork {
	byID := make(map[string]engineNetwork, len(list))
	for _, n := range list {
		e := engineNetwork{name: n.Name, driver: n.Driver}
		if n.Driver == "bridge" {
			e.bridge = bridgeNetwork(n)
		}
		byID[n.ID] = e
	}
	return byID
}

func bridgeNetwork(n network.Summary) catalog.Network {
	b := catalog.Network{Name: n.Name, Bridge: n.Options["com.docker.network.bridge.name"]}
	if b.Bridge == "" {
		b.Bridge = "br-" + n.ID[:min(12, len(n.ID))]
		if n.Options["com.docker.network.bridge.default_bridge"] == "true" {
			b.Bridge = "docker0"
		}
	}
	for _, c := range n.IPAM.Config {
		if p, err := netip.ParsePrefix(c.Subnet); err == nil {
			b.Subnets = append(b.Subnets, p.Masked())
		}
		// Old engines wrote a gateway with the length of its subnet.
		if p, err := netip.ParsePrefix(c.Gateway); err == nil {
			b.Gateway = append(b.Gateway, p.Addr())
		} else if a, err := netip.ParseAddr(c.Gateway); err == nil {
			b.Gateway = append(b.Gateway, a)
		}
	}
	slices.SortFunc(b.Subnets, netip.Prefix.Compare)
	slices.SortFunc(b.Gateway, netip.Addr.Compare)
	return b
}

// bridges are the bridge networks, by name.
func bridges(byID map[string]engineNetwork) []catalog.Network {
	var list []catalog.Network
	for _, n := range byID {
		if n.driver == "bridge" {
			b := n.bridge
			b.Subnets, b.Gateway = slices.Clone(b.Subnets), slices.Clone(b.Gateway)
			list = append(list, b)
		}
	}
	slices.SortFunc(list, func(a, b catalog.Network) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Bridge, b.Bridge))
	})
	return list
}
