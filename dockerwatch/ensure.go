package dockerwatch

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"shoal/model"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/versions"
	"github.com/docker/docker/client"
)

const (
	// managedLabel is on the networks that were made here: nobody else's are
	// remade or removed.
	managedLabel = labelPrefix + "managed"

	optionBridge = "com.docker.network.bridge.name"
	optionMTU    = "com.docker.network.driver.mtu"

	// Engines from 28 on (API 1.48) drop, in the mode nat, what comes to a
	// container's address from another interface than its bridge, and accept all
	// of it in the mode nat-unprotected. Version 27 knows the option and refuses
	// the latter; older ones know neither. The default may be set otherwise for all
	// networks of an engine.
	optionGatewayMode  = "com.docker.network.bridge.gateway_mode_ipv" // and 4 or 6
	protected          = "nat"
	unprotected        = "nat-unprotected"
	gatewayModeAPI     = "1.48"
	firewallBackendAPI = "1.49"

	// networkTimeout is for all of the calls that make or remove a network.
	networkTimeout = 3 * callTimeout
)

// NetworkSpec is what a Docker network of the bridge driver is to be like.
type NetworkSpec struct {
	Name    string
	Subnet  netip.Prefix // of its containers
	Gateway netip.Addr   // the bridge's own address, of Subnet
	MTU     int          // octets, 68 to 65535
	Bridge  string       // the interface, 1 to 15 characters
	Reserve []netip.Addr // of Subnet, but no container's
}

// EnsureNetwork makes a network as spec says, unless there is one like it. One
// that was made here and differs is made anew. It is an error, and nothing is
// changed, if there are containers on that one, running or not, if the one of
// that name differs and was made by somebody else, or if the subnet overlaps
// that of another network of the engine. An engine that is away is not waited
// for.
//
// Engines from version 28 on close the network's containers to all but their own
// bridge. With iptables a data plane's rules stand before the engine's. With
// nftables a drop of the engine's is final, so there the network is made without
// its protection, and the data plane's own rules are what closes it. A network
// that is less protected than that counts for no difference: the data plane
// closes it as well, and it stays as it is.
func (w *Watcher) EnsureNetwork(ctx context.Context, spec NetworkSpec) error {
	if err := spec.check(); err != nil {
		return fmt.Errorf("make the Docker network %s: %w", spec.Name, err)
	}
	return w.onNetwork(ctx, "make", spec.Name, func(ctx context.Context, docker *client.Client, list []network.Summary, there *network.Summary) error {
		final, err := dropsAreFinal(ctx, docker)
		if err != nil {
			return err
		}
		difference := ""
		if there != nil {
			if difference = spec.difference(there, final); difference == "" {
				return nil
			}
		}
		// Before one of ours is removed in vain.
		if others := overlapping(list, spec); len(others) > 0 {
			return model.SubnetOverlap.Errorf("its subnet %s overlaps network %s, which the engine refuses: remove that one (docker network rm), or choose another pool of subnets",
				spec.Subnet, strings.Join(others, ", "))
		}
		if there != nil {
			if err := removeOurs(ctx, docker, there); err != nil {
				return fmt.Errorf("there is one, but %s: %w", difference, err)
			}
			w.log.Info("making a Docker network anew", "network", spec.Name, "because", difference)
		}
		_, err = docker.NetworkCreate(ctx, spec.Name, spec.options(docker.ClientVersion(), final))
		return err
	})
}

// RemoveNetwork removes a network that EnsureNetwork has made. It is an error
// if there are containers on it, running or not, or if somebody else has made
// it. One that is not there has been removed.
func (w *Watcher) RemoveNetwork(ctx context.Context, name string) error {
	return w.onNetwork(ctx, "remove", name, func(ctx context.Context, docker *client.Client, _ []network.Summary, there *network.Summary) error {
		if there == nil {
			return nil
		}
		return removeOurs(ctx, docker, there)
	})
}

// onNetwork does something with all networks and the one of that name, nil if
// there is none.
func (w *Watcher) onNetwork(ctx context.Context, verb, name string,
	do func(context.Context, *client.Client, []network.Summary, *network.Summary) error) error {
	ctx, cancel := context.WithTimeout(ctx, networkTimeout)
	defer cancel()
	err := func() error {
		docker, err := dial(w.host)
		if err != nil {
			return err
		}
		defer docker.Close()
		list, err := docker.NetworkList(ctx, network.ListOptions{})
		if err != nil {
			return err
		}
		there, err := named(list, name)
		if err != nil {
			return err
		}
		return do(ctx, docker, list, there)
	}()
	if err != nil {
		return fmt.Errorf("%s the Docker network %s: %w", verb, name, err)
	}
	return nil
}

// named finds the network of that name, nil if there is none. Engines before
// version 25 may have several.
func named(list []network.Summary, name string) (found *network.Summary, err error) {
	for i := range list {
		if list[i].Name != name {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("there are several of that name: remove all but one, by ID: docker network rm %.12s", found.ID)
		}
		found = &list[i]
	}
	return found, nil
}

// removeOurs removes a network that was made here and is not used.
func removeOurs(ctx context.Context, docker *client.Client, n *network.Summary) error {
	if n.Labels[managedLabel] != "true" {
		return fmt.Errorf("it was not made by shoal, which leaves it alone: remove it (docker network rm %s) or choose another name", n.Name)
	}
	// Those that do not run count too: an engine remembers their network by its
	// ID, and could start none of them when that is gone.
	users, err := docker.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("network", n.ID))})
	if err != nil {
		return err
	}
	var names []string
	for _, c := range users {
		name := c.ID
		if len(c.Names) > 0 { // a dead one has none
			name = strings.TrimPrefix(c.Names[0], "/")
		}
		names = append(names, name)
	}
	if slices.Sort(names); len(names) > 0 {
		return fmt.Errorf("containers are on it, running or not: remove %s, or take each off it with docker network disconnect %s NAME",
			strings.Join(names, ", "), n.Name)
	}
	return docker.NetworkRemove(ctx, n.ID)
}

// check reports what an engine would take and make something else of, or refuse
// in words that do not help.
func (s NetworkSpec) check() error {
	usable := func(a netip.Addr) bool {
		return s.Subnet.Contains(a) && a != s.Subnet.Addr()
	}
	switch {
	case !s.Subnet.IsValid() || s.Subnet != s.Subnet.Masked():
		return fmt.Errorf("%s is no subnet", s.Subnet)
	case !usable(s.Gateway):
		return fmt.Errorf("the gateway %s is no address of the subnet %s", s.Gateway, s.Subnet)
	case s.MTU < 68 || s.MTU > 65535: // RFC 791 section 3.2
		return fmt.Errorf("an MTU of %d is not possible: 68 to 65535 octets are", s.MTU)
	case s.Bridge == "" || len(s.Bridge) > 15: // IFNAMSIZ
		return fmt.Errorf("%q is no name for an interface: use 1 to 15 characters", s.Bridge)
	}
	for _, a := range s.Reserve {
		if !usable(a) || a == s.Gateway {
			return fmt.Errorf("%s cannot be kept free: it is no address of the subnet %s, or its gateway", a, s.Subnet)
		}
	}
	return nil
}

// dropsAreFinal tells whether the engine keeps its rules in nftables, where
// nothing can accept what it drops.
func dropsAreFinal(ctx context.Context, docker *client.Client) (bool, error) {
	backend, err := firewallBackend(ctx, docker)
	return strings.HasPrefix(backend, "nftables"), err
}

// firewallBackend is what the engine keeps its rules with: "iptables",
// "nftables", either with "+firewalld" after it; "" if it does not say.
func firewallBackend(ctx context.Context, docker *client.Client) (string, error) {
	docker.NegotiateAPIVersion(ctx)
	if versions.LessThan(docker.ClientVersion(), firewallBackendAPI) {
		return "", nil
	}
	info, err := docker.Info(ctx)
	if err != nil || info.FirewallBackend == nil {
		return "", err
	}
	return info.FirewallBackend.Driver, nil
}

// options are what an engine of an API version is asked for.
func (s NetworkSpec) options(api string, dropsAreFinal bool) network.CreateOptions {
	six := s.Subnet.Addr().Is6()
	o := network.CreateOptions{
		Driver: "bridge",
		Options: map[string]string{
			optionBridge: s.Bridge,
			optionMTU:    strconv.Itoa(s.MTU),
		},
		IPAM: &network.IPAM{Driver: "default", Config: []network.IPAMConfig{{
			Subnet:     s.Subnet.String(),
			Gateway:    s.Gateway.String(),
			AuxAddress: map[string]string{},
		}}},
		Labels: map[string]string{managedLabel: "true"},
	}
	for i, a := range s.Reserve {
		o.IPAM.Config[0].AuxAddress["reserved"+strconv.Itoa(i)] = a.String()
	}
	if six {
		o.EnableIPv6 = &six
	}
	if versions.GreaterThanOrEqualTo(api, gatewayModeAPI) {
		o.Options[s.gatewayMode()] = protected
		if dropsAreFinal {
			o.Options[s.gatewayMode()] = unprotected
		}
	}
	return o
}

// gatewayMode is the option of that name for the subnet's family.
func (s NetworkSpec) gatewayMode() string {
	if s.Subnet.Addr().Is6() {
		return optionGatewayMode + "6"
	}
	return optionGatewayMode + "4"
}

// difference says in what a network is not as it is to be; "" if in nothing.
func (s NetworkSpec) difference(n *network.Summary, dropsAreFinal bool) string {
	if n.Driver != "bridge" {
		return fmt.Sprintf("its driver is %s, not bridge", n.Driver)
	}
	var subnets []string
	for _, c := range n.IPAM.Config {
		subnets = append(subnets, c.Subnet)
	}
	i := slices.Index(subnets, s.Subnet.String())
	if i < 0 {
		return fmt.Sprintf("its subnet is %s, not %s", cmp.Or(strings.Join(subnets, ", "), "none"), s.Subnet)
	}
	reserved := func(addrs []string) string {
		slices.Sort(addrs)
		return cmp.Or(strings.Join(addrs, ", "), "none")
	}
	var reserve []string
	for _, a := range s.Reserve {
		reserve = append(reserve, a.String())
	}
	config := n.IPAM.Config[i]
	for _, d := range []struct{ what, is, wanted string }{
		{"gateway", config.Gateway, s.Gateway.String()},
		{"MTU", n.Options[optionMTU], strconv.Itoa(s.MTU)},
		{"bridge", n.Options[optionBridge], s.Bridge},
		{"set of reserved addresses", reserved(slices.Collect(maps.Values(config.AuxAddress))), reserved(reserve)},
	} {
		if d.is != d.wanted {
			return fmt.Sprintf("its %s is %s, not %s", d.what, cmp.Or(d.is, "the default"), d.wanted)
		}
	}
	if mode := n.Options[s.gatewayMode()]; dropsAreFinal && mode != unprotected {
		return fmt.Sprintf("its gateway mode is %s, by which the engine's nftables rules drop what other hosts send to it", cmp.Or(mode, "the default"))
	}
	return ""
}

// overlapping are the other networks whose subnets overlap that of spec. An
// engine leases all subnets of networks of this host from one space of
// addresses, whatever their driver (libnetwork/ipam).
func overlapping(list []network.Summary, spec NetworkSpec) (others []string) {
	for _, n := range list {
		if n.Name == spec.Name || n.Scope != "local" {
			continue
		}
		for _, c := range n.IPAM.Config {
			if p, err := netip.ParsePrefix(c.Subnet); err == nil && p.Overlaps(spec.Subnet) {
				others = append(others, fmt.Sprintf("%s (%s)", n.Name, p))
			}
		}
	}
	return others
}
