package preflight

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/nftables"

	"shoal/cluster"
	"shoal/dockerwatch"
	"shoal/firewall"
	"shoal/ingress"
	"shoal/lb/host"
	"shoal/managers"
	"shoal/model"
)

// Options are what of the agent's settings matters here.
type Options struct {
	Docker string           // the engine's socket, as in DOCKER_HOST
	Planes []Candidate      // those that may be used, the preferred one in front: the rest is not asked for once one is available
	Listen []netip.AddrPort // where it listens by TCP, and for names by UDP too
	DNS    netip.AddrPort   // among those, where it answers names
	Tell   bool             // it tells the managers of the network
	Own    string           // the name of the agent's process, whose ports are no conflict; "": it does not run
}

// Candidate is a data plane, and what tells why this kernel cannot do it.
type Candidate struct {
	Name      string
	Available func(context.Context) error
}

// engineTime is how long the engine may take to answer.
const engineTime = 3 * time.Second

// Gather reads what this host is like. What cannot be read is left out: that a
// check is not made is no reason to run nothing. The caller fills in Address and
// Overlap.
func Gather(ctx context.Context, o Options) *Facts {
	f := &Facts{
		Root: os.Geteuid() == 0, Release: release(), Distro: distro("/"), Tell: o.Tell,
		Networkd: managers.ReadNetworkd("/"), Cgroup2: isThere("/sys/fs/cgroup/cgroup.controllers"),
		UFW: ufw("/"),
	}
	f.Firewalld, f.NetworkManager = onBus(ctx, "org.fedoraproject.FirewallD1"), onBus(ctx, "org.freedesktop.NetworkManager")
	if f.Root {
		for _, p := range o.Planes {
			f.Planes = append(f.Planes, Plane{p.Name, p.Available(ctx)})
			if f.Planes[len(f.Planes)-1].Lacks == nil {
				break
			}
		}
	}
	f.BrNetfilter = isThere("/proc/sys/net/bridge/bridge-nf-call-iptables") || loadable(ctx, "br_netfilter")
	asking, cancel := context.WithTimeout(ctx, engineTime)
	defer cancel()
	f.Engine, f.EngineError = dockerwatch.Info(asking, o.Docker)
	f.readPorts(o)
	f.readTables(ctx)
	if limits, err := host.HostLimits(); err == nil {
		f.TableBits, f.TableAdvised = host.IPVSBits(), limits.Bits
	}
	return f
}

func isThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func release() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(b))
}

func distro(root string) (d Distro) {
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
			switch v = strings.Trim(v, `"'`); k {
			case "ID":
				d.ID = v
			case "ID_LIKE":
				d.Like = strings.Fields(v)
			}
		}
		return d
	}
	return d
}

func ufw(root string) bool {
	b, _ := os.ReadFile(filepath.Join(root, "etc/ufw/ufw.conf"))
	for line := range strings.Lines(string(b)) {
		if strings.EqualFold(strings.TrimSpace(line), "ENABLED=yes") {
			return true
		}
	}
	return false
}

// loadable tells whether a module could be loaded, without doing it.
func loadable(ctx context.Context, module string) bool {
	return exec.CommandContext(ctx, "modprobe", "--dry-run", "--quiet", module).Run() == nil
}

// onBus tells whether somebody has a name on the system bus.
func onBus(ctx context.Context, name string) (has bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return false
	}
	defer bus.Close()
	err = bus.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, name).Store(&has)
	return err == nil && has
}

// readPorts finds out who has the ports that the agent listens on.
func (f *Facts) readPorts(o Options) {
	for _, at := range o.Listen {
		dns := at == o.DNS
		for _, proto := range []model.Protocol{model.TCP, model.UDP} {
			if proto == model.UDP && !dns && at.Port() != cluster.DefaultGossipPort {
				continue
			}
			who, err := ingress.Holder(proto, at)
			if err != nil || who == "" || o.Own != "" && strings.HasPrefix(who, o.Own) {
				continue
			}
			f.Ports = append(f.Ports, Port{Protocol: proto, Addr: at, Holder: who, DNS: dns})
		}
	}
}

// readTables finds out what others have of packet filters.
func (f *Facts) readTables(ctx context.Context) {
	if out, err := exec.CommandContext(ctx, "iptables", "--version").Output(); !errors.Is(err, exec.ErrNotFound) {
		f.IPTables.Found = true
		for _, kind := range []string{"nf_tables", "legacy"} {
			if strings.Contains(string(out), "("+kind+")") {
				f.IPTables.Writes = kind
			}
		}
	}
	// Names of tables, while there are any of the legacy kind; not there without.
	names, _ := os.ReadFile("/proc/net/ip_tables_names")
	f.IPTables.Legacy = len(strings.TrimSpace(string(names))) > 0
	if c, err := nftables.New(); err == nil {
		tables, _ := c.ListTablesOfFamily(nftables.TableFamilyIPv4) // none where the kernel has no nf_tables
		f.IPTables.NFT = slices.ContainsFunc(tables, func(t *nftables.Table) bool { return iptablesTables[t.Name] })
	}
	tables, err := firewall.Read()
	if err != nil {
		return // the agent says so while it runs
	}
	for _, t := range tables {
		if t.Family == "ip" && iptablesTables[t.Name] || t.Name == "firewalld" {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(t.Chains)) {
			if c := t.Chains[name]; c.Hook != "" && c.Drops {
				f.Drops = append(f.Drops, Chain{t.Family, t.Name, name, c.Hook})
			}
		}
	}
}

// iptablesTables are those that iptables-nft makes, in the family ip. Jumps to
// rules of ours stand in front there.
var iptablesTables = map[string]bool{"filter": true, "nat": true, "mangle": true, "raw": true, "security": true}
