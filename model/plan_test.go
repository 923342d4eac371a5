package model

import (
	"net/netip"
	"testing"
)

func TestPlanOfASubnet(t *testing.T) {
	for subnet, want := range map[string][4]string{
		"10.244.1.0/24":  {"10.244.1.0", "10.244.1.1", "10.244.1.1", "10.244.1.254"},
		"10.244.1.7/24":  {"10.244.1.0", "10.244.1.1", "10.244.1.1", "10.244.1.254"},
		"172.17.0.0/16":  {"172.17.0.0", "172.17.0.1", "172.17.0.1", "172.17.255.254"},
		"10.244.1.64/29": {"10.244.1.64", "10.244.1.65", "10.244.1.65", "10.244.1.70"},
	} {
		p := PlanOf(netip.MustParsePrefix(subnet))
		got := [4]string{p.Tunnel.String(), p.Gateway.String(), p.DNS.String(), p.Probe.String()}
		if got != want {
			t.Errorf("%s: %v, want %v", subnet, got, want)
		}
	}
	for _, none := range []netip.Prefix{{}, netip.MustParsePrefix("fd00::/64"), netip.MustParsePrefix("10.244.1.0/31")} {
		if p := PlanOf(none); p != (Plan{}) {
			t.Errorf("%s: %+v, want none", none, p)
		}
	}
}
