package ipvs

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shoal/kernel/ipset"
	"shoal/lb"
	"shoal/model"
)

func TestEveryFrontendIsFoundByItsEntry(t *testing.T) {
	vip := netip.MustParseAddr("10.96.0.1")
	for _, k := range []lb.Key{
		{VIP: vip, Protocol: model.TCP}, {VIP: vip, Protocol: model.UDP}, {VIP: vip, Protocol: model.TCP, Port: 80},
		{VIP: vip, Protocol: model.SCTP, Port: 80}, {Protocol: model.TCP, Port: 80}, {Protocol: model.UDP, Port: 53},
	} {
		set, e := where(k)
		if got, has := keyOf(set, e); got != k || !has {
			t.Errorf("%s is in set %s as %s", k, set, got)
		}
	}
}

// newTestPlane is a Plane without a kernel.
func newTestPlane() *Plane {
	return &Plane{
		opts: *testOptions(), endpoints: map[netip.Addr]lb.Endpoint{}, withheld: map[lb.Key]*lb.Frontend{}, failures: lb.NewFailures(),
		host: newSpace(hostSets, newMarks()), box: newSpace(boxSets, portMarks{}),
	}
}

// wanted are all entries of sets without marks, in words.
func (p *Plane) wanted() (all []string) {
	for _, s := range []*space{p.host, p.box} {
		for name, es := range s.want {
			for e, n := range es {
				word := name
				if e.Net.IsValid() {
					word += " " + e.Net.String()
				}
				if e.Net2.IsValid() {
					word += "," + e.Net2.String()
				}
				if e.MAC != ([6]byte{}) {
					word += " " + model.MAC(e.MAC).String()
				}
				if mark := s.given[name][e]; mark != 0 {
					word += fmt.Sprintf(" %#x", mark)
				}
				if e.Port != 0 {
					word += fmt.Sprintf(",%s:%d", model.Protocol(e.Proto), e.Port)
				}
				if e.Iface != "" {
					word += "," + e.Iface
				}
				if n > 1 {
					word += fmt.Sprintf(" ×%d", n)
				}
				all = append(all, word)
			}
		}
	}
	slices.Sort(all)
	return all
}

func TestSetsFollowTheDeltas(t *testing.T) {
	addr := netip.MustParseAddr
	task := func(a string, local bool) lb.Backend {
		return lb.Backend{Addr: netip.MustParseAddrPort(a), Weight: 1, Local: local}
	}
	published := func(proto model.Protocol, port uint16, on string, bs ...lb.Backend) *lb.Frontend {
		f := &lb.Frontend{Key: lb.Key{Protocol: proto, Port: port}, Backends: bs}
		if on != "" {
			f.On = []netip.Addr{addr(on)}
		}
		return f
	}
	vip := func(proto model.Protocol, bs ...lb.Backend) *lb.Frontend {
		return &lb.Frontend{Key: lb.Key{VIP: addr("10.96.0.1"), Protocol: proto}, Backends: bs}
	}
	all := func(fs ...*lb.Frontend) map[lb.Key]*lb.Frontend {
		m := map[lb.Key]*lb.Frontend{}
		for _, f := range fs {
			m[f.Key] = f
		}
		return m
	}
	p := newTestPlane()
	first := lb.Delta{
		Base: &lb.Base{
			Networks: []model.Network{{Name: "mesh", Bridge: "shoal0", Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00::/64")}}},
			Inside:   []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("192.0.2.1/32")},
			Cluster:  []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")},
			Peers:    []lb.Peer{{Number: 7, Addr: addr("192.0.2.7"), MACs: []model.MAC{{2, 0, 0, 0, 0, 7}, {2, 0, 0, 0, 1, 7}}}},
		},
		Frontends: all(
			published(model.TCP, 80, "", task("10.244.1.2:8080", true), task("10.244.2.2:8080", false)),
			published(model.UDP, 53, "127.0.0.1"),
			vip(model.TCP, task("10.244.1.2:0", true)), vip(model.UDP, task("10.244.1.2:0", true))),
		Endpoints: map[netip.Addr]*lb.Endpoint{addr("10.244.1.2"): {Local: true}, addr("10.244.2.2"): {}, addr("192.0.2.1"): {Local: true, Host: true}},
	}
	if !p.merge(&first) {
		t.Error("another base changes nothing that frontends stand on")
	}
	want := []string{
		"SHOAL-BRIDGES 10.244.1.0/24,shoal0", "SHOAL-CLUSTER 192.0.2.1/32", "SHOAL-HAIRPIN 10.244.1.2/32,10.244.1.2/32",
		"SHOAL-IN-CLIENTS 10.244.1.0/24", "SHOAL-IN-CLIENTS 192.0.2.1/32", "SHOAL-IN-INSIDE 10.244.1.0/24", "SHOAL-IN-INSIDE 192.0.2.1/32",
		"SHOAL-IN-OUTERS 192.0.2.7/32 0x54000007",
		"SHOAL-IN-PUBLISHED 0.0.0.0/1,tcp:80", "SHOAL-IN-PUBLISHED 127.0.0.1/32,udp:53", "SHOAL-IN-PUBLISHED 128.0.0.0/1,tcp:80",
		"SHOAL-IN-SENDERS 02:00:00:00:00:07 0x54000007", "SHOAL-IN-SENDERS 02:00:00:00:01:07 0x54000007",
		"SHOAL-IN-TARGETS 10.244.1.2/32,tcp:8080", "SHOAL-LOCAL 10.244.1.2/32", "SHOAL-LOCAL 192.0.2.1/32", "SHOAL-NETS 10.244.1.0/24",
		"SHOAL-PING 10.96.0.1/32 ×2", "SHOAL-TASKS 10.244.1.2/32", "SHOAL-TASKS 10.244.2.2/32", "SHOAL-TASKS 192.0.2.1/32",
	}
	if d := cmp.Diff(want, p.wanted()); d != "" {
		t.Errorf("after the first (-want +got):\n%s", d)
	}

	second := lb.Delta{
		Frontends: map[lb.Key]*lb.Frontend{
			{Protocol: model.TCP, Port: 80}:                        published(model.TCP, 80, "192.0.2.1", task("10.244.2.2:8080", false)),
			{Protocol: model.UDP, Port: 53}:                        nil,
			{VIP: addr("10.96.0.1"), Protocol: model.TCP}:          nil,
			{VIP: addr("10.96.0.1"), Protocol: model.UDP}:          vip(model.UDP), // with nothing behind it
			{VIP: addr("10.96.0.9"), Protocol: model.TCP, Port: 1}: nil,            // never was
		},
		Withheld:  all(published(model.TCP, 81, "", task("10.244.2.2:81", true))),
		Endpoints: map[netip.Addr]*lb.Endpoint{addr("10.244.1.2"): nil, addr("10.244.2.2"): {Local: true}},
	}
	if p.merge(&second) {
		t.Error("what frontends stand on changed without another base")
	}
	want = []string{
		"SHOAL-BRIDGES 10.244.1.0/24,shoal0", "SHOAL-CLUSTER 192.0.2.1/32", "SHOAL-HAIRPIN 10.244.2.2/32,10.244.2.2/32",
		"SHOAL-IN-CLIENTS 10.244.1.0/24", "SHOAL-IN-CLIENTS 192.0.2.1/32", "SHOAL-IN-INSIDE 10.244.1.0/24", "SHOAL-IN-INSIDE 192.0.2.1/32",
		"SHOAL-IN-OUTERS 192.0.2.7/32 0x54000007", "SHOAL-IN-PUBLISHED 192.0.2.1/32,tcp:80",
		"SHOAL-IN-SENDERS 02:00:00:00:00:07 0x54000007", "SHOAL-IN-SENDERS 02:00:00:00:01:07 0x54000007", "SHOAL-IN-TARGETS 10.244.2.2/32,tcp:81", "SHOAL-LOCAL 10.244.2.2/32", "SHOAL-LOCAL 192.0.2.1/32", "SHOAL-NETS 10.244.1.0/24",
		"SHOAL-TASKS 10.244.2.2/32", "SHOAL-TASKS 192.0.2.1/32",
	}
	if d := cmp.Diff(want, p.wanted()); d != "" {
		t.Errorf("after the second (-want +got):\n%s", d)
	}
}

// TestAPeersMarkFollowsItsNumber: what the kernel has of a host that comes back with another number, or whose address a new one
// has taken, gets the new mark; what it has with the right one is left alone.
func TestAPeersMarkFollowsItsNumber(t *testing.T) {
	first, second := model.MAC{2, 0, 0, 0, 0, 1}, model.MAC{2, 0, 0, 0, 0, 2}
	peer := func(number uint16, last byte, macs ...model.MAC) lb.Peer {
		return lb.Peer{Number: number, Addr: netip.AddrFrom4([4]byte{192, 0, 2, last}), MACs: macs}
	}
	for name, tc := range map[string]struct {
		peers []lb.Peer
		want  entries
	}{
		"none":                      {nil, entries{}},
		"one with two":              {[]lb.Peer{peer(3, 3, first, second)}, entries{ipset.Ether(first): 0x54000003, ipset.Ether(second): 0x54000003}},
		"two with the same":         {[]lb.Peer{peer(3, 3, first), peer(4, 4, first)}, entries{ipset.Ether(first): 0x54000004}},
		"the same, the other order": {[]lb.Peer{peer(4, 4, first), peer(3, 3, first)}, entries{ipset.Ether(first): 0x54000004}},
	} {
		t.Run(name, func(t *testing.T) {
			if got, _ := peerMarks(tc.peers); !maps.Equal(got, tc.want) {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}

	p := newTestPlane()
	p.merge(&lb.Delta{Base: &lb.Base{Peers: []lb.Peer{peer(3, 3, first), peer(4, 4, second)}}})
	p.host.held[setSenders.Name] = entries{ipset.Ether(first): 0x54000003, ipset.Ether(second): 0x54000004}
	p.host.held[setOuters.Name] = entries{ipset.Addr(netip.MustParseAddr("192.0.2.3")): 0x54000003}
	p.merge(&lb.Delta{Base: &lb.Base{Peers: []lb.Peer{peer(5, 3, first), peer(4, 4, second)}}})
	for e, want := range map[ipset.Entry]bool{ipset.Ether(first): true, ipset.Ether(second): false} {
		if got := p.host.lacks(setSenders, e); got != want {
			t.Errorf("the kernel lacks %s: %v, want %v", e, got, want)
		}
	}
	if a := ipset.Addr(netip.MustParseAddr("192.0.2.3")); !p.host.lacks(setOuters, a) || p.host.given[setOuters.Name][a] != 0x54000005 {
		t.Errorf("%s has the mark %#x", a, p.host.given[setOuters.Name][a])
	}
}

func TestAClientIsInTheNarrowestNetworkThatHasIt(t *testing.T) {
	held := map[ipset.Entry]uint32{}
	for _, n := range []string{"10.0.0.0/8", "10.244.1.0/24", "10.244.1.7/32"} {
		held[ipset.Entry{Net: netip.MustParsePrefix(n)}] = 0
	}
	for client, want := range map[string]string{"10.244.1.9": "10.244.1.0/24", "10.244.1.7": "10.244.1.7/32", "10.9.9.9": "10.0.0.0/8"} {
		if got, has := narrowest(held, netip.MustParseAddr(client)); !has || got.String() != want {
			t.Errorf("%s is in %s, want %s", client, got, want)
		}
	}
	if got, has := narrowest(held, netip.MustParseAddr("203.0.113.9")); has {
		t.Errorf("a client outside is in %s", got)
	}
}

func TestAPortIsRedirectedWhereAnEntryHasTheAddress(t *testing.T) {
	p := newTestPlane()
	on := func(addrs ...string) *lb.Frontend {
		f := &lb.Frontend{Key: lb.Key{Protocol: model.TCP, Port: 80}}
		for _, a := range addrs {
			f.On = append(f.On, netip.MustParseAddr(a))
		}
		return f
	}
	for _, tc := range []struct {
		held *lb.Frontend
		want map[*lb.Frontend]bool
	}{
		{on(), map[*lb.Frontend]bool{on(): true, on("192.0.2.1"): true, on("127.0.0.1", "192.0.2.1"): true}},
		{on("127.0.0.1"), map[*lb.Frontend]bool{on(): false, on("192.0.2.1"): false, on("127.0.0.1"): true, on("127.0.0.1", "192.0.2.1"): false}},
	} {
		held := entries{}
		for _, e := range redirections(tc.held) {
			held[e] = 0
		}
		p.host.held[setPublished.Name] = held
		for f, want := range tc.want {
			if got := p.Redirects(f); got != want {
				t.Errorf("with entries for %v: redirected on %v: %t, want %t", tc.held.On, f.On, got, want)
			}
		}
		if other := (&lb.Frontend{Key: lb.Key{Protocol: model.UDP, Port: 80}}); p.Redirects(other) {
			t.Error("another protocol's port is redirected")
		}
	}
}
