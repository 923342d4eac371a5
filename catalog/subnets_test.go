package catalog

import (
	"net/netip"
	"strings"
	"testing"

	"shoal/model"
)

func host(name string, number uint16, addr, subnet string) model.Node {
	n := model.Node{Name: name, Number: number}
	if addr != "" {
		n.Addr = netip.MustParseAddr(addr)
	}
	if subnet != "" {
		n.Subnet = netip.MustParsePrefix(subnet)
	}
	return n
}

func TestSubnetsThatAreNotActedOn(t *testing.T) {
	const mesh, own = "10.244.0.0/16", ""
	a, b := host("a", 1, "10.1.0.1", "10.244.0.0/24"), host("b", 2, "10.1.0.2", "10.244.1.0/24")
	docker := func(n model.Node, subnet string) model.Node { return host(n.Name, n.Number, n.Addr.String(), subnet) }
	for _, tt := range []struct {
		name   string
		pool   string
		nodes  []model.Node // the first is this host
		refuse map[string]string
	}{
		{"good ones", mesh, []model.Node{a, b}, nil},
		{"none yet", mesh, []model.Node{a, host("c", 0, "10.1.0.3", "")}, nil},
		{"everything", mesh, []model.Node{a, b, host("c", 3, "10.1.0.3", "0.0.0.0/0")}, map[string]string{"c": "0.0.0.0/0 of host c is no part of the pool"}},
		{"everything of IPv6", mesh, []model.Node{a, b, host("c", 3, "10.1.0.3", "::/0")}, map[string]string{"c": "only IPv4"}},
		{"of no pool", mesh, []model.Node{a, host("c", 3, "10.1.0.3", "192.168.7.0/24")}, map[string]string{"c": "same --subnet-pool"}},
		{"the whole pool", mesh, []model.Node{a, host("c", 3, "10.1.0.3", "10.244.0.0/16")}, map[string]string{"c": "no part of the pool"}},
		{"more than the pool", mesh, []model.Node{a, host("c", 0, "10.1.0.3", "10.0.0.0/8")}, map[string]string{"c": "no part of the pool"}},
		{"one of this host's", mesh, []model.Node{a, host("c", 3, "10.1.0.3", "10.244.0.0/24")}, map[string]string{"c": "of host a, which came first"}},
		{"one of another's", mesh, []model.Node{a, b, host("c", 3, "10.1.0.3", "10.244.1.128/25")}, map[string]string{"c": "of host b, which came first"}},
		{"one that would be another's, was that good", mesh, []model.Node{a, b, host("c", 3, "10.1.0.3", "10.244.9.0/24"), host("d", 2, "0.0.0.0", "10.244.9.0/24")},
			map[string]string{"d": "by which nobody reaches it"}},
		{"no address", mesh, []model.Node{a, host("c", 3, "", "10.244.9.0/24")}, map[string]string{"c": "by which nobody reaches it"}},
		{"this host's own is not its to refuse", mesh, []model.Node{docker(a, "192.168.7.0/24"), b}, nil},

		{"the engines' own", own, []model.Node{docker(a, "172.17.0.0/16"), docker(b, "172.18.0.0/16")}, nil},
		{"everything, among the engines' own", own, []model.Node{docker(a, "172.17.0.0/16"), docker(b, "0.0.0.0/0")}, map[string]string{"b": "no private range"}},
		{"a public one", own, []model.Node{docker(a, "172.17.0.0/16"), docker(b, "8.8.8.0/24")}, map[string]string{"b": "no private range"}},
		{"all private ones", own, []model.Node{docker(a, "192.168.9.0/24"), docker(b, "10.0.0.0/7")}, map[string]string{"b": "no private range"}},
		{"with this host in it", own, []model.Node{docker(a, "172.17.0.0/16"), docker(b, "10.1.0.0/24")}, map[string]string{"b": "holds the address 10.1.0.1 of host a"}},
		{"the same on two hosts", own, []model.Node{docker(a, "172.17.0.0/16"), docker(b, "172.17.0.0/16")}, map[string]string{"b": "`bip`"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRecords(tt.nodes[0].Name)
			if tt.pool != "" {
				r.subnets = model.Pools{netip.MustParsePrefix(tt.pool)}
			}
			for _, n := range tt.nodes {
				r.putNode(n)
			}
			s := build(new(model.Snapshot), tt.nodes[0], r, r.takeChanges())
			for i, n := range s.Nodes {
				want := tt.refuse[n.Name]
				if (want == "") != (n.Problem == "") || !strings.Contains(n.Problem, want) {
					t.Errorf("%s: %q, want %q", n.Name, n.Problem, want)
				}
				if had := r.nodes[n.Name].Subnet; n.Subnet.IsValid() != (had.IsValid() && want == "") {
					t.Errorf("%s: subnet %s, its record says %s", s.Nodes[i].Name, n.Subnet, had)
				}
			}
		})
	}
}
