//go:build e2e

package ingress

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/catalog"
	"shoal/kernel/ipset"
)

// mustRefuse fails the test unless the port refuses at once.
func mustRefuse(t *testing.T, r *room, network, addr string) {
	t.Helper()
	start := time.Now()
	a, err := r.ask(network, addr)
	switch {
	case err == nil:
		t.Errorf("%s %s: answered by %s, want it refused", network, addr, a.task)
	case !refused(err) || time.Since(start) > patience/2:
		t.Errorf("%s %s: %v after %v, want it refused at once", network, addr, err, time.Since(start))
	}
}

// mustAnswer fails the test unless that task answers.
func mustAnswer(t *testing.T, r *room, network, addr, task string) {
	t.Helper()
	if a, err := r.ask(network, addr); err != nil || a.task != task {
		t.Errorf("%s %s: answered by %q, %v, want %s", network, addr, a.task, err, task)
	}
}

func (h *host) at(port int) string { return fmt.Sprintf("%s:%d", h.node.Addr, port) }

func TestEveryPortOfARangeReachesItsOwnTarget(t *testing.T) {
	w := newWorld(t, "host-gw")
	w.hosts[1].run("web", 2).serve(t, "web", 80, 81, 82)
	w.service("web", publish(t, "7000:80/tcp", "7001:81/tcp", "7002:82/tcp", "7001:80/udp"), "web")
	noProblems(t, w.settle(true))
	for i := range 3 {
		a, err := w.client.ask("tcp", w.hosts[0].at(7000+i))
		if err != nil || a.port != 80+i {
			t.Errorf("port %d: reached target %d, %v, want %d", 7000+i, a.port, err, 80+i)
		}
	}
	if a, err := w.client.ask("udp", w.hosts[0].at(7001)); err != nil || a.port != 80 {
		t.Errorf("port 7001/udp: reached target %d, %v, want 80", a.port, err)
	}
	mustRefuseByFirewall(t, w.client, w.hosts[0].at(7003))
}

// mustRefuseByFirewall fails the test if anybody answers: what is not
// published is left to the host's own rules.
func mustRefuseByFirewall(t *testing.T, r *room, addr string) {
	t.Helper()
	if a, err := r.ask("tcp", addr); err == nil {
		t.Errorf("%s: answered by %s, want nobody there", addr, a.task)
	}
}

func TestTheFirstOfTwoServicesKeepsThePortUntilItLetsGo(t *testing.T) {
	w := newWorld(t, "host-gw")
	w.hosts[0].run("one", 2).serve(t, "one", 80)
	w.hosts[1].run("two", 2).serve(t, "two", 80)
	w.service("one", publish(t, "8000:80/tcp"), "one")
	noProblems(t, w.settle(true))
	w.service("two", publish(t, "8000:80/tcp"), "two")
	ps := w.settle(false)
	if len(ps) != 1 || ps[0].Node != "b" || ps[0].Reason != "publish 8000/tcp for default/two: already claimed by default/one; publish another port, or remove that service" {
		t.Errorf("problems %v, want one on host b that names the holder", ps)
	}
	mustAnswer(t, w.client, "tcp", w.hosts[1].at(8000), "one")
	w.service("one", publish(t), "one")
	noProblems(t, w.settle(false))
	mustAnswer(t, w.client, "tcp", w.hosts[0].at(8000), "two")
}

func TestAPortWithoutATaskInRotationRefusesAtOnce(t *testing.T) {
	w := newWorld(t, "host-gw")
	w.hosts[1].run("web", 2).serve(t, "web", 80)
	w.service("web", publish(t, "8000:80/tcp", "8000:80/udp"), "web")
	noProblems(t, w.settle(true))
	mustAnswer(t, w.client, "tcp", w.hosts[0].at(8000), "web")
	w.change(func(s *catalog.Snapshot) {
		s.Services[0].Tasks = slices.Clone(s.Services[0].Tasks)
		s.Services[0].Tasks[0].State = catalog.Unhealthy
	})
	noProblems(t, w.settle(false))
	for _, r := range []*room{w.client, w.hosts[0].room, w.hosts[2].room} {
		mustRefuse(t, r, "tcp", w.hosts[0].at(8000))
		mustRefuse(t, r, "udp", w.hosts[0].at(8000))
	}
	mustRefuse(t, w.hosts[0].room, "tcp", "127.0.0.1:8000")
}

func TestAPortOfAProcessOfTheHostIsNotHijacked(t *testing.T) {
	w := newWorld(t, "host-gw")
	w.hosts[1].run("web", 2).serve(t, "web", 80)
	w.hosts[0].serve(t, "process", 8000)
	w.service("web", publish(t, "8000:80/tcp", "8000:80/udp", "8001:80/tcp"), "web")
	ps := w.settle(true)
	if len(ps) != 2 || ps[0].Node != "a" || !strings.Contains(ps[0].Reason, myself(t)) || !strings.Contains(ps[0].Reason, "listens on 0.0.0.0:8000") {
		t.Errorf("problems %v, want two on host a that name the process", ps)
	}
	mustAnswer(t, w.hosts[0].room, "tcp", "127.0.0.1:8000", "process")
	mustAnswer(t, w.hosts[0].room, "udp", "127.0.0.1:8000", "process")
	mustAnswer(t, w.client, "tcp", w.hosts[0].at(8001), "web")
	mustAnswer(t, w.client, "tcp", w.hosts[1].at(8000), "web")
	if ps := w.settle(false); len(ps) != 2 {
		t.Errorf("problems %v with nothing changed, want the two again", ps)
	}
}

func TestAPortOfDockersOwnIsNotHijacked(t *testing.T) {
	w := newWorld(t, "host-gw")
	h := w.hosts[0]
	h.run("own", 3).serve(t, "own", 80)
	h.must(t, func() error {
		return iptables(`*nat
:DOCKER -
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER ! -i mesh -p tcp -m tcp --dport 9000 -j DNAT --to-destination 10.244.1.3:80
COMMIT
*filter
-I FORWARD -d 10.244.1.3 -p tcp --dport 80 -j ACCEPT
COMMIT
*raw
-F PREROUTING
COMMIT
`)
	})
	w.hosts[1].run("web", 2).serve(t, "web", 80)
	w.service("web", publish(t, "9000:80/tcp", "9001:80/tcp"), "web")
	ps := w.settle(true)
	if len(ps) != 1 || ps[0].Node != "a" || !strings.Contains(ps[0].Reason, "--dport 9000") {
		t.Errorf("problems %v, want one on host a that shows the rule", ps)
	}
	mustAnswer(t, w.client, "tcp", h.at(9000), "own")
	mustAnswer(t, w.client, "tcp", h.at(9001), "web")
}

func TestAPortOnOneAddressAnswersOnlyThere(t *testing.T) {
	w := newWorld(t, "host-gw")
	w.hosts[0].run("web", 2).serve(t, "web", 80)
	w.service("web", publish(t, "127.0.0.1:9000:80/tcp", "192.168.88.11:9001:80/tcp"), "web")
	noProblems(t, w.settle(true))
	a := w.hosts[0]
	mustAnswer(t, a.room, "tcp", "127.0.0.1:9000", "web")
	mustAnswer(t, w.hosts[1].room, "tcp", "127.0.0.1:9000", "web")
	mustAnswer(t, w.client, "tcp", a.at(9001), "web")
	mustRefuseByFirewall(t, w.client, a.at(9000))
	mustRefuseByFirewall(t, w.client, w.hosts[1].at(9001))
	// Not by the sandbox's own address either, nor by one of the loopback net.
	for _, to := range []string{sandboxAddr.String(), "127.0.0.1"} {
		w.client.must(t, func() error {
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0); err != nil {
				return err
			}
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: a.node.Addr.AsSlice(),
				Dst: &net.IPNet{IP: net.ParseIP(sandboxAddr.String()).To4(), Mask: net.CIDRMask(32, 32)}})
		})
		mustRefuseByFirewall(t, w.client, to+":9000")
	}
}

func TestLocalPublishingAnswersOnlyWhereATaskIs(t *testing.T) {
	w := newWorld(t, "host-gw")
	for _, h := range w.hosts[:2] {
		h.run("web-"+h.node.Name, 2).serve(t, "web-"+h.node.Name, 80)
	}
	spec := publish(t, "8000:80/tcp")
	spec.PublishLocal = true
	w.service("web", spec, "web-a", "web-b")
	noProblems(t, w.settle(true))
	for _, h := range w.hosts[:2] {
		for range 3 {
			mustAnswer(t, w.client, "tcp", h.at(8000), "web-"+h.node.Name)
		}
	}
	mustRefuseByFirewall(t, w.client, w.hosts[2].at(8000))
}

func TestATaskThatIsAProcessOfItsHostIsServed(t *testing.T) {
	w := newWorld(t, "vxlan")
	h := w.hosts[0]
	h.serve(t, "process", 8080)
	h.containers["process"] = &container{room: h.room, host: h, name: "process", addr: h.node.Addr}
	w.service("web", publish(t, "8000:8080/tcp", "8000:8080/udp"), "process")
	noProblems(t, w.settle(true))
	for _, by := range w.hosts {
		for _, network := range []string{"tcp", "udp"} {
			a, err := w.client.ask(network, by.at(8000))
			if err != nil || a.task != "process" || by == h && a.seen != clientAddr {
				t.Errorf("%s by %s: %v, %v", network, by.node.Name, a, err)
			}
			mustAnswer(t, h.room, network, by.at(8000), "process")
		}
	}
}

func TestTasksOfADeadHostAreLeftOut(t *testing.T) {
	w := whoami(t, "host-gw")
	noProblems(t, w.settle(true))
	w.change(func(s *catalog.Snapshot) { s.Nodes[1].Alive = false })
	noProblems(t, w.settle(false))
	for range 6 {
		if a, err := w.client.ask("tcp", w.hosts[0].at(8000)); err != nil || a.task == "web2" {
			t.Errorf("answered by %q, %v, want web1 or web3", a.task, err)
		}
	}
}

func TestASteadySenderFollowsThePort(t *testing.T) {
	w := newWorld(t, "host-gw")
	w.hosts[0].run("one", 2).serve(t, "one", 80)
	w.hosts[1].run("two", 2).serve(t, "two", 80)
	w.service("web", publish(t), "one", "two")
	noProblems(t, w.settle(true))
	var c net.Conn
	w.client.must(t, func() (err error) { c, err = net.Dial("udp4", w.hosts[2].at(8000)); return err })
	defer c.Close()
	// who asks until that task answers, and never pauses.
	who := func(task string) {
		t.Helper()
		last, b := "nobody", make([]byte, 200)
		for end := time.Now().Add(patience); time.Now().Before(end); {
			c.Write([]byte("?"))
			c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if n, err := c.Read(b); err == nil {
				if last, _, _ = strings.Cut(string(b[:n]), " "); last == task {
					return
				}
			}
		}
		t.Errorf("a steady sender is answered by %s, want %s", last, task)
	}
	c.Write([]byte("?")) // dropped: not published yet
	w.service("web", publish(t, "8000:80/udp"), "one")
	noProblems(t, w.settle(false))
	who("one")
	w.service("web", publish(t, "8000:80/udp"), "two")
	noProblems(t, w.settle(false))
	who("two")
}

func TestADrainingTaskFinishesWhatItHolds(t *testing.T) {
	w := whoami(t, "host-gw")
	noProblems(t, w.settle(true))
	held := map[string]net.Conn{}
	for range 3 {
		w.client.must(t, func() error {
			c, err := net.Dial("tcp4", w.hosts[2].at(8000))
			if err != nil {
				return err
			}
			line, err := bufio.NewReader(c).ReadString('\n')
			held[strings.Fields(line + " x")[0]] = c
			return err
		})
	}
	w.change(func(s *catalog.Snapshot) {
		s.Services[0].Tasks = slices.Clone(s.Services[0].Tasks)
		task := &s.Services[0].Tasks[0]
		task.State, task.Since, task.Drain = catalog.Draining, time.Now(), time.Minute
	})
	noProblems(t, w.settle(false))
	for range 4 {
		if a, err := w.client.ask("tcp", w.hosts[2].at(8000)); err != nil || a.task == "web1" {
			t.Errorf("a new connection went to %q, %v", a.task, err)
		}
	}
	c := held["web1"].(*net.TCPConn)
	c.Write(bytes.Repeat([]byte("x"), 1000))
	c.CloseWrite()
	c.SetDeadline(time.Now().Add(patience))
	if b, err := io.ReadAll(c); string(b) != "1000\n" {
		t.Errorf("the connection that was held: %q, %v, want its 1000 bytes counted", b, err)
	}
}

func TestClientsHearOfSmallerPacketsOnTheWay(t *testing.T) {
	w := newWorld(t, "vxlan") // its devices take 1450 octets, containers here send 1500
	w.hosts[1].run("web", 2).serve(t, "web", 80)
	w.service("web", publish(t, "8000:80/tcp"), "web")
	noProblems(t, w.settle(true))
	w.client.must(t, func() error {
		c, err := net.DialTimeout("tcp4", w.hosts[0].at(8000), patience)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * patience))
		if _, err := c.Write(bytes.Repeat([]byte("x"), 300000)); err != nil {
			return err
		}
		c.(*net.TCPConn).CloseWrite()
		b, err := io.ReadAll(c)
		if !strings.HasSuffix(string(b), "\n300000\n") {
			return fmt.Errorf("answer %q, %v, want 300000 bytes counted", b, err)
		}
		return nil
	})
}

func TestWhatOthersBreakIsRepaired(t *testing.T) {
	breaks := map[string]func(h *host) error{
		"iptables -F": func(h *host) error {
			return iptables("*filter\n-F\nCOMMIT\n*nat\n-F\nCOMMIT\n*mangle\n-F\nCOMMIT\n*raw\n-F\nCOMMIT\n")
		},
		"ip rule flush": func(h *host) error {
			rs, err := ourRules()
			for _, r := range rs {
				netlink.RuleDel(ruleOf(r.Mark))
			}
			return err
		},
		"ip route flush": func(h *host) error {
			rs, err := ourRules()
			for _, r := range rs {
				netlink.RouteDel(&netlink.Route{Dst: everywhere, Table: r.Table})
			}
			return err
		},
		"ip link del": func(h *host) error {
			l, err := netlink.LinkByName(hostDev)
			if err != nil {
				return err
			}
			return netlink.LinkDel(l)
		},
		"ip netns del": func(h *host) error { return removeNamespace(h.opts.Netns) },
		"ipset flush":  func(h *host) error { return netlink.IpsetFlush(setPublished.Name) },
		"ipvsadm -C": func(h *host) error {
			return h.ingress.sandbox.do(func() error { return h.ingress.ipvs.Delete(port{catalog.TCP, 8000}.mark()) })
		},
		"rp_filter = 1": func(h *host) error {
			return os.WriteFile("/proc/sys/net/ipv4/conf/"+hostDev+"/rp_filter", []byte("1"), 0)
		},
	}
	w := newWorld(t, "host-gw")
	w.hosts[0].run("web1", 2).serve(t, "web1", 80)
	w.hosts[1].run("web2", 2).serve(t, "web2", 80)
	w.service("web", publish(t, "8000:80/tcp"), "web1", "web2")
	noProblems(t, w.settle(true))
	for name, f := range breaks {
		t.Run(name, func(t *testing.T) {
			w.hosts[0].must(t, func() error { return f(w.hosts[0]) })
			noProblems(t, w.settle(true))
			seen := map[string]bool{}
			for range 4 {
				for _, h := range w.hosts[:2] {
					a, err := w.client.ask("tcp", h.at(8000))
					if err != nil || a.seen != clientAddr {
						t.Errorf("by %s: %v, %v", h.node.Name, a, err)
					}
					seen[a.task] = true
				}
			}
			if !seen["web1"] || !seen["web2"] {
				t.Errorf("answers from %v, want both tasks", seen)
			}
		})
	}
}

func TestAPeerThatLeavesOrMovesIsFollowed(t *testing.T) {
	w := whoami(t, "host-gw")
	noProblems(t, w.settle(true))
	w.change(func(s *catalog.Snapshot) { s.Nodes = s.Nodes[:2] })
	noProblems(t, w.hosts[0].reconcile(false))
	w.hosts[0].must(t, func() error {
		rs, err := ourRules()
		if len(rs) != 2 || rs[0].Mark != markOurs || rs[1].Mark != markOurs|2 {
			return fmt.Errorf("rules %v, %v, want those of a and b", rs, err)
		}
		r, err := lookup(nowhere, markOurs|3)
		if err != nil || r.Table == int(markOurs|3) {
			return fmt.Errorf("the table of c is still there: %v, %v", r, err)
		}
		return nil
	})
}

// inventory is what there is in the kernel of a host, in words.
func inventory(h *host) (lines []string) {
	h.must(h.w.t, func() error {
		out, err := exec.Command("iptables-save").Output()
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "-A") || strings.Contains(line, "SHOAL") {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		names, err := ipset.Names()
		lines = append(lines, names...)
		links, err := netlink.LinkList()
		for _, l := range links {
			lines = append(lines, l.Attrs().Name)
		}
		rs, err := netlink.RuleList(netlink.FAMILY_V4)
		for _, r := range rs {
			lines = append(lines, fmt.Sprint(r, r.Mark))
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		for _, r := range routes {
			lines = append(lines, r.String())
		}
		for _, p := range []string{"ip_forward", "conf/all/rp_filter", "conf/eth0/rp_filter", "conf/mesh/rp_filter"} {
			b, err := os.ReadFile("/proc/sys/net/ipv4/" + p)
			lines = append(lines, fmt.Sprintf("%s %q %v", p, b, err))
		}
		if _, err := os.Stat(h.opts.Netns); err == nil {
			lines = append(lines, "the sandbox")
		}
		files, err := os.ReadDir(h.opts.StateDir)
		for _, f := range files {
			lines = append(lines, f.Name())
		}
		return err
	})
	return lines
}

func TestDownLeavesTheHostAsItWas(t *testing.T) {
	w := whoami(t, "host-gw")
	h := w.hosts[0]
	before := inventory(h)
	noProblems(t, w.settle(true))
	if up := inventory(h); cmp.Equal(before, up) {
		t.Fatal("nothing differs while the ports are published")
	}
	h.down()
	if d := cmp.Diff(before, inventory(h)); d != "" {
		t.Errorf("before and after Down (-before +after):\n%s", d)
	}
	h.down() // with nothing there
	noProblems(t, w.settle(true))
	mustAnswerAnyone(t, w.client, h.at(8000))
}

func mustAnswerAnyone(t *testing.T, r *room, addr string) {
	t.Helper()
	if _, err := r.ask("tcp", addr); err != nil {
		t.Error(err)
	}
}

func TestInspectShowsEveryHop(t *testing.T) {
	w := whoami(t, "host-gw")
	noProblems(t, w.settle(true))
	h := w.hosts[0]
	var v *View
	h.must(t, func() (err error) {
		v, err = h.ingress.Inspect(context.Background(), 8000, catalog.TCP)
		return err
	})
	for i := range v.Dests {
		v.Dests[i].Inactive, v.Dests[i].Active = 0, 0
	}
	want := &View{
		Protocol: catalog.TCP, Port: 8000, Sets: []string{"SHOAL-IN-PUBLISHED 0.0.0.0/1,tcp:8000", "SHOAL-IN-PUBLISHED 128.0.0.0/1,tcp:8000"}, Redirect: v.Redirect,
		Sandbox: sandboxAddr, Netns: h.opts.Netns, Mark: 0x61f40, Scheduler: "rr",
		Dests: []DestView{
			{Addr: netip.MustParseAddrPort("10.244.1.2:80"), Weight: 1, Route: "10.244.1.0/24 dev mesh"},
			{Addr: netip.MustParseAddrPort("10.244.2.2:80"), Weight: 1, Route: "10.244.2.0/24 via 192.168.88.12 dev eth0"},
			{Addr: netip.MustParseAddrPort("10.244.3.2:80"), Weight: 1, Route: "10.244.3.0/24 via 192.168.88.13 dev eth0"},
		},
		Returns: []ReturnView{
			{Node: "a", Mark: 0x54000000, Route: "default via 169.254.83.1 dev shoal-ingress"},
			{Node: "b", Mark: 0x54000002, MACs: []catalog.MAC{w.hosts[1].node.MAC, w.hosts[1].opts.VTEPMAC(w.hosts[1].node)}, Route: "default via 192.168.88.12 dev eth0"},
			{Node: "c", Mark: 0x54000003, MACs: []catalog.MAC{w.hosts[2].node.MAC, w.hosts[2].opts.VTEPMAC(w.hosts[2].node)}, Route: "default via 192.168.88.13 dev eth0"},
		},
	}
	if d := cmp.Diff(want, v, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("view (-want +got):\n%s", d)
	}
	if len(v.Redirect) != 1 {
		t.Errorf("redirected by %q, want one rule", v.Redirect)
	}
}
