package dockerwatch

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	"github.com/docker/docker/api/types/network"

	"shoal/model"
)

// engineNetwork is what is kept of one of the engine's networks.
type engineNetwork struct {
	name, driver string
	bridge       model.Network // of the bridge driver's alone
}

// networksOf distils the engine's networks, by ID. It asks for the addresses of
// an interface where the engine tells no gateway.
func networksOf(list []network.Summary, addrs func(bridge string) []netip.Addr) map[string]engineNetwork {
	byID := make(map[string]engineNetwork, len(list))
	for _, n := range list {
		e := engineNetwork{name: n.Name, driver: n.Driver}
		if n.Driver == "bridge" {
			e.bridge = bridgeNetwork(n)
			if len(e.bridge.Gateway) == 0 {
				e.bridge.Gateway = gatewaysAmong(addrs(e.bridge.Bridge), e.bridge.Subnets)
			}
		}
		byID[n.ID] = e
	}
	return byID
}

func bridgeNetwork(n network.Summary) model.Network {
	b := model.Network{Name: n.Name, Bridge: n.Options[optionBridge]}
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

// gatewaysAmong are those addresses that are in one of the subnets. An engine
// that was told nothing of docker0's address keeps it to itself (20.10), but
// the bridge has it.
func gatewaysAmong(addrs []netip.Addr, subnets []netip.Prefix) (gateways []netip.Addr) {
	for _, a := range addrs {
		if slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Contains(a) }) {
			gateways = append(gateways, a)
		}
	}
	slices.SortFunc(gateways, netip.Addr.Compare)
	return gateways
}

// interfaceAddrs are the addresses of an interface of the network namespace
// this process is in: none if it is not there, as where the engine is in
// another.
func interfaceAddrs(name string) (addrs []netip.Addr) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil
	}
	all, err := i.Addrs()
	if err != nil {
		return nil
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			addrs = append(addrs, p.Addr())
		}
	}
	return addrs
}

// bridges are the bridge networks, by name.
func bridges(byID map[string]engineNetwork) []model.Network {
	var list []model.Network
	for _, n := range byID {
		if n.driver == "bridge" {
			b := n.bridge
			b.Subnets, b.Gateway = slices.Clone(b.Subnets), slices.Clone(b.Gateway)
			list = append(list, b)
		}
	}
	slices.SortFunc(list, func(a, b model.Network) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Bridge, b.Bridge))
	})
	return list
}
