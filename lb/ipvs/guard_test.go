package ipvs

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"shoal/lb"
)

func TestRulesOfTheGuardAreAsManyForAnyNumberOfHosts(t *testing.T) {
	guard := lb.Guard{TCP: []uint16{7946, 2379, 2380}, UDP: []uint16{7946}, Join: 7947, RemoteTCP: []uint16{7947, 7946, 2379, 2380}, RemoteUDP: []uint16{7946}}
	count := func(hosts int) (n int) {
		g := guard
		for a := netip.MustParseAddr("192.0.2.1"); hosts > 0; hosts, a = hosts-1, a.Next() {
			g.Trusted = append(g.Trusted, a)
		}
		for _, c := range guardChains(testOptions(), &g) {
			n += len(c.Rules) + len(c.From)
		}
		return n
	}
	if one, many := count(1), count(100); one != many {
		t.Errorf("%d rules with one host, %d with a hundred", one, many)
	}
	for _, c := range guardChains(testOptions(), &guard) {
		for _, r := range c.Rules {
			if strings.Contains(r, "ACCEPT") {
				t.Errorf("%s: %q takes the choice from the user's own rules", c.Name, r)
			}
		}
		if c.Name == "SHOAL-AGENT" && (!slices.Contains(c.Rules, "-i lo -j RETURN") || c.Rules[len(c.Rules)-1] != "-j DROP") {
			t.Errorf("%s: %q", c.Name, c.Rules)
		}
	}
	for _, c := range guardChains(testOptions(), new(lb.Guard)) {
		if len(c.Rules)+len(c.From) > 0 {
			t.Errorf("with nothing to guard there is %+v", c)
		}
	}
}
