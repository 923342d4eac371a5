package virtual

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
	want := func(s ipvs.Service, ds ...Dest) *Service { return &Service{Service: s, Dests: ds} }
	have := func(s ipvs.Service, ds map[netip.AddrPort]ipvs.Dest) *ipvs.Virtual {
		return &ipvs.Virtual{Service: s, Dests: ds}
	}
	type dests = map[netip.AddrPort]ipvs.Dest
	for _, test := range []struct {
		name string
		want *Service
		have *ipvs.Virtual
		plan Plan
	}{
		{"nothing wanted, nothing there", nil, nil, Plan{Gone: true}},
		{"new", want(rr, Dest{Addr: one, Weight: 1}), nil, Plan{Put: true, Raise: []ipvs.Destination{{Addr: one, Weight: 1}}}},
		{"the same", want(rr, Dest{Addr: one, Weight: 1}), have(rr, dests{one: {Weight: 1}}), Plan{}},
		{"another scheduler", want(lc, Dest{Addr: one, Weight: 1}), have(rr, dests{one: {Weight: 1}}), Plan{Put: true}},
		{"another weight", want(rr, Dest{Addr: one, Weight: 2}), have(rr, dests{one: {Weight: 1}}), Plan{Raise: []ipvs.Destination{{Addr: one, Weight: 2}}}},
		{"one more", want(rr, Dest{Addr: one, Weight: 1}, Dest{Addr: two, Weight: 1}), have(rr, dests{one: {Weight: 1}}), Plan{Raise: []ipvs.Destination{{Addr: two, Weight: 1}}}},
		{"one less", want(rr, Dest{Addr: one, Weight: 1}), have(rr, dests{one: {Weight: 1}, two: {Weight: 1}}), Plan{Remove: []netip.AddrPort{two}}},
		{"gone", nil, have(rr, dests{one: {Weight: 1}}), Plan{Gone: true}},
		{"without destinations", want(rr), have(rr, dests{one: {Weight: 1}}), Plan{Gone: true}},
		{"unhealthy and not there", want(rr, Dest{Addr: one}), nil, Plan{Gone: true}},
		{"unhealthy", want(rr, Dest{Addr: one}), have(rr, dests{one: {Weight: 1}}), Plan{Lower: []netip.AddrPort{one}}},
		{"unhealthy still", want(rr, Dest{Addr: one}), have(rr, dests{one: {}}), Plan{}},
		{"well again", want(rr, Dest{Addr: one, Weight: 1}), have(rr, dests{one: {}}), Plan{Raise: []ipvs.Destination{{Addr: one, Weight: 1}}}},
		{"draining", want(rr, Dest{Addr: one, Until: soon}), have(rr, dests{one: {Weight: 1}}), Plan{Lower: []netip.AddrPort{one}, Draining: true}},
		{"draining with connections", want(rr, Dest{Addr: one, Until: soon}), have(rr, dests{one: {Active: 1}}), Plan{Draining: true}},
		{"drained", want(rr, Dest{Addr: one, Until: soon}), have(rr, dests{one: {}}), Plan{Gone: true}},
		{"drained, another serves", want(rr, Dest{Addr: one, Until: soon}, Dest{Addr: two, Weight: 1}), have(rr, dests{one: {}, two: {Weight: 1}}), Plan{Remove: []netip.AddrPort{one}}},
		{"out of time", want(rr, Dest{Addr: one, Until: now}), have(rr, dests{one: {Active: 1}}), Plan{Gone: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := Diff(test.want, test.have, now)
			if d := cmp.Diff(test.plan, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
				t.Errorf("plan (-want +got):\n%s", d)
			}
		})
	}
}
