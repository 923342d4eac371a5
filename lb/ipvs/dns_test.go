package ipvs

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shoal/model"
)

func TestSecondDNSAddressLeadsToOtherHostsThatLive(t *testing.T) {
	host := func(name, subnet string, alive bool) model.Node {
		n := model.Node{Name: name, Alive: alive}
		if subnet != "" {
			n.Subnet = netip.MustParsePrefix(subnet)
		}
		return n
	}
	a := host("a", "10.244.1.0/24", true)
	const (
		toB    = "10.96.0.11:53/tcp rr | 10.244.2.1:53 1\n10.96.0.11:53/udp rr | 10.244.2.1:53 1\n"
		toBoth = "10.96.0.11:53/tcp rr | 10.244.2.1:53 1 | 10.244.3.1:53 1\n10.96.0.11:53/udp rr | 10.244.2.1:53 1 | 10.244.3.1:53 1\n"
		toOwn  = "10.96.0.11:53/tcp rr | 10.96.0.10:53 1\n10.96.0.11:53/udp rr | 10.96.0.10:53 1\n"
	)
	for name, tc := range map[string]struct {
		nodes []model.Node
		want  string
	}{
		"alone":                          {[]model.Node{a}, toOwn},
		"two others":                     {[]model.Node{a, host("b", "10.244.3.0/24", true), host("c", "10.244.2.0/24", true)}, toBoth},
		"one of them dead":               {[]model.Node{a, host("b", "10.244.2.0/24", true), host("c", "10.244.3.0/24", false)}, toB},
		"all of them dead":               {[]model.Node{a, host("b", "10.244.2.0/24", false)}, toOwn},
		"one without a subnet so far":    {[]model.Node{a, host("b", "", true), host("c", "10.244.2.0/24", true)}, toB},
		"a subnet written as an address": {[]model.Node{a, host("b", "10.244.2.7/24", true)}, toB},
		"IPv6":                           {[]model.Node{a, host("b", "fd00::/64", true)}, toOwn},
	} {
		t.Run(name, func(t *testing.T) {
			s := &model.Snapshot{Self: a, Nodes: tc.nodes}
			p := dnsPeers(netip.MustParseAddr("10.96.0.11"), netip.MustParseAddr("10.96.0.10"), s)
			if d := cmp.Diff(tc.want, text(p.fronts)); d != "" {
				t.Error(d)
			}
		})
	}
}
