//go:build e2e

package ingress

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
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
	"shoal/kernel/ipvs"
	"shoal/lab"
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
	if a, err := r.askWithin(2*time.Second, "tcp", addr); err == nil {
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
	w.task("web", func(t *catalog.Task) { t.State = catalog.Unhealthy })
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
	stop := w.hosts[0].serve(t, "process", 8000)
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
	stop()
	noProblems(t, w.settle(true))
	mustAnswer(t, w.client, "tcp", w.hosts[0].at(8000), "web")
	// Whoever comes later finds it taken, and takes nothing away.
	w.hosts[0].serve(t, "process", 8000)
	noProblems(t, w.settle(true))
	mustAnswer(t, w.client, "tcp", w.hosts[0].at(8000), "web")
}

func TestAPortOfDockersOwnIsNotHijacked(t *testing.T) {
	w := newWorld(t, "host-gw")
	h := w.hosts[0]
	h.run("own", 3).serve(t, "own", 80)
	docker := []string{
		"nat -A DOCKER ! -i mesh -p tcp -m tcp --dport 9000 -j DNAT --to-destination 10.244.1.3:80",
		"nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
		"filter -A FORWARD -d 10.244.1.3 -p tcp --dport 80 -j ACCEPT",
	}
	h.must(t, func() error { return iptables("*nat\n:DOCKER -\nCOMMIT\n") })
	h.addRules(docker...)
	h.dropRules("raw -A PREROUTING ! -s 10.244.0.0/16 -d 10.244.1.3 ! -i mesh -j DROP") // or a client outside were not let to it
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
	// Elsewhere the port is free for others, and stays theirs.
	a.must(t, func() error {
		l, err := net.Listen("tcp4", a.at(9000))
		if err == nil {
			t.Cleanup(func() { l.Close() })
			go serveTCP(l, "process", 9000)
		}
		return err
	})
	noProblems(t, w.settle(true))
	mustAnswer(t, a.room, "tcp", a.at(9000), "process")
	w.service("web", publish(t, "9000:80/tcp"), "web")
	if ps := w.settle(true); len(ps) != 1 || !strings.Contains(ps[0].Reason, "listens on "+a.at(9000)) {
		t.Errorf("problems %v, want one that names the process", ps)
	}
	mustAnswer(t, a.room, "tcp", a.at(9000), "process")
}

func TestAPortOfTheLoopbackAddressIsClosedToNeighbours(t *testing.T) {
	w := newWorld(t, "host-gw")
	a := w.hosts[0]
	a.run("web", 2).serve(t, "web", 80)
	w.service("web", publish(t, "127.0.0.1:9000:80/tcp"), "web")
	noProblems(t, w.settle(true))
	// A neighbour who sends to the sandbox's own address, or to one of the
	// loopback net, has no more success.
	for i, to := range []string{sandboxAddr.String(), "127.0.0.1"} {
		stranger := w.attach(w.wire, "wire", fmt.Sprintf("192.168.88.%d/24", 2+i), "")
		stranger.must(t, func() error { return sendBy(a.node.Addr, to) })
		mustRefuseByFirewall(t, stranger, to+":9000")
	}
}

// sendBy has packets to an address, 127.0.0.1 even, go to a neighbour.
func sendBy(neighbour netip.Addr, to string) error {
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0); err != nil {
		return err
	}
	local, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return err
	}
	for _, r := range local {
		if r.Dst != nil && r.Dst.IP.IsLoopback() {
			if err := netlink.RouteDel(&r); err != nil {
				return fmt.Errorf("delete %s: %w", r, err)
			}
		}
	}
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: neighbour.AsSlice(),
		Dst: &net.IPNet{IP: net.ParseIP(to).To4(), Mask: net.CIDRMask(32, 32)}})
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
	w.task("web2", func(t *catalog.Task) { t.State = catalog.Lost })
	noProblems(t, w.settle(false))
	for _, network := range []string{"tcp", "udp"} {
		for range 6 {
			if a, err := w.client.ask(network, w.hosts[0].at(8000)); err != nil || a.task == "web2" {
				t.Errorf("%s: answered by %q, %v, want web1 or web3", network, a.task, err)
			}
		}
	}
	w.task("web2", func(t *catalog.Task) { t.State = catalog.Running })
	noProblems(t, w.settle(false))
	w.mustFind("tcp", w.hosts[0].at(8000), "web1", "web2", "web3")
}

// mustFind fails the test unless the client outside is answered by all of
// these tasks, and no others.
func (w *world) mustFind(network, addr string, tasks ...string) {
	w.t.Helper()
	found := map[string]bool{}
	for range 2 * len(tasks) {
		a, err := w.client.ask(network, addr)
		if err != nil {
			w.t.Errorf("%s %s: %v", network, addr, err)
		}
		found[a.task] = true
	}
	if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, tasks) {
		w.t.Errorf("%s %s: answers from %q, want %q", network, addr, got, tasks)
	}
}

func TestAHostsOwnTasksArePreferred(t *testing.T) {
	w := whoami(t, "host-gw")
	spec := publish(t, "8000:80/tcp", "8000:80/udp")
	spec.PreferLocal = true
	w.service("web", spec, "web1", "web2")
	noProblems(t, w.settle(true))
	for _, network := range []string{"tcp", "udp"} {
		w.mustFind(network, w.hosts[0].at(8000), "web1")
		w.mustFind(network, w.hosts[1].at(8000), "web2")
		w.mustFind(network, w.hosts[2].at(8000), "web1", "web2")
	}
	w.task("web1", func(t *catalog.Task) { t.State = catalog.Unhealthy })
	noProblems(t, w.settle(false))
	for _, network := range []string{"tcp", "udp"} {
		w.mustFind(network, w.hosts[0].at(8000), "web2")
	}
}

func TestAClientKeepsItsTaskWhileThatIsInRotation(t *testing.T) {
	w := whoami(t, "host-gw")
	spec := publish(t, "8000:80/tcp")
	spec.Affinity = time.Hour
	w.service("web", spec, "web1", "web2", "web3")
	noProblems(t, w.settle(true))
	first, err := w.client.ask("tcp", w.hosts[0].at(8000))
	if err != nil {
		t.Fatal(err)
	}
	w.mustFind("tcp", w.hosts[0].at(8000), first.task)
	w.mustFind("tcp", w.hosts[0].at(8000), first.task)
	w.task(first.task, func(t *catalog.Task) { t.State = catalog.Unhealthy })
	noProblems(t, w.settle(false))
	second, err := w.client.ask("tcp", w.hosts[0].at(8000))
	if err != nil || second.task == first.task {
		t.Errorf("answered by %q, %v, though it is not in rotation any more", second.task, err)
	}
	w.mustFind("tcp", w.hosts[0].at(8000), second.task)
}

func TestTheSandboxHasTheTimeoutsThatWereSet(t *testing.T) {
	w := newWorld(t, "host-gw")
	h := w.hosts[0]
	noProblems(t, w.settle(true))
	for _, want := range []ipvs.Timeouts{{TCP: 100 * time.Second, TCPFin: 50 * time.Second, UDP: 25 * time.Second}, h.opts.Timeouts} {
		h.ingress.opts.Timeouts = want
		noProblems(t, h.reconcile(true))
		if got, err := h.ingress.table.IPVS.Timeouts(); err != nil || got != want {
			t.Errorf("timeouts %v, %v, want %v", got, err, want)
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
	// UDP is not drained: the flow would never end.
	w.service("web", publish(t, "8000:80/udp"), "one", "two")
	w.task("two", drain(time.Minute))
	noProblems(t, w.settle(false))
	who("one")
	// What the port leads to when it is published no more is the host's affair.
	w.service("web", publish(t), "one", "two")
	noProblems(t, w.settle(false))
	w.hosts[2].serve(t, "host", 8000)
	w.hosts[2].addRules("filter -A INPUT -p udp --dport 8000 -j ACCEPT")
	who("host")
}

// drain has a task told to stop just now.
func drain(limit time.Duration) func(*catalog.Task) {
	return func(t *catalog.Task) { t.State, t.Since, t.Drain = catalog.Draining, time.Now(), limit }
}

// hold opens a connection by the host's port 8000 and tells which task has it.
func (w *world) hold(h *host) (c *net.TCPConn, task string) {
	w.t.Helper()
	w.client.must(w.t, func() error {
		conn, err := net.DialTimeout("tcp4", h.at(8000), patience)
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { conn.Close() })
		c = conn.(*net.TCPConn)
		c.SetDeadline(time.Now().Add(4 * patience))
		line, err := bufio.NewReader(c).ReadString('\n')
		task, _, _ = strings.Cut(line, " ")
		return err
	})
	return c, task
}

// dests are the destinations of port 8000 in the host's sandbox.
func (h *host) dests() (addrs []string) {
	h.must(h.w.t, func() error {
		v, err := h.ingress.Inspect(context.Background(), 8000, catalog.TCP)
		if err == nil {
			for _, d := range v.Dests {
				addrs = append(addrs, d.Addr.String())
			}
		}
		return err
	})
	return addrs
}

func TestADrainingTaskFinishesWhatItHolds(t *testing.T) {
	w := whoami(t, "host-gw")
	noProblems(t, w.settle(true))
	held := map[string]*net.TCPConn{}
	for range 3 {
		c, task := w.hold(w.hosts[2])
		held[task] = c
	}
	w.task("web1", drain(time.Minute))
	noProblems(t, w.settle(false))
	w.mustFind("tcp", w.hosts[2].at(8000), "web2", "web3")
	c := held["web1"]
	c.Write(bytes.Repeat([]byte("x"), 1000))
	noProblems(t, w.settle(false))
	c.CloseWrite()
	if b, err := io.ReadAll(c); string(b) != "1000\n" {
		t.Errorf("the connection that was held: %q, %v, want its 1000 bytes counted", b, err)
	}
}

func TestADrainingTaskLeavesWhenItIsIdleAndAtItsDeadlineAtLatest(t *testing.T) {
	w := whoami(t, "host-gw")
	w.service("web", publish(t, "8000:80/tcp"), "web1", "web2", "web3")
	noProblems(t, w.settle(true))
	h := w.hosts[2]
	held := map[string]*net.TCPConn{}
	for range 2 {
		c, task := w.hold(h)
		held[task] = c
	}
	// The third holds nothing, the others until their deadlines.
	for _, name := range []string{"web1", "web2", "web3"} {
		limit := time.Minute
		if name == slices.Sorted(maps.Keys(held))[0] {
			limit = time.Second
		}
		w.task(name, drain(limit))
	}
	want := map[string]string{"web1": "10.244.1.2:80", "web2": "10.244.2.2:80", "web3": "10.244.3.2:80"}
	cut, kept := slices.Sorted(maps.Keys(held))[0], slices.Sorted(maps.Keys(held))[1]
	lab.Eventually(t, 10*time.Second, "the idle one and the late one are gone", func() error {
		noProblems(t, h.reconcile(false))
		if got := h.dests(); !slices.Equal(got, []string{want[kept]}) {
			return fmt.Errorf("destinations %v, want %s", got, want[kept])
		}
		return nil
	})
	held[cut].Write([]byte("x"))
	if b, err := io.ReadAll(held[cut]); err == nil {
		t.Errorf("the connection that was cut off goes on: %q", b)
	}
	held[kept].Write([]byte("x"))
	held[kept].CloseWrite()
	if b, err := io.ReadAll(held[kept]); string(b) != "1\n" {
		t.Errorf("the connection with time left: %q, %v, want its byte counted", b, err)
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
		c.SetDeadline(time.Now().Add(patience))
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
		"iptables -F in the sandbox": func(h *host) error {
			return h.ingress.sandbox.do(func() error { return iptables("*nat\n-F\nCOMMIT\n*mangle\n-F\nCOMMIT\n") })
		},
		"ipset flush in the sandbox": func(h *host) error {
			return h.ingress.sandbox.do(func() error { return netlink.IpsetFlush(setPorts.Name) })
		},
		"ip route flush in the sandbox": func(h *host) error {
			return h.ingress.sandbox.do(func() error { return netlink.RouteDel(&netlink.Route{Dst: everywhere}) })
		},
		"ip netns del": func(h *host) error { return removeNamespace(h.opts.Netns) },
		"ipset flush":  func(h *host) error { return netlink.IpsetFlush(setPublished.Name) },
		"ipvsadm -C": func(h *host) error {
			return h.ingress.sandbox.do(func() error { return h.ingress.table.IPVS.Delete(port{catalog.TCP, 8000}.mark()) })
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
			if name == "iptables -F" { // they are back later than ours
				w.hosts[0].must(t, w.hosts[0].filter)
			}
		})
	}
}

func TestAPeerThatMovesOrLeavesIsFollowed(t *testing.T) {
	w := newWorld(t, "host-gw")
	w.hosts[0].run("web", 2).serve(t, "web", 80)
	w.service("web", publish(t, "8000:80/tcp"), "web")
	noProblems(t, w.settle(true))
	a, b, c := w.hosts[0], w.hosts[1], w.hosts[2]
	way := func() (r *netlink.Route) {
		a.must(t, func() (err error) { r, err = lookup(nowhere, markOurs|3); return err })
		return r
	}
	// Whatever leads to its containers leads to its sandbox.
	to := &netlink.Route{Dst: &net.IPNet{IP: c.node.Subnet.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}, Flags: int(netlink.FLAG_ONLINK)}
	for _, gw := range []*host{b, c} {
		a.must(t, func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			to.LinkIndex, to.Gw = l.Attrs().Index, gw.node.Addr.AsSlice()
			return netlink.RouteReplace(to)
		})
		noProblems(t, a.reconcile(true))
		if r := way(); r == nil || r.Table != int(markOurs|3) || !r.Gw.Equal(to.Gw) {
			t.Errorf("replies to c go by %v, want them to go by %s", r, to.Gw)
		}
	}
	if got, err := w.client.ask("tcp", c.at(8000)); err != nil || got.seen != clientAddr {
		t.Errorf("by c: %v, %v", got, err)
	}
	w.change(func(s *catalog.Snapshot) { s.Nodes = s.Nodes[:2] })
	noProblems(t, a.reconcile(false))
	if r := way(); r == nil || r.Table == int(markOurs|3) {
		t.Errorf("replies to c, which is gone, go by %v", r)
	}
	a.must(t, func() error {
		rs, err := ourRules()
		if len(rs) != 2 || rs[0].Mark != markOurs || rs[1].Mark != markOurs|2 {
			return fmt.Errorf("rules %v, %v, want those of a and b", rs, err)
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
	h.down()
	// What is somebody else's, and much like ours.
	other := ipset.Set{Name: "OTHERS", Type: "hash:ip", Mark: true}
	rule := ruleOf(0x54000009)
	rule.Priority++
	h.must(t, func() error { return errors.Join(ipset.Create(other), netlink.RuleAdd(rule)) })
	t.Cleanup(func() {
		h.must(t, func() error { return errors.Join(ipset.Destroy(other.Name), netlink.RuleDel(rule)) })
	})
	h.addRules("mangle -A PREROUTING -m set --match-set OTHERS dst -j SET --map-set OTHERS dst --map-mark")
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
