package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"shoal/cluster"
	"shoal/fabric"
	"shoal/firewall"
	"shoal/kernel"
	"shoal/lb/ipvs"
	"shoal/lb/nft"
	"shoal/model"
	"shoal/reconcile"
	"shoal/store"
)

// firewallState is what was last found of the firewalls of others.
type firewallState struct {
	mu       sync.Mutex
	of       string // what problems are of, as far as they depend on it; "": to be read again
	problems []model.Problem
}

// passFirewalls has the firewalls of others let the mesh's packets pass where they can
// be told to, and says where they do not.
func (a *Agent) passFirewalls(ctx context.Context, s *model.Snapshot, full bool) reconcile.Result {
	var r reconcile.Result
	if err := a.firewalld.Keep(ctx, containerDevices(s)); err != nil {
		r.Again = 10 * time.Second
		r.Problems = append(r.Problems, model.Problem{Node: s.Self.Name, Code: model.FirewallFailed, Kind: "firewall", Object: "firewalld", Reason: err.Error()})
	}
	g := &a.firewall
	g.mu.Lock()
	defer g.mu.Unlock()
	if full { // the rules may be many
		gen := firewall.Generation()
		of := fmt.Sprint(gen, *a.firewallHost(s), tasksOn(s))
		if gen == 0 || of != g.of {
			g.problems, g.of = a.firewallProblems(s), of
		}
	}
	r.Problems = append(append(r.Problems, g.problems...), a.savedProblems(s)...)
	return r
}

// firewallProblems reads what the firewalls of others drop.
func (a *Agent) firewallProblems(s *model.Snapshot) (ps []model.Problem) {
	add := func(code model.Code, kind, object, reason string, notice bool) {
		ps = append(ps, model.Problem{Node: s.Self.Name, Code: code, Kind: kind, Object: object, Reason: reason, Notice: notice})
	}
	tables, err := firewall.Read()
	if err != nil {
		add(model.KernelReadFailed, "firewall", "nftables", err.Error(), false)
		return ps
	}
	h := a.firewallHost(s)
	for _, f := range firewall.Find(tables, h.Flows()) {
		add(model.FirewallDrops, "firewall", f.Object(), f.Reason(), false)
	}
	with := tasksOn(s)
	var bridges []firewall.Bridge
	for _, b := range h.Bridges {
		if !b.Mesh && len(with[b.Device]) > 0 {
			bridges = append(bridges, b)
		}
	}
	for _, device := range firewall.EngineDrops(tables, h, bridges) {
		add(model.EngineDrops, "network", device, engineDrops(device, with[device], a.plane.Name(), a.config.Network), false)
	}
	if a.plane.Name() == "ipvs" && nft.EngineUsesNftables() {
		add(model.EngineDrops, "firewall", "data plane", finalDrops+": tasks see the address of a bridge in place of that of a client on another; "+
			"start the agent with --data-plane nftables, or auto", true)
	}
	return ps
}

// droppedBy finds what firewalls of others drop of packets on this host.
func droppedBy(crossings []firewall.Crossing) ([]firewall.Drop, error) {
	tables, err := firewall.Read()
	if err != nil || len(tables) == 0 {
		return nil, err
	}
	indexes := deviceIndexes()
	for i := range crossings {
		p := &crossings[i].Packet
		p.InIndex, p.OutIndex = indexes[p.In], indexes[p.Out]
	}
	return firewall.Dropped(tables, crossings), nil
}

// carries tells how large packets are that arrive at another host's containers, and
// how large those are that this host's containers send; 0: not known.
func (a *Agent) carries(ctx context.Context, to model.Node) (arrive, sent int) {
	s, err := a.snapshot()
	link, linkErr := netlink.LinkByName(meshBridge)
	if err != nil || linkErr != nil || !s.Self.Probe.IsValid() || !to.Probe.IsValid() {
		return 0, 0
	}
	sent = link.Attrs().MTU
	arrive, lost, err := fabric.Carried(ctx, s.Self.Probe, to.Probe, sent)
	switch {
	case err != nil:
		return 0, 0
	case !lost && arrive > 0:
		return sent, sent
	}
	return arrive, sent
}

func engineDrops(device string, tasks []string, plane, network string) string {
	reason := fmt.Sprintf("the engine keeps its rules in nftables (firewall-backend), and drops what comes to its bridge %s from elsewhere: "+
		"%s serve only that network; start them with --network %s", device, strings.Join(tasks, ", "), network)
	if plane == "nftables" {
		reason += fmt.Sprintf(", or put \"bridge-accept-fwmark\": %q into daemon.json and restart the engine", nft.AcceptMark)
	}
	return reason
}

// savedProblems tells of rules of ours that were saved, or will be, and could
// not be restored. Those of the other plane ask no sets.
func (a *Agent) savedProblems(s *model.Snapshot) (ps []model.Problem) {
	found, err := firewall.FindSaved("/proc/1/root") // the machine's own files, where the agent is a container
	if err != nil {
		a.log.Debug("look for saved rules of iptables", "error", err)
	}
	for _, f := range found {
		if f.Rules || a.plane.Name() == "ipvs" {
			ps = append(ps, model.Problem{Node: s.Self.Name, Code: model.RulesSaved, Kind: "firewall", Object: f.File, Reason: f.Reason, Notice: true})
		}
	}
	return ps
}

// firewallHost is what the mesh sends and receives on this host.
func (a *Agent) firewallHost(s *model.Snapshot) *firewall.Host {
	plan := model.PlanOf(s.Self.Subnet)
	h := &firewall.Host{
		Indexes: deviceIndexes(),
		Link:    deviceOf(s.Self.Addr), Self: s.Self.Addr, Pool: a.config.Pool, DNS: a.config.DNS, Own: s.Self.Subnet, Server: plan.DNS,
	}
	for _, n := range s.Networks {
		for _, p := range n.Subnets {
			if p.Addr().Is4() && isDevice(n.Bridge) {
				h.Bridges = append(h.Bridges, firewall.Bridge{Device: n.Bridge, Net: p, Mesh: n.Name == a.config.Network})
			}
		}
	}
	if isDevice(ipvs.Device) {
		h.Sandbox = ipvs.Device
	}
	for _, n := range s.Nodes {
		if n.Name == s.Self.Name || !n.Addr.Is4() {
			continue
		}
		p := firewall.Peer{Name: n.Name, Addr: n.Addr, Net: n.Subnet}
		if n.Subnet.IsValid() {
			p.Device = deviceTo(n.Subnet.Addr())
		}
		h.Peers = append(h.Peers, p)
	}
	h.TCP = []uint16{cluster.DefaultPort, cluster.DefaultGossipPort}
	if a.store.Role() == store.RoleServer {
		h.TCP = append(h.TCP, store.ClientPort, store.PeerPort)
	}
	h.UDP = []uint16{cluster.DefaultGossipPort}
	if slices.Contains([]fabric.Backend{fabric.Auto, fabric.VXLAN}, a.config.Backend) {
		h.UDP = append(h.UDP, a.config.VXLANPort)
	}
	return h
}

// tasksOn are the names of this host's containers with tasks, by the bridge that
// they are on.
func tasksOn(s *model.Snapshot) map[string][]string {
	on := map[string][]string{}
	for _, c := range s.Notable { // this host's are among them
		if c.Node != s.Self.Name {
			continue
		}
		for _, n := range s.Networks {
			if slices.ContainsFunc(c.Tasks, func(t model.Task) bool {
				return slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Contains(t.Addr) })
			}) {
				on[n.Bridge] = append(on[n.Bridge], c.Name)
			}
		}
	}
	return on
}

// containerDevices are the devices of this host by which its containers are
// reached, those that are there: the bridges of the engine's networks, and the
// link to the sandbox.
func containerDevices(s *model.Snapshot) (names []string) {
	for _, n := range s.Networks {
		if isDevice(n.Bridge) {
			names = append(names, n.Bridge)
		}
	}
	if isDevice(ipvs.Device) {
		names = append(names, ipvs.Device)
	}
	return names
}

func isDevice(name string) bool {
	_, err := netlink.LinkByName(name)
	return err == nil
}

// deviceIndexes are the numbers of all devices, by name.
func deviceIndexes() map[string]uint32 {
	links, err := netlink.LinkList()
	if err != nil {
		return nil // rules that go by them count as not certain then
	}
	all := map[string]uint32{}
	for _, l := range links {
		all[l.Attrs().Name] = uint32(l.Attrs().Index)
	}
	return all
}

// deviceOf is the device that has an address of this host, "" if none has.
func deviceOf(addr netip.Addr) string {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return ""
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap() == addr {
			return deviceNamed(a.LinkIndex)
		}
	}
	return ""
}

// deviceTo is the device that leads to an address, "" if there is none.
func deviceTo(addr netip.Addr) string {
	r, err := kernel.RouteTo(addr, 0)
	if err != nil || r == nil {
		return ""
	}
	return deviceNamed(r.LinkIndex)
}

func deviceNamed(index int) string {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return ""
	}
	return l.Attrs().Name
}
