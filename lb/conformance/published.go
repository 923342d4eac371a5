package conformance

import (
	"bytes"

	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/model"
)

var publishedTests = []test{
	{"EveryHostAnswersAndTasksSeeTheClientsOwnAddress", everyHost, true},
	{"PublishedPortRanges", portRanges, true},
	{"PortsOnOneAddressOfTheHost", bindAddresses, true},
	{"LocalTasksOnly", localOnly, true},
	{"PublishedPortsPreferLocalTasks", publishedPreferLocal, true},
	{"PublishedPortsWithoutATaskInRotationRefuse", publishedRefuses, true},
	{"PublishedPortsKeepAClientsTask", publishedAffinity, true},
	{"SCTPByPublishedPorts", sctpPublished, true},
	{"ProcessesOfAHostArePublished", publishedProcess, true},
	{"PublishedPortsDrain", publishedDrain, true},
	{"ASteadySenderFollowsThePort", steadySender, true},
	{"PublishedPortsOfTasksThatAreGone", publishedGone, true},
	{"AddressesOfThePoolAreNotTheHosts", poolIsNotTheHost, false},
	{"ClientsHearOfSmallerPacketsOnTheWay", smallerPackets, true},
}

// at is a port of a host.
func (h *host) at(port int) string { return fmt.Sprintf("%s:%d", h.addr, port) }

// wide is a service with tasks on every host, published on port 8000.
func (w *world) wide() {
	w.t.Helper()
	w.service("web", vip, publish("8000:80/tcp", "8000:80/udp"), "a1", "b1", "c1")
	w.reconcile()
}

func everyHost(t *testing.T, w *world) {
	w.wide()
	for _, network := range []string{"tcp", "udp"} {
		for _, h := range w.hosts {
			w.sub(network+" by "+h.name, func(*testing.T) {
				w.evenly("client", network, h.at(8000), clientAddr, "a1", "b1", "c1")
			})
		}
	}
}

func portRanges(t *testing.T, w *world) {
	var specs []string
	for port := 9000; port <= 9002; port++ {
		specs = append(specs, fmt.Sprintf("%d:%d/tcp", port, port), fmt.Sprintf("%d:%d/udp", port, port))
	}
	w.service("web", "", publish(specs...), "a1", "b1")
	w.reconcile()
	for _, network := range []string{"tcp", "udp"} {
		for port := 9000; port <= 9002; port++ {
			for _, h := range w.hosts {
				a, err := w.client.ask(network, h.at(port))
				if err != nil || a.port != port {
					t.Errorf("%s/%s: %+v, %v", h.at(port), network, a, err)
				}
			}
		}
	}
}

// bindAddresses has a process of each host for those who do not meet the mesh.
func bindAddresses(t *testing.T, w *world) {
	for _, h := range w.hosts {
		w.listen(h.name, "0.0.0.0:8000")
		w.listen(h.name, "0.0.0.0:8001")
		w.edit(h, "filter -A INPUT -p tcp --dport 8000:8001 -j ACCEPT")
	}
	w.service("web", "", publish("192.168.88.11:8000:80/tcp", "127.0.0.1:8001:80/tcp"), "a1", "b1")
	w.reconcile()
	w.by("client", "tcp", w.hosts[0].at(8000), "a1", "b1")
	w.by("a", "tcp", w.hosts[0].at(8000), "a1", "b1")
	w.by("a4", "tcp", "10.244.1.1:8000", "a")
	w.by("a", "tcp", "127.0.0.1:8000", "a")
	w.by("client", "tcp", w.hosts[1].at(8000), "b")
	for _, h := range w.hosts {
		w.by(h.name, "tcp", "127.0.0.1:8001", "a1", "b1")
		w.by("client", "tcp", h.at(8001), h.name)
	}
}

func localOnly(t *testing.T, w *world) {
	spec := publish("8000:80/tcp", "8000:80/udp")
	spec.PublishLocal = true
	w.service("web", "", spec, "a1", "x1", "b1")
	w.reconcile()
	for _, network := range []string{"tcp", "udp"} {
		w.evenly("client", network, w.hosts[0].at(8000), clientAddr, "a1", "x1")
		w.evenly("client", network, w.hosts[1].at(8000), clientAddr, "b1")
	}
	w.unreached("client", w.hosts[2].at(8000))
}

func publishedPreferLocal(t *testing.T, w *world) {
	spec := publish("8000:80/tcp", "8000:80/udp")
	spec.PreferLocal = true
	w.service("web", "", spec, "a1", "b1")
	w.reconcile()
	for _, network := range []string{"tcp", "udp"} {
		w.by("client", network, w.hosts[0].at(8000), "a1")
		w.by("client", network, w.hosts[1].at(8000), "b1")
		w.evenly("client", network, w.hosts[2].at(8000), clientAddr, "a1", "b1")
	}
	w.task("web", "a1").State = model.Unhealthy
	w.reconcile()
	for _, network := range []string{"tcp", "udp"} {
		w.by("client", network, w.hosts[0].at(8000), "b1")
	}
}

func publishedRefuses(t *testing.T, w *world) {
	w.wide()
	for _, task := range []string{"a1", "b1", "c1"} {
		w.task("web", task).State = model.Unhealthy
	}
	w.reconcile()
	for _, network := range []string{"tcp", "udp"} {
		for _, h := range w.hosts {
			w.refused("client", network, h.at(8000))
		}
		w.refused("a4", network, w.hosts[0].at(8000))
		w.refused("a", network, "127.0.0.1:8000")
	}
	w.task("web", "b1").State = model.Running
	w.reconcile()
	w.by("client", "tcp", w.hosts[0].at(8000), "b1")
}

func publishedAffinity(t *testing.T, w *world) {
	spec := publish("8000:80/tcp")
	spec.Affinity = time.Hour
	w.service("web", "", spec, "a1", "b1", "c1")
	w.reconcile()
	first, err := w.client.ask("tcp", w.a.at(8000))
	if err != nil {
		t.Fatal(err)
	}
	w.by("client", "tcp", w.a.at(8000), first.task)
	w.task("web", first.task).State = model.Unhealthy
	w.reconcile()
	second, err := w.client.ask("tcp", w.a.at(8000))
	if err != nil || second.task == first.task {
		t.Errorf("answered by %q, %v, though it is not in rotation any more", second.task, err)
	}
	w.by("client", "tcp", w.a.at(8000), second.task)
}

func sctpPublished(t *testing.T, w *world) {
	defer w.names["b1"].serveSCTP(t, 9000)()
	w.service("web", "", publish("8000:9000/sctp"), "b1")
	w.reconcile()
	for _, h := range w.hosts {
		for _, from := range []string{"client", h.name} {
			a, err := w.names[from].askSCTP(netip.MustParseAddrPort(h.at(8000)))
			if err != nil || from == "client" && a.client != clientAddr {
				t.Errorf("%s by %s: %+v, %v", from, h.name, a, err)
			}
		}
	}
}

func publishedProcess(t *testing.T, w *world) {
	w.listen("a", "0.0.0.0:6000")
	w.service("web", "", publish("8000:6000/tcp", "8000:6000/udp"), "a")
	w.reconcile()
	for _, h := range w.hosts {
		for _, network := range []string{"tcp", "udp"} {
			a, err := w.client.ask(network, h.at(8000))
			if err != nil || a.task != "a" || a.client != clientAddr {
				t.Errorf("client by %s/%s: %+v, %v", h.name, network, a, err)
			}
			w.by("a", network, h.at(8000), "a")
			w.by("b", network, h.at(8000), "a")
			w.by("a4", network, h.at(8000), "a")
		}
	}
}

func publishedDrain(t *testing.T, w *world) {
	w.wide()
	c := w.hosts[2]
	held := map[string]*conn{}
	for _, task := range []string{"a1", "b1", "c1"} {
		held[task] = w.holdAt(task, "client", "tcp", c.at(8000))
	}
	w.drain("web", "a1", time.Minute)
	w.drain("web", "c1", time.Minute)
	w.reconcile()
	w.by("client", "tcp", c.at(8000), "b1")
	w.by("client", "udp", c.at(8000), "b1")
	for task, h := range held {
		if err := h.echo(); err != nil {
			t.Errorf("the connection to %s: %v", task, err)
		}
	}
	for _, task := range []string{"a1", "c1"} {
		w.task("web", task).Since = time.Now().Add(-time.Minute)
	}
	w.reconcile()
	for task, h := range held {
		if err := h.echo(); (err == nil) != (task == "b1") {
			t.Errorf("after the deadline of a1 and c1, the connection to %s: %v", task, err)
		}
	}
}

func steadySender(t *testing.T, w *world) {
	b := w.hosts[1]
	udp, err := w.client.dial("udp", b.at(8000), netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	who := func(task string) {
		t.Helper()
		w.until("a steady sender is answered by "+task, func() bool { return udp.hear(silence) == nil && udp.task == task })
	}
	spec := publish("8000:80/udp")
	_ = udp.hear(silence) // dropped: not published yet
	w.service("web", "", spec, "a1")
	w.reconcile()
	who("a1")
	w.service("web", "", spec, "b1")
	w.reconcile()
	who("b1")
	// UDP is not drained: the flow would never end.
	w.service("web", "", spec, "b1", "c1")
	w.drain("web", "b1", time.Minute)
	w.reconcile()
	who("c1")
	w.lose("web", "c1", 0)
	w.task("web", "b1").State = model.Running
	w.reconcile()
	who("b1")
	// What the port leads to when it is published no more is the host's affair.
	clear(w.services)
	w.reconcile()
	w.listen("b", b.at(8000))
	w.edit(b, "filter -A INPUT -p udp --dport 8000 -j ACCEPT")
	who("b")
}

func publishedGone(t *testing.T, w *world) {
	for _, h := range w.hosts {
		w.wide()
		for _, task := range []string{"a1", "c1"} {
			c := w.holdAt(task, "client", "tcp", h.at(8000))
			w.gone("web", task)
			w.reconcile()
			w.learns(c)
			w.wide()
		}
	}
}

func poolIsNotTheHost(t *testing.T, w *world) {
	w.listen("a", "10.96.0.10:8000")
	w.service("web", "", publish("8000:80/tcp"), "a1")
	w.service("other", vip, ports("8000:9000/tcp"), "a2")
	w.reconcile()
	for _, from := range []string{"a", "a4", "x2"} {
		w.refused(from, "udp", "10.96.0.10:8000")
		w.by(from, "tcp", vip+":8000", "a2")
		w.by(from, "tcp", w.a.at(8000), "a1")
	}
	w.refused("a", "tcp", "10.96.0.10:8000") // whoever listens there
}

// The way from host a to b's containers takes less than what the client sends.
func smallerPackets(t *testing.T, w *world) {
	w.a.sh(t, "ip route change 10.244.2.0/24 via 192.168.88.12 dev eth0 onlink mtu lock 1300")
	t.Cleanup(func() { w.a.sh(t, "ip route change 10.244.2.0/24 via 192.168.88.12 dev eth0 onlink") })
	w.service("web", "", publish("8000:80/tcp"), "b1", "c1") // to c by a tunnel, of 1450
	w.reconcile()
	for _, task := range []string{"b1", "c1"} {
		c := w.holdAt(task, "client", "tcp", w.a.at(8000))
		c.SetDeadline(time.Now().Add(2 * waitLimit))
		sent := bytes.Repeat([]byte("x"), 300_000)
		go c.Write(sent)
		got := make([]byte, len(sent))
		if n, err := io.ReadFull(c.r, got); err != nil {
			t.Errorf("%s: %d of %d bytes came back: %v", task, n, len(sent), err)
		}
		if mtu := sentMTU(c); mtu >= 1500 {
			t.Errorf("%s: the client still sends packets of %d bytes: the test shows nothing", task, mtu)
		}
	}
}

// sentMTU is that of the path, as the client's kernel knows it.
func sentMTU(c *conn) (mtu int) {
	raw, err := c.Conn.(*net.TCPConn).SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { mtu, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU) })
	}
	return mtu
}
