package iptables

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shoal/fabric"
	"shoal/kernel/ipset"
)

func between(hosts int) fabric.Between {
	b := fabric.Between{Own: netip.MustParsePrefix("10.244.1.0/24"), Tunnels: []fabric.Tunnel{{Protocol: 17, Port: 8483}, {Protocol: 4}}}
	for i := range hosts {
		b.Nets = append(b.Nets, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 245, byte(i), 0}), 24))
		b.Hosts = append(b.Hosts, netip.AddrFrom4([4]byte{10, 3, 0, byte(i)}))
		b.Links = append(b.Links, fabric.Link{Net: b.Nets[i], Device: "eth0"})
	}
	return b
}

func TestRulesAreAsManyForAnyNumberOfHosts(t *testing.T) {
	if d := cmp.Diff(chains(between(1)), chains(between(200))); d != "" {
		t.Error(d)
	}
	for _, s := range sets {
		if n := len(wanted(s, between(200))); n != 200 {
			t.Errorf("%s has %d entries for 200 hosts", s.Name, n)
		}
	}
}

func TestTunnelPacketsAreTakenFromHostsOnly(t *testing.T) {
	for _, c := range chains(between(1)) {
		if c.Name != chainIn {
			continue
		}
		if d := cmp.Diff([]string{
			"-p udp --dport 8483 -m set --match-set SHOAL-FABRIC-HOSTS src -j ACCEPT", "-p udp --dport 8483 -j DROP",
			"-p 4 -m set --match-set SHOAL-FABRIC-HOSTS src -j ACCEPT", "-p 4 -j DROP",
		}, c.Rules); d != "" {
			t.Error(d)
		}
	}
}

func TestDiffOfSets(t *testing.T) {
	a, b, c := ipset.Addr(netip.MustParseAddr("10.0.0.1")), ipset.Addr(netip.MustParseAddr("10.0.0.2")), ipset.Addr(netip.MustParseAddr("10.0.0.3"))
	put, drop := diff(entries{a: 0, b: 0}, entries{b: 0, c: 0})
	if _, ok := put[a]; !ok || len(put) != 1 {
		t.Errorf("put %v", put)
	}
	if _, ok := drop[c]; !ok || len(drop) != 1 {
		t.Errorf("drop %v", drop)
	}
}
