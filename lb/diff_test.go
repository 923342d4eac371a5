package lb

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal/catalog"
	"shoal/kernel/ipvs"
)

func (s step) text() string {
	name := [...]string{"put service", "put dest", "set mark", "del mark", "lower dest", "del dest", "del service"}[s.kind]
	switch s.kind {
	case putService:
		return fmt.Sprintf("%s %s", name, s.service.Scheduler)
	case putDest, lowerDest, delDest:
		return fmt.Sprintf("%s %s %d", name, s.dest.Addr, s.dest.Weight)
	case setMark:
		return fmt.Sprintf("%s %x", name, s.mark)
	}
	return name
}

func TestDiff(t *testing.T) {
	const mark = marksOf | 5
	a, b := netip.MustParseAddrPort("172.18.0.2:0"), netip.MustParseAddrPort("172.18.0.3:0")
	f := front{netip.MustParseAddr("10.96.0.1"), catalog.TCP, 0}
	want := func(ds ...dest) *virtual { return &virtual{front: f, scheduler: "rr", dests: ds} }
	has := func(scheduler string, ds map[netip.AddrPort]ipvs.Dest) *ipvs.Virtual {
		return &ipvs.Virtual{Service: ipvs.Service{Mark: mark, Scheduler: scheduler}, Dests: ds}
	}
	type held = map[netip.AddrPort]ipvs.Dest
	until := noon.Add(10 * time.Second)
	for name, tc := range map[string]struct {
		want     *virtual
		have     found
		now      time.Time
		steps    string
		draining bool
	}{
		"new: mark last":   {want: want(dest{addr: a, weight: 1}), steps: "put service rr, put dest 172.18.0.2:0 1, set mark 53000005"},
		"nothing to do":    {want: want(dest{addr: a, weight: 1}), have: found{mark, has("rr", held{a: {Weight: 1}})}},
		"gone: mark first": {have: found{mark, has("rr", held{a: {Weight: 1}})}, steps: "del mark, del service"},
		"a task joins": {want: want(dest{addr: a, weight: 1}, dest{addr: b, weight: 2}), have: found{mark, has("rr", held{a: {Weight: 1}})},
			steps: "put dest 172.18.0.3:0 2"},
		"a task is gone": {want: want(dest{addr: a, weight: 1}), have: found{mark, has("rr", held{a: {Weight: 1}, b: {Weight: 1}})},
			steps: "del dest 172.18.0.3:0 0"},
		"another scheduler": {want: want(dest{addr: a, weight: 1}), have: found{mark, has("wlc", held{a: {Weight: 1}})}, steps: "put service rr"},
		"the mark was lost": {want: want(dest{addr: a, weight: 1}), have: found{0, has("rr", held{a: {Weight: 1}})}, steps: "set mark 53000005"},
		"a foreign mark":    {want: want(dest{addr: a, weight: 1}), have: found{7, has("rr", held{a: {Weight: 1}})}, steps: "set mark 53000005"},
		"the service was lost": {want: want(dest{addr: a, weight: 1}), have: found{mark, nil},
			steps: "put service rr, put dest 172.18.0.2:0 1"},
		"not in rotation and not there":   {want: want(dest{addr: a})},
		"not in rotation, the others are": {want: want(dest{addr: a}, dest{addr: b, weight: 1}), have: found{mark, has("rr", held{b: {Weight: 1}})}},
		"the last leaves rotation: refused before it is lowered": {want: want(dest{addr: a}), have: found{mark, has("rr", held{a: {Weight: 1, Active: 1}})},
			steps: "set mark 53800005, lower dest 172.18.0.2:0 0"},
		"stays out of rotation": {want: want(dest{addr: a}), have: found{mark | parked, has("rr", held{a: {}})}},
		"comes back": {want: want(dest{addr: a, weight: 1}), have: found{mark | parked, has("rr", held{a: {}})},
			steps: "put dest 172.18.0.2:0 1, set mark 53000005"},
		"a drain begins, idle or not": {want: want(dest{addr: a, until: until}, dest{addr: b, weight: 1}), have: found{mark, has("rr", held{a: {Weight: 1}, b: {Weight: 1}})},
			steps: "lower dest 172.18.0.2:0 0", draining: true},
		"a drain goes on": {want: want(dest{addr: a, until: until}, dest{addr: b, weight: 1}), have: found{mark, has("rr", held{a: {Inactive: 1}, b: {Weight: 1}})},
			draining: true},
		"a drain ends idle": {want: want(dest{addr: a, until: until}, dest{addr: b, weight: 1}), have: found{mark, has("rr", held{a: {}, b: {Weight: 1}})},
			steps: "del dest 172.18.0.2:0 0"},
		"a drain ends at its deadline": {want: want(dest{addr: a, until: until}, dest{addr: b, weight: 1}), have: found{mark, has("rr", held{a: {Active: 3}, b: {Weight: 1}})},
			now: until, steps: "del dest 172.18.0.2:0 0"},
		"the last drain ends": {want: want(dest{addr: a, until: until}), have: found{mark | parked, has("rr", held{a: {}})},
			steps: "del mark, del service"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.now.IsZero() {
				tc.now = noon
			}
			steps, draining := diff(f, tc.want, mark, tc.have, tc.now)
			var got []string
			for _, s := range steps {
				got = append(got, s.text())
			}
			if d := cmp.Diff(tc.steps, strings.Join(got, ", ")); d != "" || draining != tc.draining {
				t.Errorf("draining %v; %s", draining, d)
			}
		})
	}
}

func TestFailuresAreTriedAgainLaterEachTime(t *testing.T) {
	fs := failures{}
	o := object{front: front{netip.MustParseAddr("10.96.0.1"), catalog.TCP, 80}}
	now := noon
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		fs.put(o, fmt.Errorf("no"), now)
		if got := fs.wait(now); got != want*time.Second {
			t.Errorf("next try in %v, want %v s", got, int(want))
		}
		now = now.Add(want * time.Second)
	}
	ps := fs.problems("a", map[front]catalog.ServiceID{o.front: {Stack: "shop", Name: "web"}})
	want := []catalog.Problem{{Node: "a", Kind: "service", Object: "shop/web", Reason: "10.96.0.1:80/tcp: no", Since: noon}}
	if d := cmp.Diff(want, ps); d != "" {
		t.Error(d)
	}
	fs.put(o, nil, now)
	if len(fs) != 0 || fs.wait(now) != 0 {
		t.Error("a failure outlives a success")
	}
}

func TestRulesAreAsManyForAnyNumberOfServices(t *testing.T) {
	n := 0
	for _, c := range chains(
		Options{Pool: netip.MustParsePrefix("10.96.0.0/16"), DNS: netip.MustParseAddr("10.96.0.10"), DNSPeers: netip.MustParseAddr("10.96.0.11")},
		catalog.Node{Subnet: netip.MustParsePrefix("10.244.1.0/24")}, true) {
		n += len(c.Rules) + len(c.From)
		if len(c.Name) > 28 {
			t.Errorf("chain name %s is too long for iptables", c.Name)
		}
	}
	if n != 37 {
		t.Errorf("%d rules, and doc.go says 37", n)
	}
}
