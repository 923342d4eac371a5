//go:build e2e

package fabric_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	. "shoal/fabric"
	"shoal/fabric/ipip"
	"shoal/fabric/vxlan"
	"shoal/kernel"
	"shoal/kernel/sysctl"
	"shoal/lab"
	"shoal/lab/wait"
	"shoal/lb/ipvs"
	"shoal/model"
)

// pairs are the hosts whose containers reach each other.
var pairs = map[Backend][][2]string{
	HostGW: {{"a", "b"}, {"b", "a"}},
	VXLAN:  {{"a", "b"}, {"a", "c"}, {"c", "b"}},
	IPIP:   {{"a", "b"}, {"a", "c"}, {"c", "b"}},
	Auto:   {{"a", "b"}, {"b", "a"}, {"a", "c"}, {"c", "b"}},
}

func TestContainersOfAllHostsReachEachOther(t *testing.T) {
	for backend, pairs := range pairs {
		t.Run(string(backend), func(t *testing.T) {
			w := newWorld(t, Options{Backend: backend})
			if backend == HostGW {
				delete(w.hosts, "c")
			}
			w.serveAll()
			for _, p := range pairs {
				a, b := w.hosts[p[0]], w.hosts[p[1]]
				if _, _, err := a.container.ask("tcp4", b.addr.String(), 0, 300*time.Millisecond); err == nil {
					t.Fatal("containers reach each other without the fabric: the test shows nothing")
				}
			}
			w.reconcileAll()
			mtu := MTU(backend, 1500)
			for _, p := range pairs {
				a, b := w.hosts[p[0]], w.hosts[p[1]]
				w.reaches(p[0], p[1])

				// Full-size packets.
				got, mss, err := a.container.ask("tcp4", b.addr.String(), 2<<20, 10*time.Second)
				if want := fmt.Sprintf("%s %d", a.addr, 2<<20); err != nil || got != want {
					t.Errorf("%v: 2 MiB by TCP: %q, %v", p, got, err)
				}
				if want := mtu - 40 - 12; mss != want { // IP and TCP headers, timestamps
					t.Errorf("%v: TCP segments of %d, want %d", p, mss, want)
				}
				if err := a.container.ping(b.addr, mtu, waitLimit); err != nil {
					t.Errorf("%v: ping of %d octets that must not be fragmented: %v", p, mtu, err)
				}
				if err := a.container.ping(b.addr, mtu+1, waitLimit); !errors.Is(err, unix.EMSGSIZE) {
					t.Errorf("%v: ping of %d octets: %v, want %v", p, mtu+1, err, unix.EMSGSIZE)
				}

				// The host itself, and a container on another of its networks, reach tasks alone.
				for who, from := range map[string]*space{"the host itself": a.space, "a container on another network": a.other} {
					if _, _, err := from.ask("tcp4", b.addr.String(), 0, 300*time.Millisecond); err == nil {
						t.Errorf("%v: %s reaches a container that is no task", p, who)
					}
				}
				b.task("add")
				if got, _, err := a.ask("tcp4", b.addr.String(), 0, waitLimit); err != nil {
					t.Errorf("%v: from the host itself: %q, %v", p, got, err)
				}
				if got, _, err := a.other.ask("tcp4", b.addr.String(), 0, waitLimit); err != nil || strings.HasPrefix(got, "172.30") {
					t.Errorf("%v: from a container on another network: %q, %v", p, got, err)
				}
				b.task("del")
			}
			// Out of the cluster: masqueraded. To a host of it, too.
			w.router.serve("tcp4")
			for name, h := range w.hosts {
				if got, _, err := h.container.ask("tcp4", outside, 0, waitLimit); err != nil || !strings.HasPrefix(got, h.node.Addr.String()+" ") {
					t.Errorf("container of %s to the outside: seen as %q, %v", name, got, err)
				}
			}
			if got, _, err := w.hosts["a"].container.ask("tcp4", hostB.Addr.String(), 0, waitLimit); err != nil || !strings.HasPrefix(got, hostA.Addr.String()+" ") {
				t.Errorf("container of a to host b: seen as %q, %v", got, err)
			}
		})
	}
}

func TestEveryRuleIsNeeded(t *testing.T) {
	for _, backend := range []Backend{VXLAN, IPIP} {
		t.Run(string(backend), func(t *testing.T) {
			w := newWorld(t, Options{Backend: backend})
			w.serveAll()
			w.reconcileAll()
			a, c := w.hosts["a"], w.hosts["c"]
			c.task("add")
			tcp := func(from, to *host) error {
				got, _, err := from.container.ask("tcp4", to.addr.String(), 0, time.Second)
				if err == nil && !strings.HasPrefix(got, from.addr.String()+" ") {
					err = fmt.Errorf("seen as %s", got)
				}
				return err
			}
			in := func() error { return tcp(c, a) }
			out := func() error { return tcp(a, c) }
			// As the balancer does for VIPs: from the host's own address.
			own := func() error {
				_, _, err := a.askFrom(a.node.Addr, "tcp4", c.addr.String(), 0, time.Second)
				return err
			}
			for _, tt := range []struct {
				table, chain, number string
				works                func() error
				with                 string // a command before
			}{
				{"raw", chain, "1", in, ""},
				{"nat", chain, "1", out, ""},
				{"nat", chain, "2", own, ""},
				// The first is for addresses that rest, the second keeps hosts from what is no task.
				{"filter", chain, "3", in, ""},
				{"filter", chain, "4", out, "iptables -F FORWARD"},
				{"filter", chainIn, "1", in, "iptables -P INPUT DROP"},
			} {
				if tt.with != "" {
					a.shell(tt.with)
				}
				w.reconcileAll()
				if err := tt.works(); err != nil {
					t.Errorf("%s %s, rule %s: %v", tt.table, tt.chain, tt.number, err)
				}
				a.run("", "iptables", "-t", tt.table, "-D", tt.chain, tt.number)
				if tt.works() == nil {
					t.Errorf("%s %s works without rule %s", tt.table, tt.chain, tt.number)
				}
			}
		})
	}
}

func TestTunnelsTakeAddressesThatAreRoutedElsewhere(t *testing.T) {
	for backend, dev := range map[Backend]string{VXLAN: vxlan.Device, IPIP: ipip.Device} {
		t.Run(string(backend), func(t *testing.T) {
			w := newWorld(t, Options{Backend: backend})
			a, c := w.hosts["a"], w.hosts["c"]
			c.shell("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1")
			w.reconcileAll()
			// What a published port on a hands on to a task on c.
			a.container.run("", "ip", "addr", "add", "198.51.100.9/32", "dev", "lo")
			a.container.run("", "ip", "route", "add", "10.244.3.0/32", "via", "10.244.1.1", "src", "198.51.100.9")
			count := func() string { return echoes(c.space) }
			before := count()
			_ = a.container.ping(addr("10.244.3.0"), 100, 300*time.Millisecond)
			if count() == before {
				t.Error("a packet from an address that is routed elsewhere did not arrive")
			}
			before = count()
			c.do(func() error { return sysctl.Set(sysctl.IPv4(dev, "rp_filter"), "1") })
			_ = a.container.ping(addr("10.244.3.0"), 100, 300*time.Millisecond)
			if count() != before {
				t.Error("it arrives with strict checks too: the test shows nothing")
			}
		})
	}
}

func TestOversizedPacketsAreAnsweredWithTheMTU(t *testing.T) {
	for _, backend := range []Backend{VXLAN, IPIP} {
		t.Run(string(backend), func(t *testing.T) {
			w := newWorld(t, Options{Backend: backend})
			w.reconcileAll()
			a, b := w.hosts["a"], w.hosts["b"]
			big := func(dev string) func() error {
				return func() error {
					l, err := netlink.LinkByName(dev)
					return errors.Join(err, netlink.LinkSetMTU(l, 1500))
				}
			}
			a.container.do(big("eth0"))
			a.do(big("veth1"))
			a.do(big("br-mesh"))
			err := a.container.ping(b.addr, 1500, waitLimit)
			if want := fmt.Sprintf("10.244.1.1 says: unreachable, code 4, MTU %d", MTU(backend, 1500)); err == nil || err.Error() != want {
				t.Errorf("ping of 1500 octets: %v, want %s", err, want)
			}
		})
	}
}

func TestSecondPassAndNewProcessWriteNothing(t *testing.T) {
	for _, backend := range []Backend{Auto, IPIP} {
		t.Run(string(backend), func(t *testing.T) {
			w := newWorld(t, Options{Backend: backend, ChecksumOff: true})
			w.reconcileAll()
			if kernel.Total() == 0 {
				t.Fatal("no writes counted")
			}
			before := kernel.Total()
			w.reconcileAll()
			for _, h := range w.hosts {
				h.restart(w.options)
			}
			w.reconcileAll()
			w.hosts["a"].node.Alive = false // nobody's routes go for that
			w.reconcileAll()
			if n := kernel.Total() - before; n != 0 {
				t.Errorf("%d writes to the kernel with nothing changed", n)
			}
		})
	}
}

func TestWhatOthersBreakIsRepaired(t *testing.T) {
	w := newWorld(t, Options{Backend: Auto})
	w.serveAll()
	w.reconcileAll()
	a := w.hosts["a"]
	good := a.kernel()
	mac := vxlan.VTEPMAC(hostC.Addr).String()
	for name, harm := range map[string][]string{
		"host-gw route deleted":    {"ip route del " + hostB.Subnet.String()},
		"vxlan route deleted":      {"ip route del " + hostC.Subnet.String()},
		"neighbour deleted":        {"ip neigh del 10.2.0.3 dev shoal.vxlan"},
		"forwarding entry deleted": {"bridge fdb del " + mac + " dev shoal.vxlan dst 10.2.0.3"},
		"forwarding entry changed": {"bridge fdb replace " + mac + " dev shoal.vxlan dst 10.1.0.2"},
		"device deleted":           {"ip link del shoal.vxlan"},
		"device set down":          {"ip link set shoal.vxlan down"},
		"another kind of device":   {"ip link del shoal.vxlan", "ip link add shoal.vxlan type bridge"},
		"sets emptied":             {"ipset flush SHOAL-FABRIC-LINKS", "ipset flush SHOAL-FABRIC-NETS", "ipset flush SHOAL-FABRIC-HOSTS"},
		"rules flushed":            nil,
	} {
		t.Run(name, func(t *testing.T) {
			if harm == nil {
				for _, table := range []string{"raw", "mangle", "nat", "filter"} {
					a.run("", "iptables", "-t", table, "-F")
					a.run("", "iptables", "-t", table, "-X")
				}
				a.run(fmt.Sprintf(dockerRules, a.node.Subnet, a.addr), "iptables-restore", "--noflush")
			}
			for _, command := range harm {
				a.shell(command)
			}
			broken := a.kernel()
			if broken == good {
				t.Fatal("nothing is broken: the test shows nothing")
			}
			w.reconcile("a", false)
			if d := cmp.Diff(broken, a.kernel()); d != "" {
				t.Errorf("a pass with nothing new read the kernel: %s", d)
			}
			w.reconcileAll()
			if d := cmp.Diff(steady(good), steady(a.kernel())); d != "" {
				t.Errorf("not repaired: %s", d)
			}
			w.reaches("a", "c")
			w.reaches("c", "a")
			w.reaches("b", "a")
		})
	}
}

// steady is the kernel's state without the numbers of devices, and sorted:
// what is made again comes last.
func steady(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if n, rest, ok := strings.Cut(l, ": "); ok && len(n) < 4 {
			lines[i] = rest
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestRemovedHostLeavesNothing(t *testing.T) {
	w := newWorld(t, Options{Backend: Auto})
	full := w.hosts
	w.hosts = map[string]*host{"a": full["a"]}
	w.reconcileAll()
	alone := full["a"].kernel()

	w.hosts = full
	w.serveAll()
	w.reconcileAll()
	w.reaches("a", "c")

	w.hosts = map[string]*host{"a": full["a"]}
	full["a"].restart(w.options) // it is not from memory
	w.reconcileAll()
	if d := cmp.Diff(alone, full["a"].kernel()); d != "" {
		t.Errorf("left behind by hosts b and c: %s", d)
	}
}

func TestAHostWithAnotherAddressIsFollowed(t *testing.T) {
	for _, test := range []struct {
		backend                Backend
		moves, from, to, route string
	}{
		{Auto, "b", "10.1.0.2", "10.1.0.22", "10.1.0.254"}, // on a's link
		{Auto, "c", "10.2.0.3", "10.2.0.33", "10.2.0.254"}, // behind a router
		{IPIP, "c", "10.2.0.3", "10.2.0.33", "10.2.0.254"},
	} {
		t.Run(fmt.Sprintf("%s, %s", test.backend, test.moves), func(t *testing.T) {
			w := newWorld(t, Options{Backend: test.backend})
			w.serveAll()
			w.reconcileAll()
			moved := w.hosts[test.moves]
			moved.do(func() error {
				l, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				old, _ := netlink.ParseAddr(test.from + "/24")
				return errors.Join(netlink.AddrDel(l, old), giveAddr(l, test.to+"/24"),
					netlink.RouteReplace(&netlink.Route{Gw: net.ParseIP(test.route)}))
			})
			moved.node.Addr = addr(test.to)
			for name := range w.hosts {
				if ps := w.reconcile(name, false); len(ps) > 0 {
					t.Fatalf("problems of %s: %+v", name, ps)
				}
			}
			w.reaches("a", test.moves)
			w.reaches("c", "b")
			w.reaches("b", "c")
			if k := w.hosts["a"].kernel(); strings.Contains(k, test.from+" ") || strings.Contains(k, vxlan.VTEPMAC(addr(test.from)).String()) {
				t.Errorf("the old address is still known:\n%s", k)
			}
		})
	}
}

func TestAnotherBackendLeavesNothingOfTheFormer(t *testing.T) {
	w := newWorld(t, Options{Backend: VXLAN})
	w.serveAll()
	w.reconcileAll()
	backends := []Backend{VXLAN, Auto}
	if lab.Has(t, "ipip") {
		backends = []Backend{IPIP, VXLAN, Auto}
	}
	for _, backend := range backends {
		w.options.Backend = backend
		for _, h := range w.hosts {
			h.restart(w.options)
		}
		w.reconcileAll()
		w.reaches("a", "b")
		w.reaches("c", "a")
		k := w.hosts["a"].kernel()
		if strings.Contains(k, vxlan.Device) != (backend != IPIP) || strings.Contains(k, ipip.Device) != (backend == IPIP) {
			t.Errorf("%s: devices of another backend, or not of this one:\n%s", backend, k)
		}
	}
	if strings.Contains(w.hosts["a"].kernel(), vxlan.VTEPMAC(hostB.Addr).String()) {
		t.Error("b is reached without a tunnel, and has entries of one")
	}
}

func TestDownLeavesTheHostAsItWas(t *testing.T) {
	for _, backend := range []Backend{Auto, IPIP, HostGW} {
		t.Run(string(backend), func(t *testing.T) {
			w := newWorld(t, Options{Backend: backend})
			a := w.hosts["a"]
			theirs := func() error {
				l, err := netlink.LinkByName("eth0")
				return errors.Join(err, netlink.RouteAdd(&netlink.Route{
					Dst: ipNet("10.99.0.0/16"), Gw: net.ParseIP("10.1.0.254"), LinkIndex: l.Attrs().Index, Protocol: unix.RTPROT_STATIC}))
			}
			a.do(theirs)
			before := a.kernel()
			w.reconcile("a", true)
			if a.kernel() == before {
				t.Fatal("nothing was made")
			}
			for range 2 {
				a.do(func() error { return errors.Join(Down(), ipvs.Down(context.Background(), a.plane())) })
				if d := cmp.Diff(before, a.kernel()); d != "" {
					t.Error(d)
				}
			}
		})
	}
}

func TestTroubleWithOneHostLeavesTheOthersAlone(t *testing.T) {
	w := newWorld(t, Options{Backend: Auto})
	w.serveAll()
	w.reconcileAll()
	a := w.hosts["a"]
	a.shell("ip route del " + hostB.Subnet.String())
	a.run("", "ip", "route", "add", "10.244.2.0/24", "via", "10.1.0.254", "proto", "static")
	a.shell("ip route del " + hostC.Subnet.String())
	ps := w.reconcile("a", true)
	if len(ps) != 1 || ps[0].Object != "b" || ps[0].Kind != "node" || !strings.Contains(ps[0].Reason, "ip route del 10.244.2.0/24") {
		t.Errorf("problems: %+v", ps)
	}
	if routes := a.run("", "ip", "route"); !strings.Contains(routes, "10.244.2.0/24 via 10.1.0.254 dev eth0 proto static") {
		t.Errorf("somebody's route was touched:\n%s", routes)
	}
	w.reaches("a", "c")
	since := ps[0].Since
	if ps = w.reconcile("a", true); len(ps) != 1 || !ps[0].Since.Equal(since) {
		t.Errorf("problem is dated anew: %+v", ps)
	}
	a.run("", "ip", "route", "del", "10.244.2.0/24")
	w.reconcileAll()
	w.reaches("a", "b")
}

func TestAMissingFacilityIsOneSentence(t *testing.T) {
	w := newWorld(t, Options{Backend: VXLAN})
	a := w.hosts["a"]
	var c net.PacketConn
	a.do(func() (err error) {
		c, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", vxlan.DefaultPort))
		return err
	})
	ps := w.reconcile("a", true)
	find := func(part string) (p model.Problem) {
		for _, p = range ps {
			if strings.Contains(p.Reason, part) {
				return p
			}
		}
		t.Errorf("no problem says %q: %+v", part, ps)
		return p
	}
	if p := find("choose another by --vxlan-port"); p.Kind != "kernel" || p.Object != vxlan.Device {
		t.Errorf("problem: %+v", p)
	}
	c.Close()
	if ps = w.reconcile("a", false); len(ps) == 0 {
		t.Error("it was tried again at once")
	}
	wait.For(t, 30*time.Second, "another try", func() bool { return len(w.reconcile("a", false)) == 0 })
}

func TestInspectTellsWhatTheKernelDoes(t *testing.T) {
	w := newWorld(t, Options{Backend: Auto, ChecksumOff: true})
	w.reconcileAll()
	a := w.hosts["a"]
	a.do(func() error {
		for _, want := range []Hop{
			{Dst: addr("10.244.3.9"), Node: "c", Ours: true, Way: VXLAN, Device: vxlan.Device, Via: hostC.Addr, Src: addr("10.244.1.0"),
				VTEP: &VTEP{vxlan.VTEPMAC(hostC.Addr), hostC.Addr}, Route: "10.244.3.9 via 10.2.0.3 dev shoal.vxlan src 10.244.1.0", Prefix: hostC.Subnet},
			{Dst: addr("10.244.2.9"), Node: "b", Ours: true, Way: HostGW, Device: "eth0", Via: hostB.Addr, Src: hostA.Addr,
				Route: "10.244.2.9 via 10.1.0.2 dev eth0 src 10.1.0.1", Prefix: hostB.Subnet},
			{Dst: addr("10.244.1.9"), Node: "a", Device: "br-mesh", Src: addr("10.244.1.1"), Route: "10.244.1.9 dev br-mesh src 10.244.1.1", Prefix: hostA.Subnet},
			{Dst: addr("10.1.0.2"), Node: "b", Device: "eth0", Src: hostA.Addr, Route: "10.1.0.2 dev eth0 src 10.1.0.1", Prefix: prefix("10.1.0.0/24")},
		} {
			got, err := a.fabric.Inspect(want.Dst)
			got.MAC = model.MAC{} // it comes and goes
			if d := cmp.Diff(fmt.Sprintf("%+v", flat(want)), fmt.Sprintf("%+v", flat(got))); err != nil || d != "" {
				t.Errorf("%s: %v %s", want.Dst, err, d)
			}
			line, _, _ := strings.Cut(a.shell("ip route get "+want.Dst.String()), " uid")
			if line != got.Route {
				t.Errorf("ip says %q, Inspect %q", line, got.Route)
			}
		}
		off := vxlan.VXLAN{ChecksumOff: true}.Tunnel()
		l, err := netlink.LinkByName(vxlan.Device)
		if err != nil {
			return err
		}
		if _, feature, err := off.Read(l); err != nil || feature != off.Device(hostA, 1500).Feature {
			t.Errorf("checksum offload is off: %v, %v", feature, err)
		}
		card, err := NIC(hostA.Addr)
		if err != nil || card.Name != "eth0" || card.MTU != 1500 || card.MAC == (model.MAC{}) || card.Prefixes[0] != prefix("10.1.0.1/24") {
			t.Errorf("NIC: %+v, %v", card, err)
		}
		if overlap, err := CheckPool(model.Pools{prefix("10.244.0.0/16")}, "br-mesh"); overlap != nil || err != nil {
			t.Error(err)
		}
		if err, _ := CheckPool(model.Pools{prefix("10.244.0.0/16")}); err == nil || !strings.Contains(err.Error(), "10.244.1.0/24, which this host routes to br-mesh") {
			t.Errorf("pool on a bridge: %v", err)
		}
		if err, _ := CheckPool(model.Pools{prefix("10.0.0.0/8")}, "br-mesh"); err == nil || !strings.Contains(err.Error(), "10.1.0.0/24") {
			t.Errorf("pool over a link: %v", err)
		}
		return nil
	})
}

func flat(h Hop) any {
	var v VTEP
	if h.VTEP != nil {
		v = *h.VTEP
	}
	h.VTEP = nil
	return struct {
		Hop
		V VTEP
	}{h, v}
}

func TestRulesAreAsManyForOneHostAsForMany(t *testing.T) {
	w := newWorld(t, Options{Backend: Auto})
	w.reconcile("a", true)
	few := strings.Count(w.hosts["a"].run("", "iptables-save"), "\n-A ")
	snap := w.snapshot(w.hosts["a"])
	for i := range 200 {
		snap.Nodes = append(snap.Nodes, model.Node{Name: fmt.Sprintf("n%d", i), Number: uint16(10 + i),
			Addr: addr(fmt.Sprintf("10.3.0.%d", i+1)), Subnet: prefix(fmt.Sprintf("10.245.%d.0/24", i))})
	}
	var took, again, idle time.Duration
	w.hosts["a"].do(func() error {
		f := w.hosts["a"].fabric
		for _, d := range []*time.Duration{&took, &again} {
			start := time.Now()
			if ps := f.Reconcile(context.Background(), snap, true).Problems; len(ps) > 0 {
				return fmt.Errorf("problems: %+v", ps)
			}
			*d = time.Since(start)
		}
		start := time.Now()
		f.Reconcile(context.Background(), snap, false)
		idle = time.Since(start)
		return nil
	})
	t.Logf("200 hosts more: written in %v, read again in %v, a Snapshot with nothing new %v", took, again, idle)
	if many := strings.Count(w.hosts["a"].run("", "iptables-save"), "\n-A "); many != few {
		t.Errorf("%d rules for 2 peers, %d for 202", few, many)
	}
	if routes := strings.Count(w.hosts["a"].run("", "ip", "route"), "proto 83"); routes != 202 {
		t.Errorf("%d routes", routes)
	}
}
