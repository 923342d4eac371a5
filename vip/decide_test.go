package vip

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/model"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func id(name string) model.ServiceID { return model.ServiceID{Stack: "s", Name: name} }

// service describes one for a test: "NAME [@HOST] [has=ADDR] [asks=ADDR] [dnsrr]
// [idle=DURATION]". Without @HOST it has a task on host a; an idle one has none.
func service(t *testing.T, line string) *model.Service {
	t.Helper()
	f := strings.Fields(line)
	svc := &model.Service{ID: id(f[0]), Spec: model.Spec{Mode: model.ModeVIP}}
	node := "a"
	for _, w := range f[1:] {
		k, v, _ := strings.Cut(w, "=")
		switch k {
		case "has":
			svc.VIP = addr(v)
		case "asks":
			svc.Spec.VIP = addr(v)
		case "dnsrr":
			svc.Spec.Mode = model.ModeDNSRR
		case "idle":
			d, err := time.ParseDuration(v)
			if err != nil {
				t.Fatal(err)
			}
			svc.IdleSince = now.Add(-d)
		default:
			node = strings.TrimPrefix(k, "@")
		}
	}
	if svc.IdleSince.IsZero() {
		svc.Tasks = []*model.Task{{Service: svc.ID, Node: node, Spec: &svc.Spec}}
	}
	return svc
}

func TestDecide(t *testing.T) {
	for _, test := range []struct {
		name     string
		pool     string // "10.0.0.0/29" if ""
		reserved string
		reclaim  time.Duration
		rest     time.Duration
		resting  string // addresses
		services string // a line each
		claims   string // "NAME=ADDR" or "NAME=ADDR<FROM"
		problems string // "NAME: code[: part of the reason]", a line each
	}{
		// In this pool the searches for x, y and z start at .5, .2 and .0.
		{name: "each from its own place", services: "x\ny\nz", claims: "x=10.0.0.5 y=10.0.0.2 z=10.0.0.1"},
		{name: "held and reserved are left out", reserved: "10.0.0.5", services: "w @b has=10.0.0.3\nx\ny has=10.0.0.4\nz", claims: "x=10.0.0.6 z=10.0.0.1"},
		{name: "the network's address and the broadcast never", services: "v @b has=10.0.0.5\nw @b has=10.0.0.6\nx", claims: "x=10.0.0.1"},
		{name: "an idle service keeps its own", services: "x\ny idle=1h has=10.0.0.5", claims: "x=10.0.0.6"},
		{name: "other hosts claim for theirs", services: "x @b\ny", claims: "y=10.0.0.2"},
		{name: "dnsrr needs none", services: "x dnsrr\ny", claims: "y=10.0.0.2"},
		{name: "asked ones first, and never given to others", services: "x\ny asks=10.0.0.5\nz @b asks=10.0.0.6", claims: "y=10.0.0.5 x=10.0.0.1"},
		{name: "asked and had", services: "x has=10.0.0.3 asks=10.0.0.3"},
		{name: "asked is another's", services: "x asks=10.0.0.3\ny has=10.0.0.3", problems: "x: vip-taken: the VIP of s/y"},
		{name: "asked by two", services: "x asks=10.0.0.3\ny asks=10.0.0.3", claims: "x=10.0.0.3", problems: "y: vip-taken: asked for by s/x too"},
		{name: "asked by one that cannot have it", services: "w dnsrr asks=10.0.0.3\nx has=10.0.0.1 asks=10.0.0.3\ny asks=10.0.0.3", claims: "y=10.0.0.3", problems: "x: vip-fixed: it has 10.0.0.1"},
		{name: "asked outside", services: "x asks=10.0.1.3\ny asks=fd00::1", problems: "x: vip-outside-pool\ny: vip-outside-pool"},
		{name: "asked reserved", reserved: "10.0.0.5", services: "x asks=10.0.0.0\ny asks=10.0.0.5\nz asks=10.0.0.7", problems: "x: vip-reserved\ny: vip-reserved\nz: vip-reserved"},
		{name: "asked too late", services: "x has=10.0.0.1 asks=10.0.0.3", problems: "x: vip-fixed: shoal service rm s/x"},
		{name: "has one outside", services: "x has=10.9.0.1", problems: "x: vip-outside-pool"},
		{name: "full", pool: "10.0.0.0/30", services: "x\ny\nz", claims: "x=10.0.0.1 y=10.0.0.2", problems: "z: vip-pool-full: 10.0.0.0/30"},
		{name: "full, reclaim not allowed", pool: "10.0.0.0/30", services: "x has=10.0.0.1\ny has=10.0.0.2 idle=99h\nz", problems: "z: vip-pool-full"},
		{name: "full, longest idle first", pool: "10.0.0.0/29", reclaim: time.Hour, services: "a has=10.0.0.1\nb has=10.0.0.2 idle=2h\nc has=10.0.0.3 idle=3h\nd has=10.0.0.4 idle=59m\ne\nf\ng\nh\ni",
			claims: "e=10.0.0.6 f=10.0.0.5 g=10.0.0.3<c h=10.0.0.2<b", problems: "i: vip-pool-full"},
		{name: "full, long idle, but clients may still use it", pool: "10.0.0.0/30", reclaim: time.Minute, rest: time.Hour, services: "a has=10.0.0.1 idle=59m\nb has=10.0.0.2\nc", problems: "c: vip-pool-full"},
		{name: "full, and idle for longer than clients use it", pool: "10.0.0.0/30", reclaim: time.Minute, rest: time.Hour, services: "a has=10.0.0.1 idle=61m\nb has=10.0.0.2\nc", claims: "c=10.0.0.1<a"},
		{name: "what rests is given to nobody", resting: "10.0.0.1 10.0.0.3", services: "a\nb", claims: "a=10.0.0.2 b=10.0.0.4"},
		{name: "full of what rests", pool: "10.0.0.0/30", resting: "10.0.0.1 10.0.0.2", services: "a", problems: "a: vip-pool-full"},
		{name: "asked rests", resting: "10.0.0.3", services: "a asks=10.0.0.3", problems: "a: vip-resting: free at"},
		{name: "not full, nothing is reclaimed", reclaim: time.Hour, services: "b has=10.0.0.1 idle=2h\nx", claims: "x=10.0.0.5"},
		{name: "two addresses have no broadcast", pool: "10.0.0.0/31", services: "x", claims: "x=10.0.0.1"},
		{name: "a pool written with host bits", pool: "10.0.0.6/29", services: "x", claims: "x=10.0.0.5"},
		{name: "IPv6", pool: "fd00:1::/64", reserved: "fd00:1::1", services: "x\ny asks=fd00:1::ffff:0:0:1\nz", claims: "y=fd00:1::ffff:0:0:1 x=fd00:1::d596:c6fd z=fd00:1::d396:c3d7"},
		{name: "IPv6 up to its last address", pool: "fd00::/126", services: "x\ny\nz", claims: "x=fd00::1 y=fd00::2 z=fd00::3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := Options{Pool: netip.MustParsePrefix("10.0.0.0/29"), ReclaimIdle: test.reclaim, Rest: test.rest}
			l := learnt{resting: map[netip.Addr]time.Time{}}
			for _, r := range strings.Fields(test.resting) {
				l.resting[addr(r)] = now.Add(time.Minute)
			}
			if test.pool != "" {
				o.Pool = netip.MustParsePrefix(test.pool)
			}
			for _, r := range strings.Fields(test.reserved) {
				o.Reserved = append(o.Reserved, addr(r))
			}
			s := &model.Snapshot{Self: model.Node{Name: "a"}}
			for line := range strings.Lines(test.services) {
				s.Services = append(s.Services, service(t, line))
			}
			claims, failed := decide(o, s, l, now)
			var got []string
			for _, c := range claims {
				g := c.Service.Name + "=" + c.Addr.String()
				if c.From.Name != "" {
					g += "<" + c.From.Name
				}
				got = append(got, g)
			}
			if g := strings.Join(got, " "); g != test.claims {
				t.Errorf("claims %q, want %q", g, test.claims)
			}
			var want []string
			if test.problems != "" {
				want = strings.Split(test.problems, "\n")
			}
			if len(failed) != len(want) || slices.ContainsFunc(want, func(w string) bool {
				name, why, _ := strings.Cut(w, ": ")
				code, reason, _ := strings.Cut(why, ": ")
				err := failed[id(name)]
				return err == nil || string(model.CodeOf(err, "none")) != code || !strings.Contains(err.Error(), reason)
			}) {
				t.Errorf("failed %v, want %q", failed, want)
			}
		})
	}
}

func TestTenThousandServicesAreDecidedQuickly(t *testing.T) {
	for _, pool := range []string{"10.96.0.0/16", "fd00::/48"} {
		s := &model.Snapshot{Self: model.Node{Name: "a"}}
		for i := range 10000 {
			s.Services = append(s.Services, service(t, fmt.Sprintf("s%05d", i)))
		}
		start := time.Now()
		claims, failed := decide(Options{Pool: netip.MustParsePrefix(pool)}, s, learnt{}, now)
		if took := time.Since(start); took > time.Second || len(claims) != 10000 || len(failed) > 0 {
			t.Errorf("%s: %d claims and %d failures in %v", pool, len(claims), len(failed), took)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	s := &model.Snapshot{Self: model.Node{Name: "a"}}
	for i := range 10000 {
		s.Services = append(s.Services, &model.Service{ID: id(fmt.Sprintf("s%05d", i)), Spec: model.Spec{Mode: model.ModeVIP},
			Tasks: []*model.Task{{Node: "a"}}})
	}
	for b.Loop() {
		decide(Options{Pool: netip.MustParsePrefix("10.96.0.0/16")}, s, learnt{}, now)
	}
}
