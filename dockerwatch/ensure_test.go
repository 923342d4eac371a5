package dockerwatch

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/network"
	"github.com/google/go-cmp/cmp"
)

// meshSpec is a good one, changed by f.
func meshSpec(f func(*NetworkSpec)) NetworkSpec {
	s := NetworkSpec{
		Name:    "mesh",
		Subnet:  netip.MustParsePrefix("10.244.1.0/24"),
		Gateway: netip.MustParseAddr("10.244.1.1"),
		MTU:     1450,
		Bridge:  "shoal-mesh",
		Reserve: []netip.Addr{netip.MustParseAddr("10.244.1.254"), netip.MustParseAddr("10.244.1.253")},
	}
	if f != nil {
		f(&s)
	}
	return s
}

// made is the network that an engine has made of a spec.
func made(s NetworkSpec) network.Summary {
	o := s.options("1.41", false)
	return network.Summary{Name: s.Name, ID: "id" + s.Name, Scope: "local", Driver: o.Driver, IPAM: *o.IPAM, Options: o.Options, Labels: o.Labels}
}

func TestWhatMakesANetworkAnother(t *testing.T) {
	spec := meshSpec(nil)
	for _, test := range []struct {
		name   string
		change func(*network.Summary)
		want   string
	}{
		{"nothing", func(n *network.Summary) {}, ""},
		{"nothing that an upgrade of the engine brings", func(n *network.Summary) { n.Options[optionGatewayMode+"4"] = unprotected }, ""},
		{"its driver", func(n *network.Summary) { n.Driver = "macvlan" }, "its driver is macvlan, not bridge"},
		{"its subnet", func(n *network.Summary) { n.IPAM.Config[0].Subnet = "10.244.2.0/24" }, "its subnet is 10.244.2.0/24, not 10.244.1.0/24"},
		{"no subnet", func(n *network.Summary) { n.IPAM.Config = nil }, "its subnet is none, not 10.244.1.0/24"},
		{"its gateway", func(n *network.Summary) { n.IPAM.Config[0].Gateway = "10.244.1.2" }, "its gateway is 10.244.1.2, not 10.244.1.1"},
		{"its MTU", func(n *network.Summary) { n.Options[optionMTU] = "1500" }, "its MTU is 1500, not 1450"},
		{"no MTU", func(n *network.Summary) { n.Options = nil }, "its MTU is the default, not 1450"},
		{"its bridge", func(n *network.Summary) { n.Options[optionBridge] = "br0" }, "its bridge is br0, not shoal-mesh"},
		{"its reserved addresses", func(n *network.Summary) { delete(n.IPAM.Config[0].AuxAddress, "reserved0") },
			"its set of reserved addresses is 10.244.1.253, not 10.244.1.253, 10.244.1.254"},
		{"their order", func(n *network.Summary) {
			n.IPAM.Config[0].AuxAddress = map[string]string{"reserved0": "10.244.1.253", "other": "10.244.1.254"}
		}, ""},
	} {
		n := made(spec)
		test.change(&n)
		if got := spec.difference(&n, false); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestTheGatewayModeDependsOnWhatTheEngineKnowsAndDrops(t *testing.T) {
	six := func(s *NetworkSpec) {
		s.Subnet, s.Gateway, s.Reserve = netip.MustParsePrefix("fd00::/64"), netip.MustParseAddr("fd00::1"), nil
	}
	for _, test := range []struct {
		api      string
		nftables bool
		spec     NetworkSpec
		want     map[string]string
	}{
		{"1.41", false, meshSpec(nil), nil},
		{"1.47", false, meshSpec(nil), nil},
		{"1.48", false, meshSpec(nil), map[string]string{optionGatewayMode + "4": protected}},
		{"1.51", false, meshSpec(six), map[string]string{optionGatewayMode + "6": protected}},
		{"1.52", true, meshSpec(nil), map[string]string{optionGatewayMode + "4": unprotected}},
	} {
		o := test.spec.options(test.api, test.nftables)
		want := map[string]string{optionBridge: "shoal-mesh", optionMTU: "1450"}
		for k, v := range test.want {
			want[k] = v
		}
		if diff := cmp.Diff(want, o.Options); diff != "" {
			t.Errorf("%s, %s:\n%s", test.api, test.spec.Subnet, diff)
		}
		if is6 := test.spec.Subnet.Addr().Is6(); is6 != (o.EnableIPv6 != nil && *o.EnableIPv6) {
			t.Errorf("%s: IPv6 %v", test.spec.Subnet, o.EnableIPv6)
		}
	}
}

// An engine that came to use nftables drops what no rule of ours could let pass.
func TestANetworkThatTheEnginesNftablesRulesCloseIsMadeAnew(t *testing.T) {
	spec := meshSpec(nil)
	for mode, closed := range map[string]bool{"": true, protected: true, unprotected: false} {
		n := made(spec)
		if mode != "" {
			n.Options[optionGatewayMode+"4"] = mode
		}
		if got := spec.difference(&n, true); (got != "") != closed {
			t.Errorf("gateway mode %q with nftables: %q", mode, got)
		}
		if got := spec.difference(&n, false); got != "" {
			t.Errorf("gateway mode %q with iptables: %q", mode, got)
		}
	}
}

func TestNetworksThatOverlap(t *testing.T) {
	other := func(name, subnet, scope string) network.Summary {
		return network.Summary{Name: name, Scope: scope, IPAM: network.IPAM{Config: []network.IPAMConfig{{Subnet: "odd"}, {Subnet: subnet}}}}
	}
	got := overlapping([]network.Summary{
		other("wide", "10.244.0.0/16", "local"), other("narrow", "10.244.1.128/30", "local"), other("next", "10.244.2.0/24", "local"),
		other("swarm", "10.244.1.0/24", "swarm"), other("mesh", "10.244.1.0/24", "local"), other("six", "fd00::/64", "local"),
	}, meshSpec(nil))
	if diff := cmp.Diff([]string{"wide (10.244.0.0/16)", "narrow (10.244.1.128/30)"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestNetworkSpecsThatMakeNoSenseAreRefused(t *testing.T) {
	if err := meshSpec(nil).check(); err != nil {
		t.Error(err)
	}
	for reason, change := range map[string]func(*NetworkSpec){
		"no subnet":                 func(s *NetworkSpec) { s.Subnet = netip.Prefix{} },
		"10.244.1.9/24 is no":       func(s *NetworkSpec) { s.Subnet = netip.MustParsePrefix("10.244.1.9/24") },
		"gateway 10.0.0.1":          func(s *NetworkSpec) { s.Gateway = netip.MustParseAddr("10.0.0.1") },
		"gateway 10.244.1.0":        func(s *NetworkSpec) { s.Gateway = netip.MustParseAddr("10.244.1.0") },
		"gateway invalid":           func(s *NetworkSpec) { s.Gateway = netip.Addr{} },
		"MTU of 67":                 func(s *NetworkSpec) { s.MTU = 67 },
		"MTU of 65536":              func(s *NetworkSpec) { s.MTU = 65536 },
		"no name for an":            func(s *NetworkSpec) { s.Bridge = "" },
		"1 to 15 characters":        func(s *NetworkSpec) { s.Bridge = strings.Repeat("x", 16) },
		"10.245.0.1 cannot be kept": func(s *NetworkSpec) { s.Reserve = []netip.Addr{netip.MustParseAddr("10.245.0.1")} },
		"10.244.1.1 cannot be kept": func(s *NetworkSpec) { s.Reserve = []netip.Addr{s.Gateway} },
	} {
		if err := meshSpec(change).check(); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v", reason, err)
		}
	}
}

func TestSeveralNetworksOfOneName(t *testing.T) {
	a, b := made(meshSpec(nil)), made(meshSpec(nil))
	if n, err := named([]network.Summary{a}, "other"); n != nil || err != nil {
		t.Error(n, err)
	}
	if n, err := named([]network.Summary{a}, "mesh"); n == nil || err != nil {
		t.Error(n, err)
	}
	if _, err := named([]network.Summary{a, b}, "mesh"); err == nil || !strings.Contains(err.Error(), "docker network rm idmesh") {
		t.Error(err)
	}
}
