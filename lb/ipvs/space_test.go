package ipvs

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal/kernel/ipvs"
	"shoal/lb"
	"shoal/model"
)

// text shows what is to be done about a frontend, in the order in which it is done.
func (c change) text(had uint32) string {
	var all []string
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if c.put {
		say("put %s", c.service.Scheduler)
	}
	for _, d := range c.raise {
		say("raise %s %d", d.Addr, d.Weight)
	}
	if c.entry != had {
		say("mark %x", c.entry)
	}
	for _, a := range c.lower {
		say("lower %s", a)
	}
	for _, a := range c.remove {
		say("remove %s", a)
	}
	if c.gone {
		say("delete")
	}
	return strings.Join(all, ", ")
}

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

func TestAFrontendIsComparedWithTheKernel(t *testing.T) {
	const mark = marksOf | 5
	k := lb.Key{VIP: netip.MustParseAddr("10.96.0.1"), Protocol: model.TCP}
	a, b := netip.MustParseAddrPort("172.18.0.2:0"), netip.MustParseAddrPort("172.18.0.3:0")
	type held = map[netip.AddrPort]ipvs.Dest
	want := func(bs ...lb.Backend) *lb.Frontend {
		return &lb.Frontend{Key: k, Scheduler: "rr", Backends: bs}
	}
	until := noon.Add(10 * time.Second)
	for name, tc := range map[string]struct {
		want     *lb.Frontend
		entry    uint32 // the kernel's set has; 0: none
		dests    held   // the kernel's service has; nil: there is none
		does     string // "": no write
		draining bool
	}{
		"new":                           {want: want(lb.Backend{Addr: a, Weight: 1}), does: "put rr, raise 172.18.0.2:0 1, mark 53000005"},
		"nothing to do":                 {want: want(lb.Backend{Addr: a, Weight: 1}), entry: mark, dests: held{a: {Weight: 1}}},
		"gone":                          {entry: mark, dests: held{a: {Weight: 1}}, does: "mark 0, delete"},
		"a task joins":                  {want: want(lb.Backend{Addr: a, Weight: 1}, lb.Backend{Addr: b, Weight: 2}), entry: mark, dests: held{a: {Weight: 1}}, does: "raise 172.18.0.3:0 2"},
		"the mark was lost":             {want: want(lb.Backend{Addr: a, Weight: 1}), dests: held{a: {Weight: 1}}, does: "mark 53000005"},
		"a foreign mark":                {want: want(lb.Backend{Addr: a, Weight: 1}), entry: 7, dests: held{a: {Weight: 1}}, does: "mark 53000005"},
		"the service was lost":          {want: want(lb.Backend{Addr: a, Weight: 1}), entry: mark, does: "put rr, raise 172.18.0.2:0 1"},
		"not in rotation and not there": {want: want(lb.Backend{Addr: a})},
		"the last leaves rotation: refused before it is lowered": {want: want(lb.Backend{Addr: a}), entry: mark, dests: held{a: {Weight: 1, Active: 1}},
			does: "mark 53800005, lower 172.18.0.2:0"},
		"stays out of rotation": {want: want(lb.Backend{Addr: a}), entry: mark | noNewConns, dests: held{a: {}}},
		"comes back":            {want: want(lb.Backend{Addr: a, Weight: 1}), entry: mark | noNewConns, dests: held{a: {}}, does: "raise 172.18.0.2:0 1, mark 53000005"},
		"a drain begins": {want: want(lb.Backend{Addr: a, Until: until}, lb.Backend{Addr: b, Weight: 1}), entry: mark, dests: held{a: {Weight: 1}, b: {Weight: 1}},
			does: "lower 172.18.0.2:0", draining: true},
		"the last drain ends": {want: want(lb.Backend{Addr: a, Until: until}), entry: mark | noNewConns, dests: held{a: {}}, does: "mark 0, delete"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSpace(hostSets, newMarks())
			s.marks.adopt(k, mark)
			if tc.want != nil {
				s.frontends[k] = tc.want
			}
			if set, e := where(k); tc.entry != 0 {
				s.held[set] = entries{e: tc.entry}
			}
			if tc.dests != nil {
				s.table.known[mark] = &ipvs.Virtual{Service: ipvs.Service{Mark: mark, Scheduler: "rr"}, Dests: tc.dests}
			}
			c, writes, err := s.compare(k, noon)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if writes {
				got = c.text(tc.entry)
			}
			if d := cmp.Diff(tc.does, got); d != "" || c.draining != tc.draining {
				t.Errorf("draining %v; %s", c.draining, d)
			}
		})
	}
}

func TestAPublishedPortWithoutATaskInRotationHasNoMark(t *testing.T) {
	k := lb.Key{Protocol: model.TCP, Port: 80}
	a := netip.MustParseAddrPort("172.18.0.2:8080")
	s := newSpace(boxSets, portMarks{})
	s.frontends[k] = &lb.Frontend{Key: k, Scheduler: "rr", Backends: []lb.Backend{{Addr: a}}}
	mark, _ := s.marks.of(k)
	set, e := where(k)
	s.held[set] = entries{e: mark}
	s.table.known[mark] = &ipvs.Virtual{Service: ipvs.Service{Mark: mark, Scheduler: "rr"}, Dests: map[netip.AddrPort]ipvs.Dest{a: {Weight: 1}}}
	c, writes, err := s.compare(k, noon)
	if err != nil || !writes {
		t.Fatal(writes, err)
	}
	if d := cmp.Diff("mark 0, lower 172.18.0.2:8080", c.text(mark)); d != "" {
		t.Error(d)
	}
}
