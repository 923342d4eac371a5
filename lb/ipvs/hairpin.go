package ipvs

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"shoal/internal/statefile"
	"shoal/kernel/bridge"
)

// hairpin lets the bridges of this host's tasks send a frame back through the
// port it came from. A task that reaches itself is masqueraded, so its reply
// goes to the bridge's address; br_netfilter undoes the masquerading while the
// frame is still in the bridge, finds that the container is on the same bridge,
// and has the bridge forward it: to the port it came from, which a bridge
// refuses unless the port is in hairpin mode (tried: the reply is lost). It is
// what Docker itself does with userland-proxy=false.
//
// The ports that were changed are kept in a file for Down.
func (b *Balancer) hairpin() error {
	bridges := map[int]bool{}
	for _, n := range b.snap.Networks {
		if link, err := net.InterfaceByName(n.Bridge); err == nil && b.hasHairpin(n.Subnets) {
			bridges[link.Index] = true
		}
	}
	if len(bridges) == 0 {
		return nil
	}
	ports, err := bridge.Ports()
	if err != nil {
		return err
	}
	var changed []string
	var errs []error
	for _, p := range ports {
		if !p.Hairpin && bridges[p.Bridge] {
			changed = append(changed, p.Name)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	if err := keepPorts(portsFile(b.opts.StateDir), changed, ports); err != nil {
		return err
	}
	for _, name := range changed {
		errs = append(errs, bridge.SetHairpin(name, true))
	}
	return errors.Join(errs...)
}

func portsFile(dir string) string { return filepath.Join(dir, "hairpin.json") }

// keepPorts adds names to those in the file, and drops those that are gone.
func keepPorts(file string, names []string, there []bridge.Port) error {
	kept, err := loadPorts(file)
	if err != nil {
		return err
	}
	kept = slices.DeleteFunc(append(kept, names...), func(n string) bool {
		return !slices.ContainsFunc(there, func(p bridge.Port) bool { return p.Name == n })
	})
	slices.Sort(kept)
	return statefile.Save(file, slices.Compact(kept))
}

func loadPorts(file string) (names []string, err error) {
	_, err = statefile.Load(file, &names)
	return names, err
}

// downHairpin puts the ports back.
func downHairpin(file string) error {
	names, err := loadPorts(file)
	if err != nil || names == nil {
		return err
	}
	var errs []error
	for _, n := range names {
		errs = append(errs, bridge.SetHairpin(n, false))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.Remove(file)
}

// hasHairpin tells whether a task of this host is in one of the subnets.
func (b *Balancer) hasHairpin(subnets []netip.Prefix) bool {
	for e := range b.want[setHairpin.Name] {
		if slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Contains(e.Net.Addr()) }) {
			return true
		}
	}
	return false
}
