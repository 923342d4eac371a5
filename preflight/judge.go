package preflight

import (
	"fmt"
	"strings"
)

// checks are all there are, in the order in which they are told. Each tells what
// it finds; nothing: it does not apply.
var checks = []struct {
	name string
	look func(*Facts) []Finding
}{
	{"privileges", privileges},
	{"kernel", kernel},
	{"modules", modules},
	{"engine", engine},
	{"iptables", iptables},
	{"firewalls", firewalls},
	{"addresses", addresses},
	{"ports", ports},
	{"systemd-networkd", networkd},
	{"NetworkManager", networkManager},
	{"control groups", controlGroups},
	{"connections", connections},
}

// Judge tells what the facts mean.
func Judge(f *Facts) (all []Finding) {
	for _, c := range checks {
		for _, found := range c.look(f) {
			found.Check = c.name
			all = append(all, found)
		}
	}
	return all
}

func ok(format string, args ...any) []Finding {
	return []Finding{{Level: OK, Found: fmt.Sprintf(format, args...)}}
}

func privileges(f *Facts) []Finding {
	if f.Root {
		return ok("root")
	}
	return []Finding{{Level: Cannot, Found: "not root, which the agent has to be, and without which not all can be checked", Do: "run it with sudo"}}
}

// extras tells which package has modules that a stock installation lacks.
func (f *Facts) extras() string {
	switch {
	case f.Distro.is("rhel", "fedora", "centos"):
		return "dnf install kernel-modules-extra-" + f.Release + "; if that is not to be had any more, dnf update and reboot first"
	case f.Distro.is("ubuntu"):
		return "apt install linux-modules-extra-" + f.Release
	case f.Distro.is("debian"):
		return "boot the kernel of the package linux-image-amd64 or linux-image-cloud-amd64, which have the modules"
	case f.Distro.is("suse", "opensuse"):
		return "zypper install kernel-default, in place of kernel-default-base"
	}
	return "install the distribution's package with the kernel's extra modules"
}

// plane is the one that would be used; "": none can be.
func (f *Facts) plane() (name string, lacks []string) {
	for _, p := range f.Planes {
		if p.Lacks == nil {
			return p.Name, lacks
		}
		lacks = append(lacks, fmt.Sprintf("%s: %v", p.Name, p.Lacks))
	}
	return "", lacks
}

func kernel(f *Facts) []Finding {
	name, lacks := f.plane()
	switch {
	case len(f.Planes) == 0: // it was not asked
		return nil
	case name == "":
		return []Finding{{Level: Cannot, Found: fmt.Sprintf("%s can balance by no data plane (%s)", f.Release, strings.Join(lacks, "; ")), Do: f.extras()}}
	case len(lacks) > 0:
		return ok("%s, data plane %s, as there is not all for %s", f.Release, name, strings.Join(lacks, "; "))
	}
	return ok("%s, data plane %s", f.Release, name)
}

func modules(f *Facts) []Finding {
	if f.BrNetfilter {
		return ok("br_netfilter")
	}
	return []Finding{{Level: Warning, Found: "there is no br_netfilter, so that a client on a task's own bridge gets no answer through a VIP", Do: f.extras()}}
}

// The oldest version of the engine that shoal was tried on.
const oldestMajor, oldestMinor = 20, 10

func tooOld(version string) bool {
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return false // it is of its own making
	}
	return major < oldestMajor || major == oldestMajor && minor < oldestMinor
}

func engine(f *Facts) (found []Finding) {
	e := &f.Engine
	warn := func(what, do string) { found = append(found, Finding{Level: Warning, Found: what, Do: do}) }
	switch {
	case f.EngineError != nil:
		warn("it does not answer: "+f.EngineError.Error(), "start it, or name its socket by --docker-host; the agent waits for it")
		return found
	case e.Rootless:
		return []Finding{{Level: Cannot, Found: "it is rootless, so that its containers are in a network of their own, which this host's kernel does not reach", Do: "use an engine that runs as root"}}
	case e.Desktop():
		return []Finding{{Level: Cannot, Found: "it is Docker Desktop, whose containers are in a virtual machine, out of reach of this host's kernel", Do: "use Docker Engine (docker-ce or docker.io)"}}
	}
	if tooOld(e.Version) {
		warn("version "+e.Version+" is older than any that shoal was tried on", fmt.Sprintf("use %d.%d or later", oldestMajor, oldestMinor))
	}
	if e.Snap() {
		warn("it is snap's Docker, which is confined, brings an iptables of its own, and restarts by itself when it is refreshed", "use the distribution's package or Docker's own")
	}
	if e.Swarm {
		warn("it is part of a Swarm, which listens on port 7946, as hosts of a cluster of shoal do", "docker swarm leave, unless this host stays alone")
	}
	if name, _ := f.plane(); e.Firewall == "nftables" && name != "" && name != "nftables" {
		warn("its firewall is nftables, and the data plane "+name+" writes rules of iptables, whose word is not the last there", "use --data-plane nftables")
	}
	if len(found) > 0 {
		return found
	}
	firewall := e.Firewall
	if firewall == "" {
		firewall = "iptables"
	}
	return ok("version %s, firewall %s", e.Version, firewall)
}

func iptables(f *Facts) []Finding {
	t := f.IPTables
	switch {
	case t.Legacy && t.NFT:
		return []Finding{{Level: Warning, Found: "there are rules of both iptables-legacy and iptables-nft, and a packet meets both, though each program shows its own only",
			Do: "choose one (update-alternatives --config iptables), and reboot"}}
	case t.Found && t.Writes == "":
		return ok("found")
	case t.Found:
		return ok("%s", t.Writes)
	case f.Engine.Firewall == "nftables":
		return ok("there is none, and the engine needs none")
	}
	return []Finding{{Level: Warning, Found: "there is no program of that name, which the data plane ipvs needs, and nftables where the engine uses it", Do: "install the package iptables"}}
}

// accept is what has a chain of others let pass what is for the mesh. It opens
// nothing: what it accepts has yet to pass the chains of shoal and the engine.
func (f *Facts) accept(c Chain) string {
	rule := fmt.Sprintf("nft insert rule %s %s %s ip ", c.Family, c.Table, c.Name)
	if c.Hook == "input" {
		return rule + "daddr " + f.VIPs.String() + " accept"
	}
	containers := f.Containers.String()
	if len(f.Containers) > 1 {
		containers = "{ " + strings.ReplaceAll(containers, ",", ", ") + " }"
	}
	return rule + "daddr " + containers + " accept; " + rule + "saddr " + containers + " accept"
}

func firewalls(f *Facts) (found []Finding) {
	for _, c := range f.Drops {
		found = append(found, Finding{Level: Warning,
			Found: fmt.Sprintf("the chain %s of the nftables table %s %s (%s) drops all that it does not accept itself, even what shoal accepts", c.Name, c.Family, c.Table, c.Hook),
			Do:    f.accept(c)})
	}
	switch {
	case len(found) > 0:
		return found
	case f.Firewalld:
		return ok("firewalld runs; the agent has it let the mesh pass")
	case f.UFW:
		return ok("ufw is enabled; shoal's rules stand before its own, so that published ports are open as those of docker run -p are")
	}
	return ok("none is found that is in the way")
}

func addresses(f *Facts) (found []Finding) {
	if f.Address != nil {
		found = append(found, Finding{Level: Cannot, Found: f.Address.Error()})
	}
	for _, err := range f.Overlap {
		found = append(found, Finding{Level: Cannot, Found: err.Error()})
	}
	for _, err := range f.OverlapUnknown {
		found = append(found, Finding{Level: Warning, Found: fmt.Sprintf("whether the pools overlap what this host routes is not known: %v", err), Do: "run shoal check again"})
	}
	if len(found) == 0 {
		return ok("the pools overlap nothing that this host routes")
	}
	return found
}

func ports(f *Facts) (found []Finding) {
	for _, p := range f.Ports {
		n := Finding{Level: Warning, Found: fmt.Sprintf("%d/%s is taken: %s", p.Addr.Port(), p.Protocol, p.Holder)}
		if p.DNS {
			n.Found += fmt.Sprintf(", and shoal answers names on %s", p.Addr)
			n.Do = "nothing, if it is to keep the port: shoal then answers on another, and leads there what is sent to this one; else have it listen on single addresses (dnsmasq: bind-interfaces; unbound: interface), or stop it"
		} else {
			n.Found += ", and hosts of a cluster need it"
			n.Do = "stop it, unless this host stays alone"
		}
		found = append(found, n)
	}
	if len(found) == 0 {
		return ok("nobody else has those of shoal")
	}
	return found
}

func networkd(f *Facts) []Finding {
	switch n := f.Networkd; {
	case !n.Runs:
		return nil
	case len(n.Removes) == 0:
		return ok("it keeps routes and rules that it did not make")
	case f.Tell && !n.Owner:
		return ok("the agent tells it to keep routes and rules that it did not make")
	default:
		return []Finding{{Level: Warning, Found: "when it starts, it removes routes and rules that it did not make, and packets between hosts are lost until shoal has put them back",
			Do: "write " + strings.Join(n.Removes, "=no and ") + "=no below [Network] into a file in /etc/systemd/networkd.conf.d"}}
	}
}

func networkManager(f *Facts) []Finding {
	switch {
	case !f.NetworkManager:
		return nil
	case f.Tell:
		return ok("the agent tells it to leave shoal's devices alone")
	}
	return []Finding{{Level: Warning, Found: "it may take shoal's devices for its own",
		Do: "write unmanaged-devices=interface-name:shoal* below [keyfile] into a file in /etc/NetworkManager/conf.d"}}
}

func controlGroups(f *Facts) []Finding {
	version := f.Engine.Cgroup
	if version == "" {
		version = "1"
		if f.Cgroup2 {
			version = "2"
		}
	}
	if f.Unled != nil {
		return ok("version %s; connections to VIPs are not led in connect(): %v", version, f.Unled)
	}
	return ok("version %s", version)
}

func connections(f *Facts) []Finding {
	if f.TableBits == 0 || f.TableBits >= f.TableAdvised {
		return nil
	}
	return ok("ip_vs was loaded with %d buckets for its connections; `options ip_vs conn_tab_bits=%d` in a file in /etc/modprobe.d gives it more from the next boot on", 1<<f.TableBits, f.TableAdvised)
}
