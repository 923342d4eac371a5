package ingress

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal/kernel/ipvs"
)

func TestDiff(t *testing.T) {
	var (
		now  = time.Unix(1000, 0)
		soon = time.Unix(1001, 0)
		one  = netip.MustParseAddrPort("10.0.0.1:80")
		two  = netip.MustParseAddrPort("10.0.0.2:80")
		rr   = ipvs.Service{Mark: 1, Scheduler: "rr"}
		lc   = ipvs.Service{Mark: 1, Scheduler: "lc"}
	)
	want := func(s ipvs.Service, ds ...dest) *virtual { return &virtual{Service: s, dests: ds} }
	have := func(s ipvs.Service, ds map[netip.AddrPort]ipvs.Dest) *ipvs.Virtual {
		return &ipvs.Virtual{Service: s, Dests: ds}
	}
	type dests = map[netip.AddrPort]ipvs.Dest
	for _, test := range []struct {
		name string
		want *virtual
		have *ipvs.Virtual
		plan plan
	}{
		{"nothing wanted, nothing there", nil, nil, plan{}},
		{"new", want(rr, dest{addr: one, weight: 1}), nil, plan{put: true, raise: []ipvs.Destination{{Addr: one, Weight: 1}}}},
		{"the same", want(rr, dest{addr: one, weight: 1}), have(rr, dests{one: {Weight: 1}}), plan{}},
		{"another scheduler", want(lc, dest{addr: one, weight: 1}), have(rr, dests{one: {Weight: 1}}), plan{put: true}},
		{"another weight", want(rr, dest{addr: one, weight: 2}), have(rr, dests{one: {Weight: 1}}), plan{raise: []ipvs.Destination{{Addr: one, Weight: 2}}}},
		{"one more", want(rr, dest{addr: one, weight: 1}, dest{addr: two, weight: 1}), have(rr, dests{one: {Weight: 1}}), plan{raise: []ipvs.Destination{{Addr: two, Weight: 1}}}},
		{"one less", want(rr, dest{addr: one, weight: 1}), have(rr, dests{one: {Weight: 1}, two: {Weight: 1}}), plan{remove: []netip.AddrPort{two}}},
		{"gone", nil, have(rr, dests{one: {Weight: 1}}), plan{delete: true}},
		{"without destinations", want(rr), have(rr, dests{one: {Weight: 1}}), plan{delete: true}},
		{"unhealthy and not there", want(rr, dest{addr: one}), nil, plan{}},
		{"unhealthy", want(rr, dest{addr: one}), have(rr, dests{one: {Weight: 1}}), plan{lower: []netip.AddrPort{one}}},
		{"unhealthy still", want(rr, dest{addr: one}), have(rr, dests{one: {}}), plan{}},
		{"well again", want(rr, dest{addr: one, weight: 1}), have(rr, dests{one: {}}), plan{raise: []ipvs.Destination{{Addr: one, Weight: 1}}}},
		{"draining", want(rr, dest{addr: one, until: soon}), have(rr, dests{one: {Weight: 1}}), plan{lower: []netip.AddrPort{one}, draining: true}},
		{"draining with connections", want(rr, dest{addr: one, until: soon}), have(rr, dests{one: {Active: 1}}), plan{draining: true}},
		{"drained", want(rr, dest{addr: one, until: soon}), have(rr, dests{one: {}}), plan{delete: true}},
		{"drained, another serves", want(rr, dest{addr: one, until: soon}, dest{addr: two, weight: 1}), have(rr, dests{one: {}, two: {Weight: 1}}), plan{remove: []netip.AddrPort{one}}},
		{"out of time", want(rr, dest{addr: one, until: now}), have(rr, dests{one: {Active: 1}}), plan{delete: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := diff(test.want, test.have, now)
			if d := cmp.Diff(test.plan, got, cmp.AllowUnexported(plan{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
				t.Errorf("plan (-want +got):\n%s", d)
			}
		})
	}
}
