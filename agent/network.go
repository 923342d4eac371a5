package agent

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"shoal/catalog"
	"shoal/dockerwatch"
	"shoal/fabric"
)

// meshNetwork is the Docker network that shoal makes on each host, and its bridge.
const (
	meshNetwork = "mesh"
	meshBridge  = "shoal0"
)

// settleNetwork gives this host its subnet and the engine the network in it,
// trying until it succeeds; what keeps it from that is a problem meanwhile.
func (a *Agent) settleNetwork(ctx context.Context) error {
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		err := a.makeNetwork(ctx)
		if err == nil {
			a.problems.set("network", nil)
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		if pause > time.Second { // not what passes while a host starts
			a.problems.set("network", []catalog.Problem{{Kind: "network", Object: a.config.Network, Reason: err.Error()}})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func (a *Agent) makeNetwork(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	card, err := fabric.NIC(a.config.Advertise)
	if err != nil {
		return err
	}
	routed, err := hostPrefixes(a.config.SubnetPool, meshBridge)
	if err != nil {
		return err
	}
	subnet, number, err := a.catalog.ClaimSubnet(ctx, a.config.SubnetPool, a.config.SubnetBits, routed)
	if err != nil {
		return err
	}
	if a.config.Network != meshNetwork {
		if subnet, err = a.networkSubnet(); err != nil {
			return err
		}
	} else {
		gateway := subnet.Addr().Next()
		err = a.watcher.EnsureNetwork(ctx, dockerwatch.NetworkSpec{
			Name: meshNetwork, Bridge: meshBridge, Subnet: subnet, Gateway: gateway,
			MTU: fabric.MTU(a.config.Backend, card.MTU), Reserve: []netip.Addr{lastUsable(subnet)},
		})
		if err != nil {
			return err
		}
	}
	a.catalog.SetSelf(func(n *catalog.Node) { n.Subnet, n.Number, n.MAC = subnet, number, card.MAC })
	return nil
}

// networkSubnet is the subnet of the existing network that was chosen by name.
func (a *Agent) networkSubnet() (netip.Prefix, error) {
	s, err := a.snapshot()
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, n := range s.Networks {
		if n.Name != a.config.Network {
			continue
		}
		for _, p := range n.Subnets {
			if p.Addr().Is4() {
				return p, nil
			}
		}
	}
	return netip.Prefix{}, fmt.Errorf("--network %s: the engine has no bridge network of that name with an IPv4 subnet", a.config.Network)
}

// lastUsable is the last address of a subnet before its broadcast address.
func lastUsable(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	host := uint32(1)<<(32-p.Bits()) - 2
	n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	n += host
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}
