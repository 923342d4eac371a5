//go:build e2e

package watch

import (
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

func TestChangesOfWhatIsOursAreTold(t *testing.T) {
	// The thread ends with the test, so it need not come back.
	runtime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	changed, err := Start(t.Context(), Interest{
		Devices:   func(name string) bool { return strings.HasPrefix(name, "shoal") },
		Addresses: true, Protocols: []uint8{83}, Priorities: []uint32{540},
	})
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	told := func(what string) {
		t.Helper()
		select {
		case <-changed:
		case <-time.After(5 * time.Second):
			t.Errorf("%s: it was not told", what)
		}
		for more := true; more; { // one change may be told in several messages
			select {
			case <-changed:
			case <-time.After(2 * quietTime):
				more = false
			}
		}
	}
	bridge := func(name string) netlink.Link {
		t.Helper()
		l := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
		must(netlink.LinkAdd(l))
		must(netlink.LinkSetUp(l))
		return l
	}
	own := bridge("shoal0")
	told("a device of ours comes")
	lo, err := netlink.LinkByName("lo")
	must(err)
	must(netlink.LinkSetUp(lo))
	other := bridge("other0")
	told("a device comes that may have had routes")
	must(netlink.AddrAdd(other, &netlink.Addr{IPNet: network("192.0.2.1/24")}))
	told("an address comes")

	// What is others' is not told: the next signal is of what is done after it.
	container := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth0", MasterIndex: other.Attrs().Index}, PeerName: "veth1"}
	must(netlink.LinkAdd(container))
	must(netlink.LinkSetUp(container))
	must(netlink.LinkSetDown(other))
	rule := netlink.NewRule()
	rule.Priority, rule.Table, rule.Mark = 541, 7, 7
	must(netlink.RuleAdd(rule))
	must(netlink.RuleDel(rule))
	must(netlink.RouteAdd(&netlink.Route{LinkIndex: own.Attrs().Index, Dst: network("198.51.100.0/24"), Protocol: 4}))
	must(netlink.RouteDel(&netlink.Route{LinkIndex: own.Attrs().Index, Dst: network("198.51.100.0/24"), Protocol: 4}))
	select {
	case <-changed:
		t.Error("a change of what is others' was told")
	case <-time.After(4 * quietTime):
	}

	must(netlink.LinkSetUp(other))
	told("a device is set up again")
	ours := &netlink.Route{LinkIndex: other.Attrs().Index, Dst: network("203.0.113.0/24"), Protocol: 83}
	must(netlink.RouteAdd(ours))
	must(netlink.RouteDel(ours))
	told("a route of ours goes")
	rule.Priority = 540
	must(netlink.RuleAdd(rule))
	must(netlink.RuleDel(rule))
	told("a routing rule of ours goes")
	must(netlink.AddrDel(other, &netlink.Addr{IPNet: network("192.0.2.1/24")}))
	told("an address goes")
	must(netlink.LinkSetDown(own))
	told("a device of ours is set down")
	must(netlink.LinkDel(own))
	told("a device of ours goes")
}

func network(s string) *net.IPNet {
	ip, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	n.IP = ip
	return n
}
