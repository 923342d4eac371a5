package dockerwatch

import (
	"net/netip"
	"slices"
	"strings"

	"shoal/model"
)

// address is where a task of the container is reached, or why it is nowhere.
func (v *inventory) address(f *facts, s *serviceLabels) (netip.Addr, error) {
	owner, err := v.networkOwner(f)
	if err != nil {
		return netip.Addr{}, err
	}
	if owner.hostNetwork {
		if s.network != "" {
			return netip.Addr{}, model.LabelsInvalid.Errorf("label %snetwork=%.60q: the container is on the host's network: leave the label out", labelPrefix, s.network)
		}
		if a := v.nodeAddr(); a.IsValid() {
			return a, nil
		}
		return netip.Addr{}, model.AddressMissing.Errorf("the container is on the host's network, and the host's address is not known yet")
	}
	e, err := v.endpoint(f, owner, s.network)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range e.addrs {
		if a.Is4() == v.limits.pool.Addr().Is4() {
			return a, nil
		}
	}
	if s.spec.Mode == model.ModeVIP {
		return netip.Addr{}, model.AddressMissing.Errorf("network %s gives the container no address of the kind of the VIPs (%s): use another network or %smode=dnsrr",
			e.network, v.limits.pool, labelPrefix)
	}
	return e.addrs[0], nil
}

// networkOwner is the container whose network f uses: mostly f itself.
func (v *inventory) networkOwner(f *facts) (*facts, error) {
	const depth = 8 // of joins; an engine allows one
	for range depth {
		if f.joined == "" {
			return f, nil
		}
		owner := v.find(f.joined)
		if owner == nil {
			return nil, model.NetworkOwnerGone.Errorf("container %.12s, whose network this one shares, does not run: start it, then restart this one", f.joined)
		}
		// The owner's restart made it a new network; f is in the old one.
		if owner.started.After(f.started) {
			return nil, model.NetworkOwnerGone.Errorf("container %s, whose network this one shares, was started after it: restart this one", owner.name)
		}
		f = owner
	}
	return nil, model.NetworkOwnerGone.Errorf("the container shares its network over too many others")
}

// find is the running container of an ID or name, nil if there is none.
func (v *inventory) find(idOrName string) *facts {
	if f := v.containers[idOrName]; f != nil {
		return f
	}
	for _, f := range v.containers {
		if f.name == idOrName {
			return f
		}
	}
	return nil
}

// endpoint is the place of owner on the network that is wanted, or on its only
// one that can be used. The container f, of which the labels are, has joined
// owner's network or is owner.
func (v *inventory) endpoint(f, owner *facts, wanted string) (endpoint, error) {
	if len(owner.endpoints) == 0 {
		return endpoint{}, model.AddressMissing.Errorf("the container has no address on any network: attach it to one with docker network connect")
	}
	var all, usable []string
	var only endpoint
	for _, e := range owner.endpoints {
		all = append(all, e.network)
		if v.networks[e.networkID].driver == "bridge" {
			usable = append(usable, e.network)
			only = e
		}
	}
	if wanted != "" {
		// A compose file knows its networks without the project's name.
		for _, name := range []string{wanted, f.project + "_" + wanted} {
			i := slices.Index(all, name)
			if i < 0 {
				continue
			}
			if !slices.Contains(usable, name) {
				return endpoint{}, v.unusable(owner.endpoints[i : i+1])
			}
			return owner.endpoints[i], nil
		}
		return endpoint{}, model.NetworkMissing.Errorf("label %snetwork=%.60q: the container is not on that network; it is on %s",
			labelPrefix, wanted, strings.Join(all, ", "))
	}
	switch len(usable) {
	case 0:
		return endpoint{}, v.unusable(owner.endpoints)
	case 1:
		return only, nil
	}
	return endpoint{}, model.NetworkAmbiguous.Errorf("the container is on several networks (%s): say which to use with the label %snetwork=%s",
		strings.Join(usable, ", "), labelPrefix, usable[0])
}

func (v *inventory) unusable(es []endpoint) error {
	var names []string
	for _, e := range es {
		driver := v.networks[e.networkID].driver
		if driver == "" {
			driver = "unknown driver"
		}
		names = append(names, e.network+" ("+driver+")")
	}
	return model.NetworkUnusable.Errorf("the host cannot reach a container on network %s: attach it to a bridge network", strings.Join(names, ", "))
}
