package host

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"shoal/internal/statefile"
	"shoal/kernel/bridge"
	"shoal/lb"
	"shoal/model"
)

// Bridges prepares the bridges on which tasks of this host are, so that the
// plane sees all of their connections.
//
// What one of them forwards between two containers passes netfilter, so that a
// task's reply to a client on its own bridge passes the plane. That is set on
// these bridges alone; the parameter for all bridges, which earlier versions
// set, is put back.
//
// And its ports send a frame back where it came from (hairpin mode). A task that
// reaches itself is masqueraded, so its reply goes to the bridge's address;
// br_netfilter undoes the masquerading while the frame is still in the bridge,
// finds that the container is on the same bridge, and has the bridge forward it:
// to the port it came from, which a bridge refuses unless the port is in hairpin
// mode (tried: the reply is lost). It is what Docker itself does with
// userland-proxy=false.
//
// What was changed is kept for [Down]. It is to be called in every full pass,
// and when networks change or tasks of this host come.
func Bridges(dir string, base *lb.Base, endpoints map[netip.Addr]lb.Endpoint) error {
	names := slices.DeleteFunc(taskBridges(base.Networks, endpoints), func(name string) bool { return !isLink(name) })
	if len(names) > 0 {
		if err := errors.Join(passNetfilter(dir, names), hairpin(dir, names)); err != nil {
			return err
		}
	}
	return Sysctls(dir).PutBack(everyBridge)
}

// passNetfilter has netfilter see what the bridges forward.
func passNetfilter(dir string, names []string) error {
	var errs []error
	for _, name := range names {
		on, err := bridge.NFCallIPTables(name)
		if err == nil && !on {
			if err = keep(bridgesFile(dir), []string{name}, isLink); err == nil {
				err = bridge.SetNFCallIPTables(name, true)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func hairpin(dir string, names []string) error {
	bridges := map[int]bool{}
	for _, name := range names {
		if link, err := net.InterfaceByName(name); err == nil {
			bridges[link.Index] = true
		}
	}
	ports, err := bridge.Ports()
	if err != nil {
		return err
	}
	var changed []string
	for _, p := range ports {
		if !p.Hairpin && bridges[p.Bridge] {
			changed = append(changed, p.Name)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	there := func(name string) bool {
		return slices.ContainsFunc(ports, func(p bridge.Port) bool { return p.Name == name })
	}
	errs := []error{keep(portsFile(dir), changed, there)}
	if errs[0] == nil {
		for _, name := range changed {
			errs = append(errs, bridge.SetHairpin(name, true))
		}
	}
	return errors.Join(errs...)
}

func downPorts(dir string) error {
	return putBack(portsFile(dir), func(port string) error { return bridge.SetHairpin(port, false) })
}

func downBridges(dir string) error {
	return putBack(bridgesFile(dir), func(name string) error { return bridge.SetNFCallIPTables(name, false) })
}

func portsFile(dir string) string   { return filepath.Join(dir, "hairpin.json") }
func bridgesFile(dir string) string { return filepath.Join(dir, "bridges.json") }

// keep adds names to those in the file, and drops those that are not there any
// more.
func keep(file string, names []string, there func(string) bool) error {
	var kept []string
	if _, err := statefile.Load(file, &kept); err != nil {
		return err
	}
	kept = slices.DeleteFunc(append(kept, names...), func(n string) bool { return !there(n) })
	slices.Sort(kept)
	return statefile.Save(file, slices.Compact(kept))
}

// putBack does what puts each in the file back, and forgets them.
func putBack(file string, back func(name string) error) error {
	var names []string
	if found, err := statefile.Load(file, &names); !found || err != nil {
		return err
	}
	var errs []error
	for _, n := range names {
		errs = append(errs, back(n))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.Remove(file)
}

func isLink(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
}

// taskBridges are the bridges of those networks that have a task of this host,
// by name. A task that is the host itself is on none.
func taskBridges(networks []model.Network, endpoints map[netip.Addr]lb.Endpoint) (names []string) {
	for _, n := range networks {
		for a, e := range endpoints {
			if e.Local && !e.Host && slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Contains(a) }) {
				names = append(names, n.Bridge)
				break
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
