package ipvs

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal/kernel/ipvs"
	"shoal/model"
	"shoal/virtual"
)

// text shows what is to be done about a front, in the order in which it is done.
func (c change) text(had uint32) string {
	var all []string
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if c.Put {
		say("put %s", c.service.Scheduler)
	}
	for _, d := range c.Raise {
		say("raise %s %d", d.Addr, d.Weight)
	}
	if c.entry != had {
		say("mark %x", c.entry)
	}
	for _, a := range c.Lower {
		say("lower %s", a)
	}
	for _, a := range c.Remove {
		say("remove %s", a)
	}
	if c.Gone {
		say("delete")
	}
	return strings.Join(all, ", ")
}

func TestCompareAFrontWithTheKernel(t *testing.T) {
	const mark = marksOf | 5
	f := front{netip.MustParseAddr("10.96.0.1"), model.TCP, 0}
	a, b := netip.MustParseAddrPort("172.18.0.2:0"), netip.MustParseAddrPort("172.18.0.3:0")
	type held = map[netip.AddrPort]ipvs.Dest
	want := func(ds ...virtual.Dest) *balanced {
		v := &balanced{f, virtual.New(model.TCP, 0, &model.Spec{})}
		v.Dests = ds
		return v
	}
	until := noon.Add(10 * time.Second)
	for name, tc := range map[string]struct {
		want     *balanced
		entry    uint32 // the kernel's set has; 0: none
		dests    held   // the kernel's service has; nil: there is none
		does     string // "": no write
		draining bool
	}{
		"new":                           {want: want(virtual.Dest{Addr: a, Weight: 1}), does: "put rr, raise 172.18.0.2:0 1, mark 53000005"},
		"nothing to do":                 {want: want(virtual.Dest{Addr: a, Weight: 1}), entry: mark, dests: held{a: {Weight: 1}}},
		"gone":                          {entry: mark, dests: held{a: {Weight: 1}}, does: "mark 0, delete"},
		"a task joins":                  {want: want(virtual.Dest{Addr: a, Weight: 1}, virtual.Dest{Addr: b, Weight: 2}), entry: mark, dests: held{a: {Weight: 1}}, does: "raise 172.18.0.3:0 2"},
		"the mark was lost":             {want: want(virtual.Dest{Addr: a, Weight: 1}), dests: held{a: {Weight: 1}}, does: "mark 53000005"},
		"a foreign mark":                {want: want(virtual.Dest{Addr: a, Weight: 1}), entry: 7, dests: held{a: {Weight: 1}}, does: "mark 53000005"},
		"the service was lost":          {want: want(virtual.Dest{Addr: a, Weight: 1}), entry: mark, does: "put rr, raise 172.18.0.2:0 1"},
		"not in rotation and not there": {want: want(virtual.Dest{Addr: a})},
		"the last leaves rotation: refused before it is lowered": {want: want(virtual.Dest{Addr: a}), entry: mark, dests: held{a: {Weight: 1, Active: 1}},
			does: "mark 53800005, lower 172.18.0.2:0"},
		"stays out of rotation": {want: want(virtual.Dest{Addr: a}), entry: mark | parked, dests: held{a: {}}},
		"comes back":            {want: want(virtual.Dest{Addr: a, Weight: 1}), entry: mark | parked, dests: held{a: {}}, does: "raise 172.18.0.2:0 1, mark 53000005"},
		"a drain begins": {want: want(virtual.Dest{Addr: a, Until: until}, virtual.Dest{Addr: b, Weight: 1}), entry: mark, dests: held{a: {Weight: 1}, b: {Weight: 1}},
			does: "lower 172.18.0.2:0", draining: true},
		"the last drain ends": {want: want(virtual.Dest{Addr: a, Until: until}), entry: mark | parked, dests: held{a: {}}, does: "mark 0, delete"},
	} {
		t.Run(name, func(t *testing.T) {
			lb := &Balancer{marks: newMarks(), owner: map[front]model.ServiceID{}, parts: map[model.ServiceID]part{}}
			lb.unknown()
			lb.marks.adopt(f, mark)
			if tc.want != nil {
				lb.owner[f], lb.parts[model.ServiceID{}] = model.ServiceID{}, part{fronts: []balanced{*tc.want}}
			}
			if set, e := f.where(); tc.entry != 0 {
				lb.sets[set] = entries{e: tc.entry}
			}
			if tc.dests != nil {
				lb.table.Known[mark] = &ipvs.Virtual{Service: ipvs.Service{Mark: mark, Scheduler: "rr"}, Dests: tc.dests}
			}
			c, writes, err := lb.compare(f, noon)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if writes {
				got = c.text(tc.entry)
			}
			if d := cmp.Diff(tc.does, got); d != "" || c.Draining != tc.draining {
				t.Errorf("draining %v; %s", c.Draining, d)
			}
		})
	}
}

func TestFailuresAreTriedAgainLaterEachTime(t *testing.T) {
	fs := failures{}
	o := object{front: front{netip.MustParseAddr("10.96.0.1"), model.TCP, 80}}
	now := noon
	for _, want := range []time.Duration{1, 2, 4, 5, 5} {
		fs.put(o, fmt.Errorf("no"), now)
		if got := fs.wait(now); got != want*time.Second {
			t.Errorf("next try in %v, want %v s", got, int(want))
		}
		now = now.Add(want * time.Second)
	}
	ps := fs.problems("a", map[front]model.ServiceID{o.front: {Stack: "shop", Name: "web"}})
	want := []model.Problem{{Node: "a", Kind: "service", Object: "shop/web", Reason: "10.96.0.1:80/tcp: no", Since: noon}}
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
		model.Node{Subnet: netip.MustParsePrefix("10.244.1.0/24")}, true) {
		n += len(c.Rules) + len(c.From)
		if len(c.Name) > 28 {
			t.Errorf("chain name %s is too long for iptables", c.Name)
		}
	}
	if n != 38 {
		t.Errorf("%d rules, and doc.go says 38", n)
	}
}
