package fabric

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shoal/fabric/ipip"
	"shoal/fabric/transport"
	"shoal/fabric/vxlan"
	"shoal/lb"
	"shoal/model"
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func node(name string, number uint16, address, subnet string) model.Node {
	n := model.Node{Name: name, Number: number, Addr: addr(address), Alive: true}
	if subnet != "" {
		n.Subnet = prefix(subnet)
	}
	return n
}

var (
	hostA = node("a", 1, "10.1.0.1", "10.244.1.0/24")
	hostB = node("b", 2, "10.1.0.2", "10.244.2.0/24")
	hostC = node("c", 3, "10.2.0.3", "10.244.3.0/24")
	eth0  = transport.Addr{Device: "eth0", Addr: addr("10.1.0.1"), Net: prefix("10.1.0.0/24"), MTU: 1500, Ether: true}
	mesh  = model.Network{Name: "mesh", Bridge: "br-mesh", Subnets: []netip.Prefix{prefix("10.244.1.0/24")}}
)

func options(t *testing.T, b Backend) Options {
	f, err := New(Options{Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	return f.opts
}

func TestEachPeerIsReachedByTheBackendThatFits(t *testing.T) {
	wg := transport.Addr{Device: "wg0", Addr: addr("10.2.0.1"), Net: prefix("10.2.0.0/24"), MTU: 1420}
	narrow := transport.Addr{Device: "eth1", Addr: addr("10.1.0.5"), Net: prefix("10.1.0.0/29"), MTU: 1500, Ether: true}
	other := transport.Addr{Device: "eth1", Addr: addr("10.2.0.1"), Net: prefix("10.2.0.0/24"), MTU: 1500, Ether: true}
	bridge := transport.Addr{Device: "br-mesh", Addr: addr("10.2.0.1"), Net: prefix("10.2.0.0/16"), MTU: 1450, Ether: true}
	for _, tt := range []struct {
		name    string
		backend Backend
		addrs   []transport.Addr
		want    map[string]string // peer -> backend and device, or part of the reason why not
	}{
		{"auto", Auto, []transport.Addr{eth0}, map[string]string{"b": "host-gw eth0", "c": "vxlan shoal.vxlan"}},
		{"auto takes the link of the card that others know", Auto, []transport.Addr{narrow, eth0}, map[string]string{"b": "host-gw eth0", "c": "vxlan shoal.vxlan"}},
		{"auto takes no link of another card", Auto, []transport.Addr{eth0, other}, map[string]string{"b": "host-gw eth0", "c": "vxlan shoal.vxlan"}},
		{"host-gw takes no link of another card", HostGW, []transport.Addr{eth0, other}, map[string]string{"b": "host-gw eth0", "c": "name the address of eth1 with --advertise"}},
		{"auto takes no link without Ethernet", Auto, []transport.Addr{eth0, wg}, map[string]string{"b": "host-gw eth0", "c": "vxlan shoal.vxlan"}},
		{"a containers' bridge is no link", Auto, []transport.Addr{eth0, bridge}, map[string]string{"b": "host-gw eth0", "c": "vxlan shoal.vxlan"}},
		{"host-gw", HostGW, []transport.Addr{eth0}, map[string]string{"b": "host-gw eth0", "c": "10.2.0.3 is on no link of this host"}},
		{"host-gw takes any link", HostGW, []transport.Addr{eth0, wg}, map[string]string{"b": "host-gw eth0", "c": "host-gw wg0"}},
		{"vxlan", VXLAN, []transport.Addr{eth0}, map[string]string{"b": "vxlan shoal.vxlan", "c": "vxlan shoal.vxlan"}},
		{"ipip", IPIP, []transport.Addr{eth0}, map[string]string{"b": "ipip shoal.ipip", "c": "ipip shoal.ipip"}},
		{"no device has the host's address", VXLAN, nil, map[string]string{"a": "10.1.0.1 is on none of its devices"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := inputs{self: hostA, nodes: []model.Node{hostA, hostB, hostC}, networks: []model.Network{mesh}}
			want, paths, failed := desired(options(t, tt.backend), in, tt.addrs)
			got := map[string]string{}
			for _, p := range paths {
				got[p.peer.Name] = p.by.Name() + " " + p.dev
				if r := want.routes[p.peer.Subnet]; r != (route{p.peer.Addr, p.dev}) {
					t.Errorf("route to %s: %+v", p.peer.Name, r)
				}
			}
			for o, err := range failed {
				if part := tt.want[o.name]; part != "" && strings.Contains(err.Error(), part) {
					got[o.name] = part
				} else {
					t.Errorf("%s fails: %v", o.name, err)
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestStateGrowsWithHostsOnly(t *testing.T) {
	in := inputs{self: hostA, nodes: []model.Node{hostA, hostB, hostC}, networks: []model.Network{mesh}}
	want, paths, _ := desired(options(t, Auto), in, []transport.Addr{eth0})
	macC := model.MAC{0x02, 0x53, 10, 2, 0, 3}
	check := func(what string, want, got any) {
		t.Helper()
		if d := cmp.Diff(want, got, cmp.AllowUnexported(fdbKey{}, neighKey{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
			cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
			t.Errorf("%s: %s", what, d)
		}
	}
	check("neighbours", map[neighKey]model.MAC{{vxlan.Device, hostC.Addr}: macC}, want.neigh)
	check("forwarding entries", map[fdbKey]netip.Addr{{vxlan.Device, macC}: hostC.Addr}, want.fdb)
	check("what passes", lb.Between{
		Own: hostA.Subnet, Nets: []netip.Prefix{hostB.Subnet, hostC.Subnet}, Hosts: []netip.Addr{hostB.Addr, hostC.Addr},
		HostAddrs: []netip.Addr{
			hostB.Addr, hostC.Addr,
			addr("10.244.2.0"), addr("10.244.2.1"), addr("10.244.2.254"), // tunnel, bridge, probe
			addr("10.244.3.0"), addr("10.244.3.1"), addr("10.244.3.254"),
		},
		Links: []lb.Link{
			{Net: prefix("10.1.0.2/32"), Device: "eth0"}, // host-gw: what the host itself sends
			{Net: hostA.Subnet, Device: "br-mesh"},
			{Net: hostB.Subnet, Device: "eth0"},
			{Net: hostB.Subnet, Device: "shoal.vxlan"}, // b may have chosen that
			{Net: hostC.Subnet, Device: "shoal.vxlan"},
		},
		Tunnels: []lb.Tunnel{{Protocol: 17, Port: vxlan.DefaultPort}},
	}, between(options(t, Auto), in, paths))
	if d := want.devices[vxlan.Device]; d.MTU != 1450 || d.Addr != addr("10.244.1.0") {
		t.Errorf("device: %+v", d)
	}
	for i := range 200 {
		in.nodes = append(in.nodes, node("n"+string(rune('0'+i)), uint16(i+4), netip.AddrFrom4([4]byte{10, 3, 0, byte(i)}).String(),
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 245, byte(i), 0}), 24).String()))
	}
	want, _, _ = desired(options(t, Auto), in, []transport.Addr{eth0})
	if len(want.routes) != 202 || len(want.devices) != 1 {
		t.Fatalf("%d routes, %d devices for 202 peers", len(want.routes), len(want.devices))
	}
}

func TestPacketsOfAHostAreKnownByItsSenders(t *testing.T) {
	host := hostC
	host.MAC = model.MAC{0x52, 1, 2, 3, 4, 5}
	vtep := vxlan.VTEPMAC(host.Addr)
	for b, want := range map[Backend][]model.MAC{HostGW: {host.MAC}, VXLAN: {vtep}, IPIP: nil, Auto: {host.MAC, vtep}} {
		if d := cmp.Diff(want, Senders(b, host)); d != "" {
			t.Errorf("%s: %s", b, d)
		}
	}
}

func TestOverlapsAreRefusedNamingBothHosts(t *testing.T) {
	other := model.Network{Name: "shop_default", Bridge: "br-1", Subnets: []netip.Prefix{prefix("10.244.3.0/25")}}
	late := node("late", 9, "10.1.0.9", "10.244.2.0/24")
	for _, tt := range []struct {
		name     string
		self     model.Node
		nodes    []model.Node
		networks []model.Network
		routed   []string
		problems map[string]string // object -> part of the reason
	}{
		{"none", hostA, []model.Node{hostA, hostB, hostC}, []model.Network{mesh}, []string{"b", "c"}, map[string]string{}},
		{"two peers: the first keeps it", hostA, []model.Node{hostA, hostB, late}, nil, []string{"b"},
			map[string]string{"late": "10.244.2.0/24 of host late overlaps 10.244.2.0/24 of host b, which came first"}},
		{"this host came later", late, []model.Node{hostA, hostB, late}, nil, []string{"a"},
			map[string]string{"late": "of host late overlaps 10.244.2.0/24 of host b", "b": "of host b overlaps 10.244.2.0/24 of this host, late"}},
		{"this host came first", hostB, []model.Node{hostA, hostB, late}, nil, []string{"a"},
			map[string]string{"late": "of host late overlaps 10.244.2.0/24 of host b, which came first"}},
		{"one without a number came last", hostA, []model.Node{hostA, hostB, node("aa", 0, "10.1.0.9", "10.244.0.0/16")}, nil, []string{"b"},
			map[string]string{"aa": "10.244.0.0/16 of host aa overlaps 10.244.1.0/24 of host a"}},
		{"a network of this host", hostA, []model.Node{hostA, hostB, hostC}, []model.Network{mesh, other}, []string{"b"},
			map[string]string{"c": "network shop_default of host a has 10.244.3.0/25, which overlaps the subnet 10.244.3.0/24 of host c"}},
		{"a subnet that holds a host", hostA, []model.Node{hostA, hostB, node("c", 3, "10.2.0.3", "10.1.0.0/24")}, nil, []string{"b"},
			map[string]string{"c": "10.1.0.0/24 of host c holds the address 10.1.0.1 of host a"}},
		{"a record of this host under another name", hostA, []model.Node{hostA, hostB, node("old", 7, "10.1.0.1", "10.244.7.0/24")}, nil, []string{"b"},
			map[string]string{"old": "`shoal node rm old`"}},
		{"a subnet on this host's own link", hostA, []model.Node{hostA, hostB, node("c", 3, "10.2.0.3", "10.1.0.128/25")}, nil, []string{"b"},
			map[string]string{"c": "10.1.0.128/25 of host c overlaps 10.1.0.0/24 on device eth0 of this host, a"}},
		{"IPv6", hostA, []model.Node{hostA, node("c", 3, "fd00::3", "10.244.3.0/24")}, nil, nil,
			map[string]string{"c": "only IPv4"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := inputs{self: tt.self, nodes: tt.nodes, networks: tt.networks}
			own := eth0
			own.Addr = tt.self.Addr
			_, paths, failed := desired(options(t, Auto), in, []transport.Addr{own})
			var routed []string
			for _, p := range paths {
				routed = append(routed, p.peer.Name)
			}
			if d := cmp.Diff(tt.routed, routed); d != "" {
				t.Error(d)
			}
			if len(failed) != len(tt.problems) {
				t.Errorf("failed: %+v", failed)
			}
			for o, err := range failed {
				if part := tt.problems[o.name]; part == "" || !strings.Contains(err.Error(), part) || o.kind != "node" {
					t.Errorf("%+v fails: %v", o, err)
				}
			}
		})
	}
}

func TestDiff(t *testing.T) {
	in := inputs{self: hostA, nodes: []model.Node{hostA, hostB, hostC}, networks: []model.Network{mesh}}
	want, _, _ := desired(options(t, Auto), in, []transport.Addr{eth0})
	macC := vxlan.VTEPMAC(hostC.Addr)
	for _, tt := range []struct {
		name   string
		before func(have *state) // what differs in the kernel
		want   string
	}{
		{"nothing", func(*state) {}, "devices +0 ~0 -0, routes +0 -0, neighbours +0 -0, forwarding entries +0 -0"},
		{"everything missing", func(s *state) { *s = newState() }, "devices +1 ~0 -0, routes +2 -0, neighbours +1 -0, forwarding entries +1 -0"},
		{"route deleted", func(s *state) { delete(s.routes, hostC.Subnet) }, "devices +0 ~0 -0, routes +1 -0, neighbours +0 -0, forwarding entries +0 -0"},
		{"route by another device", func(s *state) { s.routes[hostB.Subnet] = route{hostB.Addr, vxlan.Device} }, "devices +0 ~0 -0, routes +1 -0, neighbours +0 -0, forwarding entries +0 -0"},
		{"neighbour and forwarding entry deleted", func(s *state) {
			delete(s.neigh, neighKey{vxlan.Device, hostC.Addr})
			delete(s.fdb, fdbKey{vxlan.Device, macC})
		},
			"devices +0 ~0 -0, routes +0 -0, neighbours +1 -0, forwarding entries +1 -0"},
		{"forwarding entry to another host", func(s *state) { s.fdb[fdbKey{vxlan.Device, macC}] = hostB.Addr }, "devices +0 ~0 -0, routes +0 -0, neighbours +0 -0, forwarding entries +1 -0"},
		{"a host that is gone", func(s *state) {
			s.add(path{peer: node("d", 4, "10.2.0.4", "10.244.4.0/24"), by: vxlan.VXLAN{}, dev: vxlan.Device})
		}, "devices +0 ~0 -0, routes +0 -1, neighbours +0 -1, forwarding entries +0 -1"},
		{"MTU changed", func(s *state) { d := s.devices[vxlan.Device]; d.MTU = 1400; s.devices[vxlan.Device] = d }, "devices +0 ~1 -0, routes +0 -0, neighbours +0 -0, forwarding entries +0 -0"},
		{"VNI changed: all on the device is written again", func(s *state) { s.devices[vxlan.Device] = vxlan.VXLAN{VNI: 7}.Tunnel().Device(hostA, 1500) },
			"devices +1 ~0 -1, routes +1 -0, neighbours +1 -0, forwarding entries +1 -0"},
		{"device of another backend", func(s *state) { s.devices[ipip.Device] = transport.Device{Name: ipip.Device} }, "devices +0 ~0 -1, routes +0 -0, neighbours +0 -0, forwarding entries +0 -0"},
		{"route of somebody else in the way", func(s *state) { delete(s.routes, hostC.Subnet); s.foreign[hostC.Subnet] = "dev eth9 proto static" },
			"devices +0 ~0 -0, routes +0 -0, neighbours +0 -0, forwarding entries +0 -0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			have, _, _ := desired(options(t, Auto), in, []transport.Addr{eth0})
			tt.before(&have)
			c := diff(want, have)
			if c.String() != tt.want {
				t.Errorf("got  %s\nwant %s", c.String(), tt.want)
			}
			if c.empty() != (tt.want == "devices +0 ~0 -0, routes +0 -0, neighbours +0 -0, forwarding entries +0 -0") {
				t.Errorf("empty: %v", c.empty())
			}
			if len(have.foreign) != len(c.refused) {
				t.Errorf("refused: %v", c.refused)
			}
		})
	}
}

func TestMTU(t *testing.T) {
	for b, want := range map[Backend]int{HostGW: 1500, IPIP: 1480, VXLAN: 1450, Auto: 1450, "": 1450} {
		if got := MTU(b, 1500); got != want {
			t.Errorf("MTU of %q: %d, want %d", b, got, want)
		}
	}
}

func TestBadSettings(t *testing.T) {
	for _, o := range []Options{{Backend: "gre"}, {VNI: -1}, {VNI: 1 << 24}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

func TestAHostThatIsDownChangesNothing(t *testing.T) {
	up := &model.Snapshot{Self: hostA, Nodes: []model.Node{hostA, hostB}}
	down := &model.Snapshot{Self: hostA, Nodes: []model.Node{hostA, hostB}}
	down.Nodes[1].Alive = false
	if !inputsOf(up).equal(inputsOf(down)) {
		t.Error("a dead host is another input")
	}
	moved := &model.Snapshot{Self: hostA, Nodes: []model.Node{hostA, node("b", 2, "10.1.0.7", "10.244.2.0/24")}}
	if inputsOf(up).equal(inputsOf(moved)) {
		t.Error("another address is the same input")
	}
}
