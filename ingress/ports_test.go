//go:build e2e

package ingress

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel/ipvs"
	"shoal/model"
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
	w.task("web", func(t *model.Task) { t.State = model.Unhealthy })
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
