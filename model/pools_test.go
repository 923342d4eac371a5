package model

import (
	"net/netip"
	"strings"
	"testing"
)

func TestPools(t *testing.T) {
	ps, err := ParsePools("10.244.0.0/22, 10.9.0.0/23")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for n := range ps.Count(24, 100) {
		all = append(all, ps.Subnet(24, n).String())
	}
	if got, want := strings.Join(all, " "), "10.244.0.0/24 10.244.1.0/24 10.244.2.0/24 10.244.3.0/24 10.9.0.0/24 10.9.1.0/24"; got != want {
		t.Errorf("subnets are %s, want %s", got, want)
	}
	if n := ps.Count(24, 5); n != 5 {
		t.Errorf("%d of them, of 5 at most", n)
	}
	for net, want := range map[string]bool{"10.244.3.0/24": true, "10.9.1.128/25": true, "10.9.0.0/23": true, "10.9.0.0/22": false, "10.244.4.0/24": false} {
		if ps.Has(netip.MustParsePrefix(net)) != want {
			t.Errorf("has %s: %t", net, !want)
		}
	}
	if !ps.Overlaps(netip.MustParsePrefix("10.8.0.0/15")) || ps.Overlaps(netip.MustParsePrefix("10.10.0.0/16")) {
		t.Error("what overlaps them is told wrongly")
	}
	text, err := ps.MarshalText()
	var again Pools
	if err == nil {
		err = again.UnmarshalText(text)
	}
	if err != nil || again.String() != "10.244.0.0/22,10.9.0.0/23" {
		t.Errorf("written and read they are %s, error %v", again, err)
	}
	for text, want := range map[string]string{"10.244.0.1/22": "host bits", "10.0.0.0/25": "cannot be cut", "10.0.0.0/8,10.9.0.0/16": "overlaps another"} {
		ps, err := ParsePools(text)
		if err == nil {
			err = ps.Check(24)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{"", "10.0.0.0/8,", "host"} {
		if ps, err := ParsePools(text); err == nil {
			t.Errorf("%q is read as %s", text, ps)
		}
	}
}
