package socket

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal/kernel/cgroups"
	"shoal/lb"
	"shoal/model"
)

var testVIP = netip.MustParseAddr("10.96.0.50")

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// frontOf is a frontend of TCP for every port, with a weight a backend.
func frontOf(scheduler string, weights map[string]int) *lb.Frontend {
	f := &lb.Frontend{Key: lb.Key{VIP: testVIP, Protocol: model.TCP}, Scheduler: scheduler}
	for a, w := range weights {
		f.Backends = append(f.Backends, lb.Backend{Addr: at(a), Weight: w})
	}
	slices.SortFunc(f.Backends, func(a, b lb.Backend) int { return a.Addr.Compare(b.Addr) })
	return f
}

func names(w wanted) (s string) {
	for _, b := range w.slots {
		s += " " + addrPort(b.Addr, b.Port).String()
	}
	return strings.TrimSpace(s)
}

func TestWhatAFrontendHasInTheMaps(t *testing.T) {
	nearest := func(name string) string {
		if name == "wlc" {
			return "wrr"
		}
		return name
	}
	around := surroundings{scheduler: nearest, udp: true, hosts: map[netip.Addr]bool{netip.MustParseAddr("192.168.1.1"): true}}
	udp := frontOf("rr", map[string]int{"10.244.1.2:0": 1})
	udp.Protocol = model.UDP
	for name, tc := range map[string]struct {
		f        *lb.Frontend
		slots    string
		why      string
		noUDP    bool
		affinity time.Duration
	}{
		"in turn":                       {f: frontOf("rr", map[string]int{"10.244.1.2:0": 1, "10.244.1.3:0": 7}), slots: "10.244.1.2:0 10.244.1.3:0"},
		"by weight":                     {f: frontOf("wrr", map[string]int{"10.244.1.2:0": 2, "10.244.1.3:80": 1}), slots: "10.244.1.2:0 10.244.1.3:80 10.244.1.2:0"},
		"by the plane's nearest":        {f: frontOf("wlc", map[string]int{"10.244.1.2:0": 1}), slots: "10.244.1.2:0"},
		"by the address sent to":        {f: frontOf("dh", map[string]int{"10.244.1.2:0": 1}), slots: "10.244.1.2:0"},
		"who drains is left out":        {f: frontOf("rr", map[string]int{"10.244.1.2:0": 0, "10.244.1.3:0": 1}), slots: "10.244.1.3:0"},
		"nobody is in rotation":         {f: frontOf("rr", map[string]int{"10.244.1.2:0": 0}), why: noTask},
		"connections have to be known":  {f: frontOf("lc", map[string]int{"10.244.1.2:0": 1}), why: "the scheduler lc is the data plane's"},
		"a task on a host's network":    {f: frontOf("rr", map[string]int{"10.244.1.2:0": 1, "192.168.1.1:80": 1}), why: hostNetwork},
		"one that is out of rotation":   {f: frontOf("rr", map[string]int{"10.244.1.2:0": 1, "192.168.1.1:80": 0}), slots: "10.244.1.2:0"},
		"UDP":                           {f: udp, slots: "10.244.1.2:0"},
		"UDP that is not led":           {f: udp, noUDP: true, why: udpOff},
		"TCP where UDP is not possible": {f: frontOf("rr", map[string]int{"10.244.1.2:0": 1}), noUDP: true, slots: "10.244.1.2:0"},
	} {
		around.udp = !tc.noUDP
		got, why := around.want(tc.f)
		if names(got) != tc.slots || why != tc.why {
			t.Errorf("%s: slots %q, because %q; want %q, %q", name, names(got), why, tc.slots, tc.why)
		}
	}
}

func TestClientsOfTwoHostsChooseApart(t *testing.T) {
	f := frontOf("mh", map[string]int{"10.244.1.2:0": 1, "10.244.1.3:0": 1})
	salts := map[uint32]bool{}
	for _, self := range []string{"192.168.1.1", "192.168.1.2"} {
		around := surroundings{scheduler: func(s string) string { return s }, self: netip.MustParseAddr(self)}
		w, _ := around.want(f)
		if !w.hash || len(w.slots) != 251 {
			t.Fatalf("by hash: %t, %d slots", w.hash, len(w.slots))
		}
		salts[w.salt] = true
	}
	if len(salts) != 2 {
		t.Errorf("two hosts have the same salt: %v", salts)
	}
}

func TestWhichFrontendsAreInTheMaps(t *testing.T) {
	around := surroundings{dnsPeers: netip.MustParseAddr("10.96.0.11")}
	for k, want := range map[lb.Key]bool{
		{VIP: testVIP, Protocol: model.TCP}:                                     true,
		{VIP: testVIP, Protocol: model.UDP, Port: 53}:                           true,
		{VIP: testVIP, Protocol: model.SCTP, Port: 9}:                           false,
		{Protocol: model.TCP, Port: 8000}:                                       false,
		{VIP: netip.MustParseAddr("10.96.0.11"), Protocol: model.UDP, Port: 53}: false,
		{VIP: netip.MustParseAddr("fd00::1"), Protocol: model.TCP}:              false,
	} {
		if got := around.ours(k); got != want {
			t.Errorf("%s: %t, want %t", k, got, want)
		}
	}
}

func TestNobodyIsLedToWhomThePlaneBehindDoesNotKnow(t *testing.T) {
	slots := func(s string) (w wanted) {
		for _, a := range strings.Fields(s) {
			w.slots = append(w.slots, targetOf(at(a)))
		}
		return w
	}
	const a, b, c = "10.244.1.2:0", "10.244.1.3:0", "10.244.1.4:0"
	for name, tc := range map[string]struct{ have, want, first string }{
		"nothing changes":        {a + " " + b, a + " " + b, a + " " + b},
		"one leaves":             {a + " " + b, b, b},
		"all leave":              {a + " " + b, "", ""},
		"one comes":              {a, a + " " + b, a},
		"one leaves, one comes":  {a + " " + b, b + " " + c, b},
		"all leave, others come": {a, c, ""},
		"weights change":         {a + " " + b, a + " " + b + " " + a, a + " " + b + " " + a},
		"one leaves by its port": {"10.244.1.2:80", "10.244.1.2:81", ""},
	} {
		have, want := slots(tc.have), slots(tc.want)
		if got := have.first(&want); names(got) != tc.first {
			t.Errorf("%s: first %q, want %q", name, names(got), tc.first)
		}
	}
}

func TestWhenAConnectionEnds(t *testing.T) {
	now := time.Unix(1000, 0)
	f := &lb.Frontend{Backends: []lb.Backend{
		{Addr: at("10.244.1.2:0"), Weight: 1},
		{Addr: at("10.244.1.3:80"), Weight: 0},
		{Addr: at("10.244.1.4:0"), Until: now.Add(time.Minute)},
		{Addr: at("10.244.1.5:0"), Until: now},
		{Addr: at("10.244.1.6:0"), Lost: true, Until: now.Add(time.Second)},
		{Addr: at("10.244.1.7:0"), Lost: true, Until: now},
	}}
	datagrams := &lb.Frontend{Key: lb.Key{Protocol: model.UDP}, Backends: []lb.Backend{
		{Addr: at("10.244.1.2:0"), Weight: 1}, {Addr: at("10.244.1.3:0"), Local: true}, {Addr: at("10.244.1.4:0"), Local: true, Until: now.Add(time.Minute)},
	}}
	for name, tc := range map[string]struct {
		f    *lb.Frontend
		task string
		ends bool
		in   time.Duration // 0: not as far as is known
	}{
		"a task in rotation":           {f, "10.244.1.2:80", false, 0},
		"one out of it":                {f, "10.244.1.3:80", false, 0},
		"another port of it":           {f, "10.244.1.3:81", true, 0},
		"one that drains":              {f, "10.244.1.4:80", false, time.Minute},
		"one whose drain is over":      {f, "10.244.1.5:80", true, 0},
		"a host that just died":        {f, "10.244.1.6:80", false, time.Second},
		"one that died some time ago":  {f, "10.244.1.7:80", true, 0},
		"UDP, in rotation":             {datagrams, "10.244.1.2:80", false, 0},
		"UDP, out of it":               {datagrams, "10.244.1.3:80", true, 0},
		"UDP, draining":                {datagrams, "10.244.1.4:80", true, 0},
		"no task any more":             {f, "10.244.1.9:80", true, 0},
		"of a service that is no more": {nil, "10.244.1.2:80", true, 0},
	} {
		ends, next := ended(tc.f, at(tc.task), now)
		want := time.Time{}
		if tc.in > 0 {
			want = now.Add(tc.in)
		}
		if ends != tc.ends || !next.Equal(want) {
			t.Errorf("%s: ends %t at %v, want %t at %v", name, ends, next, tc.ends, want)
		}
	}
}

func TestClassifiersThatKeepSocketsAway(t *testing.T) {
	const at, root = "/sys/fs/cgroup/unified/a", "/sys/fs/cgroup/unified"
	for _, tc := range []struct {
		h               cgroups.Hierarchy
		cgroup, release string
		ok              bool
	}{
		{cgroups.Hierarchy{NetCls: true}, at, "5.10.0-8-amd64", false},
		{cgroups.Hierarchy{NetPrio: true}, at, "5.14.19", false},
		{cgroups.Hierarchy{NetCls: true, NetPrio: true}, at, "5.15.0", true},
		{cgroups.Hierarchy{NetCls: true, NetPrio: true}, at, "6.18.44-fc-v657", true},
		{cgroups.Hierarchy{}, at, "5.10.0", true},
		{cgroups.Hierarchy{NetCls: true, Path: root, Whole: true}, root + "/", "5.10.0", true},
		{cgroups.Hierarchy{NetCls: true, Path: root}, root, "5.10.0", false}, // a container sees its part for the root
	} {
		if err := classifiers(tc.h, tc.cgroup, tc.release); (err == nil) != tc.ok {
			t.Errorf("%s, %+v, at %s: %v", tc.release, tc.h, tc.cgroup, err)
		}
	}
}

func TestEntriesAreReadAsTheyWereWritten(t *testing.T) {
	k := lb.Key{VIP: testVIP, Protocol: model.UDP, Port: 53}
	if got := keyOf(k).key(); got != k {
		t.Errorf("%s is read as %s", k, got)
	}
	w := wanted{hash: true, affinity: time.Minute, salt: 7}
	s := w.encode(k, 3, 4)
	if d := cmp.Diff(w, s.decode(), cmp.AllowUnexported(wanted{})); d != "" {
		t.Errorf("an entry is read otherwise (-want +got):\n%s", d)
	}
	p := peer{VIP: [4]byte{10, 96, 0, 50}, VIPPort: port(80), Task: [4]byte{10, 244, 1, 2}, TaskPort: port(8080)}
	if p.vip() != at("10.96.0.50:80") || p.task() != at("10.244.1.2:8080") {
		t.Errorf("a peer is read as %s, %s", p.vip(), p.task())
	}
}
