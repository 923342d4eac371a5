package conformance

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/lb"
	"shoal/model"
)

var meshTests = []test{
	{"ContainersOfDifferentHostsSeeEachOther", between, true},
	{"OnlyHostsOfTheClusterSendIntoTheTunnel", strangersTunnel, true},
	{"AContainerSpeaksForNoHostAndNoOtherContainer", inOthersName, true},
	{"TheMarkOfAPacketDoesNotLeadItsTunnelIntoItself", markedTunnel, true},
	{"ConnectionsBetweenContainersAreLeftAlone", leftAlone, true},
	{"HostsThatForwardNothingElseServeAll", forwardNothing, true},
	{"ClientsKeepTheirAddressWhateverOthersMasquerade", meshMasquerade, true},
	{"OthersMayRestoreMarks", othersMarks, true},
	{"TasksOfADeadHostLeaveAtOnceAndComeBack", deadHost, true},
	{"WhatADeadHostHasNotAnsweredGoesToAnotherTask", unanswered, true},
	{"AHostThatLeavesTheClusterIsNoPeer", leaves, true},
}

func between(t *testing.T, w *world) {
	for _, from := range []string{"a4", "b2", "c1"} {
		for _, to := range []string{"a3", "b1", "c1"} {
			if from == to {
				continue
			}
			for _, network := range []string{"tcp", "udp"} {
				w.evenly(from, network, netip.AddrPortFrom(w.names[to].addr, 80).String(), w.names[from].addr, to)
			}
		}
	}
	// Bridges of one host stay apart, and networks of one host are known to it
	// alone.
	w.unreached("a4", netip.AddrPortFrom(w.names["x1"].addr, 80).String())
	w.unreached("x1", netip.AddrPortFrom(w.names["a4"].addr, 80).String())
	w.unreached("b1", netip.AddrPortFrom(w.names["x1"].addr, 80).String())
	w.unreached("client", netip.AddrPortFrom(w.names["a3"].addr, 80).String())
}

// strangersTunnel has somebody on the link pretend to be host c's end of the
// tunnel.
func strangersTunnel(t *testing.T, w *world) {
	heard := w.hearAll("a3")
	w.edit(w.a, fmt.Sprintf("filter -A INPUT -p udp --dport %d -j ACCEPT", tunnelPort)) // a firewall that lets it in
	w.client.sh(t, fmt.Sprintf(`ip link add fake address %[1]s type vxlan id %[3]d dstport %[4]d local 192.168.88.1 nolearning
		ip addr add %[5]s/32 dev fake; ip link set fake up
		ip neigh add 192.168.88.11 lladdr %[2]s dev fake; bridge fdb add %[2]s dev fake dst 192.168.88.11
		ip route replace 10.244.1.0/24 via 192.168.88.11 dev fake onlink`,
		tunnelMAC(w.hosts[2].node), tunnelMAC(w.a.node), tunnelNumber, tunnelPort, w.names["c1"].addr))
	t.Cleanup(func() {
		w.client.sh(t, "ip link del fake; ip route replace 10.244.1.0/24 via 192.168.88.11")
	})
	pretend := func() {
		w.shout(w.client, w.names["c1"].addr, w.names["a3"].addr, "from a stranger, through the tunnel")
	}
	pretend()
	w.onlyTruth(heard, "c1", "a3")
	// As a host, it is heard.
	b := w.between(w.a)
	b.Hosts = append(b.Hosts, clientAddr)
	slices.SortFunc(b.Hosts, netip.Addr.Compare)
	w.tell(b)
	t.Cleanup(func() { w.tell(w.between(w.a)) })
	pretend()
	select {
	case <-heard:
	case <-time.After(waitLimit):
		t.Error("not heard as a host either: the test shows nothing")
	}
}

// inOthersName has a container of no mesh send into another host's tunnel, which its
// host would masquerade, and in the names of hosts and containers.
func inOthersName(t *testing.T, w *world) {
	x, c := w.names["x2"], w.hosts[2]
	paths := []string{"net/ipv4/conf/all/rp_filter", "net/ipv4/conf/other/rp_filter"}
	w.a.set(t, "0", paths...)
	t.Cleanup(func() { w.a.set(t, "1", paths...) })
	assume := func(source netip.Addr) func() {
		own := netip.PrefixFrom(source, 32)
		x.must(t, func() error { return address("lo", own) })
		return func() { x.must(t, func() error { return noAddress("lo", own) }) }
	}
	heard := w.hearAll("b1", "c1")
	for _, source := range []string{"a4", "b2", "c1"} {
		drop := assume(w.names[source].addr)
		for _, to := range []string{"b1", "c1"} {
			if w.hostOf(source) != w.hostOf(to) {
				w.shout(x, w.names[source].addr, w.names[to].addr, "in the name of "+source+", by "+to)
			}
		}
		drop()
	}
	defer assume(w.names["a4"].addr)()
	for name, outer := range map[string]netip.Addr{"its own": x.addr, "host b's": w.hosts[1].node.Addr} {
		if outer != x.addr {
			defer assume(outer)()
		}
		x.sh(t, fmt.Sprintf(`ip link add fake address %[1]s type vxlan id %[2]d dstport %[3]d local %[4]s nolearning; ip link set fake up
			ip neigh add %[5]s lladdr %[6]s dev fake; bridge fdb add %[6]s dev fake dst %[5]s
			ip route add %[7]s via %[5]s dev fake onlink`,
			tunnelMAC(w.a.node), tunnelNumber, tunnelPort, outer, c.node.Addr, tunnelMAC(c.node), c.node.Subnet))
		w.shout(x, w.names["a4"].addr, w.names["c1"].addr, "through the tunnel, from "+name+" address")
		x.sh(t, "ip link del fake")
	}
	w.onlyTruth(heard, "a4", "b1", "c1")
}

// The outer packet of a tunnel inherits the mark of the inner one. Where others
// route by marks, it would be routed into the tunnel again.
func markedTunnel(t *testing.T, w *world) {
	w.edit(w.a, "mangle -A PREROUTING -s "+w.names["a4"].addr.String()+" -j MARK --set-mark 0x77")
	w.a.sh(t, "ip rule add fwmark 0x77 lookup 77; ip route add default via 192.168.88.13 dev "+tunnel+" onlink table 77")
	t.Cleanup(func() { w.a.sh(t, "ip rule del fwmark 0x77 lookup 77; ip route flush table 77") })
	for _, network := range []string{"tcp", "udp"} {
		w.evenly("a4", network, netip.AddrPortFrom(w.names["c1"].addr, 80).String(), w.names["a4"].addr, "c1")
	}
}

// tell has host a's plane let something else pass between hosts.
func (w *world) tell(b lb.Between) {
	w.t.Helper()
	w.a.must(w.t, func() error {
		_, err := w.a.dp.Between(context.Background(), b)
		return err
	})
}

func leftAlone(t *testing.T, w *world) {
	w.wide()
	from, to := w.names["a4"].addr, w.names["c1"].addr
	w.hold("a4", "tcp", netip.AddrPortFrom(to, 80).String())
	found := false
	w.hosts[2].must(t, func() error {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		for _, f := range flows {
			src, _ := netip.AddrFromSlice(f.Forward.SrcIP)
			dst, _ := netip.AddrFromSlice(f.Forward.DstIP)
			if src.Unmap() == from && dst.Unmap() == to {
				found = true
				if f.Mark != 0 {
					t.Errorf("the connection has the mark %#x, want none: %s", f.Mark, f)
				}
			}
		}
		return err
	})
	if !found {
		t.Error("the host of the task does not track the connection")
	}
}

func forwardNothing(t *testing.T, w *world) {
	for _, h := range w.hosts {
		for _, r := range rulesOf(h.engineRules(), "filter") {
			if strings.Contains(r, "-A FORWARD") && strings.HasSuffix(r, "-j ACCEPT") {
				w.edit(h, strings.Replace(r, " -A ", " -D ", 1))
			}
		}
	}
	w.wide()
	for _, network := range []string{"tcp", "udp"} {
		for _, from := range []string{"client", "a", "b", "a4"} {
			w.evenly(from, network, w.a.at(8000), netip.Addr{}, "a1", "b1", "c1")
		}
		w.evenly("a4", network, vip+":80", netip.Addr{}, "a1", "b1", "c1")
	}
}

func meshMasquerade(t *testing.T, w *world) {
	for _, h := range w.hosts {
		w.edit(h, "nat -A POSTROUTING -j MASQUERADE")
	}
	w.wide()
	for _, network := range []string{"tcp", "udp"} {
		for _, h := range w.hosts {
			w.evenly("client", network, h.at(8000), clientAddr, "a1", "b1", "c1")
		}
	}
}

// A tunnel that takes the host's default route, as wg-quick(8) makes it, gives
// every packet of UDP the mark of its connection, and a connection that it sends
// one of its own.
func othersMarks(t *testing.T, w *world) {
	for _, h := range w.hosts {
		w.edit(h, "mangle -I PREROUTING -p udp -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
			"mangle -I POSTROUTING -p udp -m mark --mark 0xca6c -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff")
	}
	w.wide()
	for _, network := range []string{"tcp", "udp"} {
		for _, h := range w.hosts {
			w.evenly("client", network, h.at(8000), clientAddr, "a1", "b1", "c1")
			c := w.hold("client", network, h.at(8000))
			for range 3 { // later packets of one connection
				if network == "tcp" {
					if err := c.echo(); err != nil {
						t.Errorf("tcp by %s: %v", h.name, err)
					}
				} else if err := c.hear(waitLimit); err != nil {
					t.Errorf("udp by %s: %v", h.name, err)
				}
			}
		}
	}
}

// unanswered: a client whose first packet a dead host never got sends it again, and so may
// another one from the same port.
func unanswered(t *testing.T, w *world) {
	w.wide()
	b, dst := w.hosts[1], w.names["b1"].addr
	type way struct{ from, to string }
	ways := []way{{"client", w.a.at(8000)}}
	if !w.plane.leads("tcp") { // what is led is the task's from the beginning
		ways = append(ways, way{"a4", vip + ":80"})
	}
	var kept []*conn // they keep the task from being gone at once
	for _, c := range ways {
		kept = append(kept, w.holdAt("b1", c.from, "tcp", c.to))
		for range 2 { // after which it is b1's turn again
			if a, err := w.names[c.from].ask("tcp", c.to); err != nil || a.task == "b1" {
				t.Fatalf("%q answers: %v", a.task, err)
			}
		}
	}
	w.edit(b, fmt.Sprintf("raw -I PREROUTING -d %v -j DROP", dst))
	done := make(chan error, len(ways))
	for _, c := range ways {
		go func() {
			a, err := w.names[c.from].ask("tcp", c.to)
			if err != nil || a.task == "b1" {
				err = fmt.Errorf("%s to %s: %q answers: %w", c.from, c.to, a.task, err)
			}
			done <- err
		}()
	}
	select {
	case err := <-done:
		t.Fatalf("a dead host answers, or it was not its turn: %v", err)
	case <-time.After(silence):
	}
	w.lose("web", "b1", 0)
	w.reconcile()
	for open := len(ways); open > 0; {
		select {
		case err := <-done:
			open--
			if err != nil {
				t.Error(err)
			}
		case <-time.After(firstLook):
			w.pass(w.a, false)
		}
	}
	w.edit(b, fmt.Sprintf("raw -D PREROUTING -d %v -j DROP", dst))
	for _, c := range kept {
		if err := c.echo(); err != nil {
			t.Errorf("a connection that the host had answered: %v", err)
		}
	}
}

// firstLook is when a plane looks at what drains.
const firstLook = 200 * time.Millisecond

func deadHost(t *testing.T, w *world) {
	w.wide()
	held := map[string]*conn{
		"VIP":            w.holdAt("b1", "a4", "tcp", vip+":80"),
		"published port": w.holdAt("b1", "client", "tcp", w.a.at(8000)),
	}
	w.lose("web", "b1", 0)
	w.dead["b"] = true
	w.reconcile()
	for _, network := range []string{"tcp", "udp"} {
		w.evenly("a4", network, vip+":80", netip.Addr{}, "a1", "c1")
		w.evenly("client", network, w.a.at(8000), clientAddr, "a1", "c1")
	}
	for what, c := range held {
		if err := c.echo(); err != nil {
			t.Errorf("a connection by the %s, that a host considered dead may still have: %v", what, err)
		}
	}
	w.lose("web", "b1", lb.LostGrace)
	w.reconcile()
	for _, c := range held {
		w.learns(c)
	}
	w.task("web", "b1").State = model.Running
	w.dead["b"] = false
	w.reconcile()
	for _, network := range []string{"tcp", "udp"} {
		w.evenly("a4", network, vip+":80", netip.Addr{}, "a1", "b1", "c1")
		w.evenly("client", network, w.a.at(8000), clientAddr, "a1", "b1", "c1")
	}
}

func leaves(t *testing.T, w *world) {
	w.wide()
	w.nodes = w.hosts[:2]
	w.gone("web", "c1")
	w.reconcile()
	for _, h := range w.hosts[:2] {
		w.evenly("client", "tcp", h.at(8000), clientAddr, "a1", "b1")
		w.nothingWritten(h, true, "after a host has left")
	}
	w.nodes = w.hosts
	w.wide()
	for _, h := range w.hosts {
		w.evenly("client", "tcp", h.at(8000), clientAddr, "a1", "b1", "c1")
	}
}
