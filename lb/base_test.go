package lb

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shoal/model"
)

func TestBaseOfASnapshot(t *testing.T) {
	s := &model.Snapshot{
		Self: nodes[1],
		Nodes: append([]model.Node{
			{Name: "new", Addr: netip.MustParseAddr("192.0.2.13"), Alive: true}, // neither a number nor a subnet yet
			{Name: "six", Number: 9, Addr: netip.MustParseAddr("2001:db8::9"), Subnet: netip.MustParsePrefix("fd00:9::/64"), Alive: true},
		}, nodes[2], nodes[0], nodes[1]),
		Networks: []model.Network{{Name: "bridge", Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.5/16"), netip.MustParsePrefix("fd00::/64")}}},
	}
	s.Nodes[2].MAC = model.MAC{1}
	base := BaseOf(s, func(n model.Node) []model.MAC {
		if n.Name == "a" {
			return []model.MAC{{2}, {}}
		}
		return nil
	})
	var peers, inside, cluster []string
	for _, p := range base.Peers {
		peers = append(peers, p.Name)
		for _, m := range p.MACs {
			peers = append(peers, m.String())
		}
	}
	for _, p := range base.Inside {
		inside = append(inside, p.String())
	}
	for _, p := range base.Cluster {
		cluster = append(cluster, p.String())
	}
	for _, d := range []string{
		cmp.Diff([]string{"a", "02:00:00:00:00:00", "c", "01:00:00:00:00:00"}, peers),
		cmp.Diff([]string{"10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24", "192.0.2.10/32", "192.0.2.11/32", "192.0.2.12/32", "192.0.2.13/32"}, cluster),
		cmp.Diff([]string{"10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24", "172.17.0.0/16", "192.0.2.10/32", "192.0.2.11/32", "192.0.2.12/32", "192.0.2.13/32"}, inside),
	} {
		if d != "" {
			t.Error(d)
		}
	}
	if base.Alone {
		t.Error("it is not alone: a and c live")
	}
	dead := *s
	dead.Nodes = []model.Node{nodes[1], nodes[2]}
	dead.Nodes[1].Alive = false
	if !BaseOf(&dead, nil).Alone {
		t.Error("it is alone: no other host lives")
	}
	if other := BaseOf(s, nil); base.equal(other) || !other.equal(BaseOf(s, nil)) {
		t.Error("equal does not see the Ethernet addresses, or sees more than there is")
	}
}

func TestSecondDNSAddressLeadsToOtherHostsThatLive(t *testing.T) {
	host := func(name, subnet string, alive bool) model.Node {
		n := model.Node{Name: name, Alive: alive}
		if subnet != "" {
			n.Subnet = netip.MustParsePrefix(subnet)
		}
		return n
	}
	a := host("a", "10.244.1.0/24", true)
	to := func(backends string) []string {
		return []string{"10.96.0.11:53/tcp rr" + backends, "10.96.0.11:53/udp rr" + backends}
	}
	b, both, own := to(" | 10.244.2.1:53 1"), to(" | 10.244.2.1:53 1 | 10.244.3.1:53 1"), to(" | 10.96.0.10:53 1 local")
	for name, tc := range map[string]struct {
		nodes []model.Node
		port  uint16 // of this host's own
		want  []string
	}{
		"alone":                          {[]model.Node{a}, 53, own},
		"two others":                     {[]model.Node{a, host("b", "10.244.3.0/24", true), host("c", "10.244.2.0/24", true)}, 53, both},
		"one of them dead":               {[]model.Node{a, host("b", "10.244.2.0/24", true), host("c", "10.244.3.0/24", false)}, 53, b},
		"all of them dead":               {[]model.Node{a, host("b", "10.244.2.0/24", false)}, 53, own},
		"one without a subnet so far":    {[]model.Node{a, host("b", "", true), host("c", "10.244.2.0/24", true)}, 53, b},
		"a subnet written as an address": {[]model.Node{a, host("b", "10.244.2.7/24", true)}, 53, b},
		"IPv6":                           {[]model.Node{a, host("b", "fd00::/64", true)}, 53, own},
		"alone, on another port":         {[]model.Node{a}, 10053, to(" | 10.96.0.10:10053 1 local")},
		"others, and itself on another":  {[]model.Node{a, host("b", "10.244.2.0/24", true)}, 10053, b},
	} {
		t.Run(name, func(t *testing.T) {
			p := dnsPeers(netip.MustParseAddr("10.96.0.11"), netip.MustParseAddr("10.96.0.10"), tc.port, &model.Snapshot{Self: a, Nodes: tc.nodes})
			var got []string
			for _, f := range p.frontends {
				got = append(got, text(f))
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestTheDNSServersPortIsFollowed, with one and the same Snapshot.
func TestTheDNSServersPortIsFollowed(t *testing.T) {
	var ports map[netip.Addr]uint16
	vip := netip.MustParseAddr("10.96.0.10")
	b, r := newRecorder(t, Options{DNS: vip, DNSPeers: vip.Next(), DNSPorts: func() map[netip.Addr]uint16 { return ports }})
	s := snapshot()
	s.Nodes = []model.Node{s.Self}
	b.Reconcile(t.Context(), s, true)
	if got := r.base.DNSPort(vip); got != 53 {
		t.Errorf("port %d", got)
	}
	ports = map[netip.Addr]uint16{vip: 10053}
	b.Reconcile(t.Context(), s, true)
	want := []string{"+ dns-peers 10.96.0.11:53/tcp rr | 10.96.0.10:10053 1 local", "+ dns-peers 10.96.0.11:53/udp rr | 10.96.0.10:10053 1 local", "base"}
	if d := cmp.Diff(want, r.last); d != "" {
		t.Error(d)
	}
	if got := r.base.DNSPort(vip); got != 10053 || r.base.DNSPort(vip.Next()) != 53 {
		t.Errorf("port %d", got)
	}
	if b.Reconcile(t.Context(), s, true); len(r.last) > 0 {
		t.Errorf("nothing has changed, and the plane is told %v", r.last)
	}
}
