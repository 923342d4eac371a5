//go:build e2e

package ingress

import (
	"cmp"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"shoal/kernel"
)

// manyHosts puts the test into a network namespace of its own, for good, and has the
// replies of n hosts led to as many next hops.
func manyHosts(t *testing.T, n int) (ways []returnRoute) {
	t.Helper()
	runtime.LockOSThread()
	if _, err := netns.New(); err != nil {
		t.Fatal(err)
	}
	l := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "out"}} // without ports: what leaves by it is gone
	if err := cmp.Or(netlink.LinkAdd(l), netlink.LinkSetARPOff(l), netlink.LinkSetUp(l),
		netlink.AddrAdd(l, &netlink.Addr{IPNet: netlink.NewIPNet(netip.MustParseAddr("10.9.255.1").AsSlice())}),
		netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: everywhere, Scope: netlink.SCOPE_LINK})); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		number := uint16(i + 1)
		ways = append(ways, returnRoute{mark: packetMark(number), index: l.Attrs().Index, onlink: true,
			gw: netip.AddrFrom4([4]byte{10, 9, byte(number >> 8), byte(number)})})
	}
	if err := route(ways); err != nil {
		t.Fatal(err)
	}
	return ways
}

// awayFor is how long packets with a mark take to leave, in nanoseconds each: the quickest of
// several bursts. For each the kernel looks for a route.
func awayFor(t *testing.T, mark uint32) float64 {
	t.Helper()
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	if err := unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
		t.Fatal(err)
	}
	const burst = 5000
	to := &unix.SockaddrInet4{Port: 9, Addr: probeAddr.As4()}
	best := time.Hour
	for range 10 {
		begun := time.Now()
		for range burst {
			if err := unix.Sendto(s, []byte("reply"), 0, to); err != nil {
				t.Fatal(err)
			}
		}
		best = min(best, time.Since(begun))
	}
	return float64(best.Nanoseconds()) / burst
}

// TestRepliesAmongAThousandHosts: each goes the way of its host, at a cost that hardly grows
// with hosts; what was deleted is made again; and nothing is left in the end.
func TestRepliesAmongAThousandHosts(t *testing.T) {
	const hosts = 1000
	ways := manyHosts(t, hosts)
	for _, w := range ways {
		r, err := kernel.RouteTo(probeAddr, w.mark)
		if err != nil || r == nil || r.Table != int(w.mark) || !slices.Equal(r.Gw.To4(), w.gw.AsSlice()) {
			t.Fatalf("the replies of mark %#x go by %v (%v), want by %v", w.mark, r, err, w.gw)
		}
	}
	before := kernel.Total()
	if err := route(ways); err != nil || kernel.Total() != before {
		t.Errorf("a pass over what stands wrote %d times (%v)", kernel.Total()-before, err)
	}

	none, first, last := awayFor(t, 0), awayFor(t, ways[0].mark), awayFor(t, ways[hosts-1].mark)
	t.Logf("a packet leaves after %.0f ns without a mark, %.0f and %.0f ns with that of the first and last host of %d", none, first, last, hosts)
	if last > 3*none {
		t.Errorf("a reply's way costs %.1f times that of a packet without a mark, want 3 at the most", last/none)
	}

	rules, err := ourRules()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		if r.Priority <= leadPriority || r.Priority == endPriority {
			if err := netlink.RuleDel(&r); err != nil {
				t.Fatal(err)
			}
		}
	}
	// An earlier version's rules, which lead to the same tables.
	for _, k := range []ruleKey{
		{priority: planePriority, mark: ways[3].mark, mask: 0xff00ffff, table: int(ways[3].mark), protocol: 2},
		{priority: leadPriority, protocol: 2},
		{priority: pastPriority, mark: 0x55000000, mask: 0xff000000, inverted: true, goesTo: leadPriority, protocol: 2},
	} {
		if err := netlink.RuleAdd(k.rule()); err != nil {
			t.Fatal(err)
		}
	}
	ways = ways[:hosts-1] // and one host is gone
	if err := route(ways); err != nil {
		t.Fatal(err)
	}
	if rules, err = ourRules(); err != nil {
		t.Fatal(err)
	}
	marks := make([]uint32, 0, len(ways))
	for _, w := range ways {
		marks = append(marks, w.mark)
	}
	stand := map[ruleKey]int{}
	for _, r := range rules {
		stand[keyOf(&r)]++
	}
	for _, k := range rulesFor(marks) {
		if stand[k] != 1 {
			t.Errorf("%d rules are %+v, want one", stand[k], k)
		}
		delete(stand, k)
	}
	if len(stand) > 0 {
		t.Errorf("rules that are not wanted: %+v", stand)
	}
	for _, mark := range []uint32{ways[3].mark, ways[hosts-2].mark} {
		if r, err := kernel.RouteTo(probeAddr, mark); err != nil || r == nil || r.Table != int(mark) {
			t.Errorf("the replies of mark %#x go by %v (%v)", mark, r, err)
		}
	}
	if r, err := kernel.RouteTo(probeAddr, packetMark(hosts)); err != nil || r == nil || r.Table == int(packetMark(hosts)) {
		t.Errorf("replies of a host that is gone go by %v (%v)", r, err)
	}

	if err := keepRules(nil); err != nil {
		t.Fatal(err)
	}
	if rules, err = ourRules(); err != nil || len(rules) > 0 {
		t.Errorf("in the end there are rules %v (%v)", rules, err)
	}
	left, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range left {
		if uint32(r.Table)&0xff000000 == 0x55000000 {
			t.Error(fmt.Sprint("in the end there is a route ", r))
		}
	}
}
