package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"shoal/dockerwatch"
	"shoal/fabric"
	"shoal/model"
	"shoal/reconcile"
)

// meshNetwork is the Docker network that shoal makes on each host, and its bridge.
const (
	meshNetwork = "mesh"
	meshBridge  = "shoal0"
)

// meshState is how far the network has come.
type meshState struct {
	settled bool                     // it was there once
	spec    *dockerwatch.NetworkSpec // as it was then; nil: it is the user's
	came    int64                    // how often the engine had come then
	failing *reconcile.Failures[string]
}

func newNetwork() meshState {
	return meshState{failing: reconcile.NewFailures[string](200*time.Millisecond, 10*time.Second)}
}

// passing is how long it is no problem yet that the network cannot be made:
// that is so while a host starts.
const passing = time.Second

// settleNetwork gives this host its subnet and the engine the network in it,
// once, and again where somebody has removed it since (docker network prune
// takes every network without a container) or, if it is the user's, given it
// another subnet. What keeps it from that is a problem meanwhile.
func (a *Agent) settleNetwork(ctx context.Context, s *model.Snapshot, _ bool) reconcile.Result {
	n, name := &a.network, a.config.Network
	if n.settled && n.came == a.engineCame.Load() && a.networkStands(s) {
		n.failing.Put(name, nil, time.Now())
		return reconcile.Result{}
	}
	if now := time.Now(); n.failing.Len() == 0 || len(n.failing.Due(now)) > 0 {
		came := a.engineCame.Load()
		err := a.ensureNetwork(ctx, s)
		if err == nil {
			n.came = came
		}
		n.failing.Put(name, err, time.Now())
		n.settled = n.settled || err == nil
	}
	now := time.Now()
	r := reconcile.Result{Again: n.failing.Next(now)}
	if now.Sub(n.failing.Since(name)) > passing {
		r.Problems = n.failing.Problems(func(name string, err error) model.Problem {
			return model.Problem{Code: model.CodeOf(err, model.NetworkFailed), Kind: "network", Object: name, Reason: err.Error()}
		})
	}
	return r
}

// ensureNetwork makes the network, or, where it stands and the engine was
// away, asks whether it still is as this engine needs it: that may be another
// version, or drop with nftables what it dropped with iptables.
func (a *Agent) ensureNetwork(ctx context.Context, s *model.Snapshot) error {
	if n := &a.network; n.settled && a.networkStands(s) {
		if n.spec == nil {
			return nil
		}
		return a.watcher.EnsureNetwork(ctx, *n.spec)
	}
	return a.makeNetwork(ctx, s)
}

// networkStands tells whether the engine has the network as it was announced to
// the other hosts.
func (a *Agent) networkStands(s *model.Snapshot) bool {
	if a.config.Network == meshNetwork {
		return slices.ContainsFunc(s.Networks, func(n model.Network) bool { return n.Name == meshNetwork })
	}
	subnet, err := networkSubnet(s, a.config.Network)
	return err == nil && subnet == s.Self.Subnet && model.Overlap(s.Self, s.Nodes) == nil
}

func (a *Agent) makeNetwork(ctx context.Context, s *model.Snapshot) error {
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
		if subnet, err = networkSubnet(s, a.config.Network); err != nil {
			return err
		}
		self := s.Self
		if subnet != self.Subnet {
			self.Subnet, self.Number = subnet, 0 // whoever has announced it came first
		}
		if err := model.Overlap(self, s.Nodes); err != nil {
			// Nor is what was announced before: other hosts would send there what is
			// another's.
			a.catalog.SetSelf(func(n *model.Node) { n.Subnet, n.Probe = netip.Prefix{}, netip.Addr{} })
			return err
		}
	} else {
		plan := model.PlanOf(subnet)
		spec := dockerwatch.NetworkSpec{
			Name: meshNetwork, Bridge: meshBridge, Subnet: subnet, Gateway: plan.Gateway,
			MTU: fabric.MTU(a.config.Backend, card.MTU), Reserve: []netip.Addr{plan.Probe},
		}
		if err := a.watcher.EnsureNetwork(ctx, spec); err != nil {
			return err
		}
		a.network.spec = &spec
	}
	a.catalog.SetSelf(func(n *model.Node) {
		n.Subnet, n.Number, n.MAC, n.Probe = subnet, number, card.MAC, model.PlanOf(subnet).Probe
	})
	return nil
}

// removeNetwork takes the mesh's network from the engine, where it is.
func removeNetwork(ctx context.Context, c Config, log *slog.Logger) error {
	if _, err := netlink.LinkByName(meshBridge); errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil // then an engine that is away has nothing to be asked for
	}
	w, err := dockerwatch.New(dockerwatch.Options{Host: c.Docker, Node: c.Node, Pool: c.Pool, Log: log})
	if err != nil {
		return err
	}
	return w.RemoveNetwork(ctx, meshNetwork)
}

// networkSubnet is the subnet of the existing network that was chosen by name.
func networkSubnet(s *model.Snapshot, name string) (netip.Prefix, error) {
	for _, n := range s.Networks {
		if n.Name != name {
			continue
		}
		for _, p := range n.Subnets {
			if p.Addr().Is4() {
				return p, nil
			}
		}
	}
	return netip.Prefix{}, model.NetworkMissing.Errorf("--network %s: the engine has no bridge network of that name with an IPv4 subnet", name)
}
