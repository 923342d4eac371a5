package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"shoal/cluster"
)

func TestWhoIsLetInToTheAgentsPorts(t *testing.T) {
	a, b, c := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	now := time.Now()
	d := newDoors()
	told := func() bool {
		select {
		case <-d.changed:
			return true
		default:
			return false
		}
	}
	let := func(at time.Time, want ...netip.Addr) {
		t.Helper()
		got := d.addrs(at)
		slices.SortFunc(got, netip.Addr.Compare)
		if got = slices.Compact(got); !slices.Equal(got, want) {
			t.Errorf("let in are %v, want %v", got, want)
		}
		for _, addr := range []netip.Addr{a, b, c} {
			if d.admits(addr, at) != slices.Contains(want, addr) {
				t.Errorf("%s is let in: %t, but those that are, are %v", addr, d.admits(addr, at), want)
			}
		}
	}
	let(now)
	d.setMembers([]cluster.Member{{Addr: b}, {Addr: a}})
	if !told() {
		t.Error("new members are told to nobody")
	}
	d.setMembers([]cluster.Member{{Addr: a}, {Addr: b}})
	d.greet(a, now)
	if told() {
		t.Error("what is known already is told again")
	}
	d.greet(c, now) // a host that has moved
	if !told() {
		t.Error("a new address is told to nobody")
	}
	let(now.Add(greetingLasts-time.Second), a, b, c)
	let(now.Add(greetingLasts), a, b)
	d.setMembers(nil)
	let(now.Add(greetingLasts))
}

// TestGuardedPortsAreThoseThatAreShoals: of a lone host only the one by which hosts join.
func TestGuardedPortsAreThoseThatAreShoals(t *testing.T) {
	h := newMember(t, 19)
	h.start()
	g := h.m.guard()
	if len(g.TCP)+len(g.UDP) > 0 || g.Join != cluster.DefaultPort {
		t.Errorf("a lone host guards %+v", g)
	}
	if err := h.m.receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	if g := h.m.guard(); !slices.Equal(g.TCP, []uint16{7946, 2379, 2380}) || !slices.Equal(g.UDP, []uint16{7946}) || len(g.RemoteTCP) != 4 {
		t.Errorf("a server of the store guards %+v", g)
	}
}

// TestStrangersDoNotTakeTheJoiningPort from hosts of the cluster, by connections that say nothing from many addresses.
func TestStrangersDoNotTakeTheJoiningPort(t *testing.T) {
	h := newMember(t, 20)
	h.start()
	if err := h.m.receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(h.c.Advertise, cluster.DefaultPort)
	for from := range 16 {
		for range 64 {
			dialFrom(t, fmt.Sprintf("127.252.0.%d", 1+from), at.String())
		}
	}
	// The client connects from this host's own address, which is a member's.
	if err := sayHello(t.Context(), h.m.id.HTTPClient(), at); err != nil {
		t.Errorf("a member is not served: %v", err)
	}
}
