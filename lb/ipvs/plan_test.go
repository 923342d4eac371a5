package ipvs

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal/kernel/ipvs"
	"shoal/lb"
	"shoal/model"
)

func TestAPlanLeadsFromTheKernelsServiceToTheWantedOne(t *testing.T) {
	var (
		now  = time.Unix(1000, 0)
		soon = time.Unix(1001, 0)
		one  = netip.MustParseAddrPort("10.0.0.1:80")
		two  = netip.MustParseAddrPort("10.0.0.2:80")
		rr   = ipvs.Service{Mark: 1, Scheduler: "rr"}
		lc   = ipvs.Service{Mark: 1, Scheduler: "lc"}
	)
	want := func(s ipvs.Service, bs ...lb.Backend) *service { return &service{s, bs} }
	have := func(s ipvs.Service, ds map[netip.AddrPort]ipvs.Dest) *ipvs.Virtual {
		return &ipvs.Virtual{Service: s, Dests: ds}
	}
	type dests = map[netip.AddrPort]ipvs.Dest
	for _, test := range []struct {
		name string
		want *service
		have *ipvs.Virtual
		plan plan
	}{
		{"nothing wanted, nothing there", nil, nil, plan{gone: true}},
		{"new", want(rr, lb.Backend{Addr: one, Weight: 1}), nil, plan{put: true, raise: []ipvs.Destination{{Addr: one, Weight: 1}}}},
		{"the same", want(rr, lb.Backend{Addr: one, Weight: 1}), have(rr, dests{one: {Weight: 1}}), plan{}},
		{"another scheduler", want(lc, lb.Backend{Addr: one, Weight: 1}), have(rr, dests{one: {Weight: 1}}), plan{put: true}},
		{"another weight", want(rr, lb.Backend{Addr: one, Weight: 2}), have(rr, dests{one: {Weight: 1}}), plan{raise: []ipvs.Destination{{Addr: one, Weight: 2}}}},
		{"one more", want(rr, lb.Backend{Addr: one, Weight: 1}, lb.Backend{Addr: two, Weight: 1}), have(rr, dests{one: {Weight: 1}}), plan{raise: []ipvs.Destination{{Addr: two, Weight: 1}}}},
		{"one less", want(rr, lb.Backend{Addr: one, Weight: 1}), have(rr, dests{one: {Weight: 1}, two: {Weight: 1}}), plan{remove: []netip.AddrPort{two}}},
		{"gone", nil, have(rr, dests{one: {Weight: 1}}), plan{gone: true}},
		{"without destinations", want(rr), have(rr, dests{one: {Weight: 1}}), plan{gone: true}},
		{"unhealthy and not there", want(rr, lb.Backend{Addr: one}), nil, plan{gone: true}},
		{"unhealthy", want(rr, lb.Backend{Addr: one}), have(rr, dests{one: {Weight: 1}}), plan{lower: []netip.AddrPort{one}}},
		{"unhealthy still", want(rr, lb.Backend{Addr: one}), have(rr, dests{one: {}}), plan{}},
		{"well again", want(rr, lb.Backend{Addr: one, Weight: 1}), have(rr, dests{one: {}}), plan{raise: []ipvs.Destination{{Addr: one, Weight: 1}}}},
		{"draining", want(rr, lb.Backend{Addr: one, Until: soon}), have(rr, dests{one: {Weight: 1}}), plan{lower: []netip.AddrPort{one}, draining: true}},
		{"draining with connections", want(rr, lb.Backend{Addr: one, Until: soon}), have(rr, dests{one: {Active: 1}}), plan{draining: true}},
		{"drained", want(rr, lb.Backend{Addr: one, Until: soon}), have(rr, dests{one: {}}), plan{gone: true}},
		{"drained, another serves", want(rr, lb.Backend{Addr: one, Until: soon}, lb.Backend{Addr: two, Weight: 1}), have(rr, dests{one: {}, two: {Weight: 1}}), plan{remove: []netip.AddrPort{one}}},
		{"out of time", want(rr, lb.Backend{Addr: one, Until: now}), have(rr, dests{one: {Active: 1}}), plan{gone: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := diff(test.want, test.have, now)
			if d := cmp.Diff(test.plan, got, cmp.AllowUnexported(plan{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
				t.Errorf("plan (-want +got):\n%s", d)
			}
		})
	}
}

func TestHowIPVSCarriesAFrontend(t *testing.T) {
	live := func(addr string) lb.Backend { return lb.Backend{Addr: netip.MustParseAddrPort(addr), Weight: 1} }
	idle := func(addr string) lb.Backend { return lb.Backend{Addr: netip.MustParseAddrPort(addr)} }
	tcp := func(port uint16) lb.Key {
		return lb.Key{VIP: netip.MustParseAddr("10.96.0.1"), Protocol: model.TCP, Port: port}
	}
	for name, tc := range map[string]struct {
		lb.Frontend
		scheduler string
		affinity  uint32
		backends  int
	}{
		"every port, as it is": {lb.Frontend{Key: tcp(0), Scheduler: "wlc", Affinity: time.Minute, Backends: []lb.Backend{live("10.0.0.1:0"), idle("10.0.0.2:0")}}, "wlc", 60, 2},
		"a port, as it is":     {lb.Frontend{Key: tcp(80), Scheduler: "rr", Affinity: time.Minute, Backends: []lb.Backend{live("10.0.0.1:80")}}, "rr", 60, 1},
		// The kernel's affinity leaves the port as it is.
		"another port, with affinity":    {lb.Frontend{Key: tcp(80), Scheduler: "rr", Affinity: time.Minute, Backends: []lb.Backend{live("10.0.0.1:8080")}}, "mh", 0, 1},
		"another port, without affinity": {lb.Frontend{Key: tcp(80), Scheduler: "rr", Backends: []lb.Backend{live("10.0.0.1:8080")}}, "rr", 0, 1},
		"dh has nowhere else to go":      {lb.Frontend{Key: tcp(80), Scheduler: "dh", Backends: []lb.Backend{idle("10.0.0.1:80"), live("10.0.0.2:80")}}, "dh", 0, 1},
	} {
		s := serviceOf(&tc.Frontend)
		if s.Scheduler != tc.scheduler || s.Affinity != tc.affinity || len(s.backends) != tc.backends {
			t.Errorf("%s: %s, affinity %d, %d backends; want %s, %d, %d", name, s.Scheduler, s.Affinity, len(s.backends), tc.scheduler, tc.affinity, tc.backends)
		}
	}
}
