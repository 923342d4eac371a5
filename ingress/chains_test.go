package ingress

import (
	"net/netip"
	"strings"
	"testing"

	"shoal/kernel/rules"
	"shoal/model"
)

func TestBaseOf(t *testing.T) {
	snap := &model.Snapshot{
		Self: model.Node{Name: "a"},
		Nodes: []model.Node{
			{Name: "a", Number: 1, Addr: netip.MustParseAddr("192.0.2.1"), Subnet: netip.MustParsePrefix("10.244.1.0/24")},
			{Name: "b", Number: 3, Addr: netip.MustParseAddr("192.0.2.2"), Subnet: netip.MustParsePrefix("10.244.3.0/24"), MAC: model.MAC{1}},
			{Name: "c", Number: 2, Addr: netip.MustParseAddr("192.0.2.3"), Subnet: netip.MustParsePrefix("10.244.2.0/24")},
			{Name: "new", Addr: netip.MustParseAddr("192.0.2.4")},
		},
		Networks: []model.Network{{Name: "mesh", Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00::/64")}}},
	}
	b := baseOf(snap, func(n model.Node) model.MAC { return model.MAC{2, 0, 0, 0, 0, byte(n.Number)} })
	if len(b.peers) != 2 || b.peers[0].name != "c" || b.peers[1].name != "b" {
		t.Fatalf("peers %v, want c and b", b.peers)
	}
	if n := len(b.peers[0].macs); n != 1 {
		t.Errorf("c has %d Ethernet addresses, want that of its tunnel", n)
	}
	if n := len(b.peers[1].macs); n != 2 {
		t.Errorf("b has %d Ethernet addresses, want two", n)
	}
	if len(b.inside) != 7 {
		t.Errorf("inside %v, want four hosts and three subnets", b.inside)
	}
	if o := baseOf(snap, nil); b.equal(&o) || !b.equal(&b) {
		t.Error("equal does not see the Ethernet addresses")
	}
}

func TestRulesGrowWithHostsOnly(t *testing.T) {
	pool := netip.MustParsePrefix("10.96.0.0/16")
	count := func(b *base) (n int) {
		for _, c := range hostChains(pool, b) {
			n += len(c.Rules)
		}
		return n
	}
	one := count(&base{peers: make([]peer, 1)})
	two := count(&base{peers: make([]peer, 2)})
	three := count(&base{peers: make([]peer, 3)})
	if two-one != three-two || two-one > 5 {
		t.Errorf("%d, %d, %d rules for 1, 2, 3 peers", one, two, three)
	}
}

func TestEveryChainIsOneThatPackageRulesKeeps(t *testing.T) {
	chains := append(hostChains(netip.MustParsePrefix("10.96.0.0/16"), new(base)), sandboxChains()...)
	seen := map[string]bool{}
	for _, c := range chains {
		if !strings.HasPrefix(c.Name, rules.Prefix) || len(c.Name) > 28 {
			t.Errorf("chain %s", c.Name)
		}
		for _, r := range c.Rules {
			if i := strings.Index(r, "-j SHOAL-"); i >= 0 && !seen[c.Table+r[i+3:]] {
				seen[c.Table+r[i+3:]] = true
				found := false
				for _, o := range chains {
					found = found || o.Table == c.Table && o.Name == r[i+3:]
				}
				if !found {
					t.Errorf("rule %q jumps to no chain of the table %s", r, c.Table)
				}
			}
		}
	}
}
