//go:build e2e

package ipvs

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/model"
)

const vip = "10.96.0.50"

func three(t *testing.T) *world {
	w := newWorld(t, "client", "a", "b", "c2", "far2")
	for _, name := range []string{"a", "b", "c2"} {
		w.serve(name, 80, "tcp", "udp")
		w.task("web", name, vip)
	}
	w.reconcile(true)
	return w
}

var evenly = map[string]int{"a": 3, "b": 3, "c2": 3}

func TestEveryClientReachesEveryTaskAndIsSeen(t *testing.T) {
	w := three(t)
	for _, network := range []string{"tcp", "udp"} {
		for from, client := range map[string]string{
			"client": w.addr["client"].String(), // tasks on its own bridge and on another
			"far2":   w.addr["far2"].String(),
			"host":   hostAddr.String(),
		} {
			if got := w.tasks(9, from, network, vip+":80", client); !maps.Equal(got, evenly) {
				t.Errorf("%s/%s: answers by task %v, want %v", from, network, got, evenly)
			}
		}
	}
	for _, from := range []string{"client", "far2", "host"} {
		if err := w.ping(from, vip); err != nil {
			t.Errorf("ping from %s: %v", from, err)
		}
	}
	if t.Failed() {
		t.Log(w.sh("iptables-save -c; ipset list; cat /proc/net/ip_vs; ip route show table local; conntrack -L 2>/dev/null"))
	}
}

func TestSCTPIsBalanced(t *testing.T) {
	w := newWorld(t, "client", "a", "c2")
	for _, name := range []string{"a", "c2"} {
		w.serve(name, 36412, "sctp")
		w.serve(name, 9000, "sctp")
		w.task("s1ap", name, vip)
		w.task("mapped", name, "10.96.0.60", model.Port{Port: 36412, Target: 9000, Protocol: model.SCTP})
	}
	w.reconcile(true)
	for _, to := range []string{vip + ":36412", "10.96.0.60:36412"} {
		if got := w.tasks(4, "client", "sctp", to, w.addr["client"].String()); !maps.Equal(got, map[string]int{"a": 2, "c2": 2}) {
			t.Errorf("%s: %v", to, got)
		}
	}
	if _, err := w.ask("client", "sctp", "10.96.0.60:9000"); err == nil {
		t.Error("a port that is not named is reached")
	}
}

func TestTaskReachesItself(t *testing.T) {
	w := newWorld(t, "a")
	w.serve("a", 80, "tcp", "udp")
	w.task("web", "a", vip)
	w.reconcile(true)
	for _, network := range []string{"tcp", "udp"} {
		if a, err := w.ask("a", network, vip+":80"); err != nil || a.task != "a" {
			t.Errorf("task to itself by %s: %v, %v", network, a, err)
		}
	}
}

func TestTasksAreReachedByTheirOwnAddresses(t *testing.T) {
	w := three(t)
	for from, client := range map[string]string{"client": w.addr["client"].String(), "far2": w.addr["far2"].String()} {
		for _, task := range []string{"a", "c2"} {
			if got := w.tasks(1, from, "tcp", w.addr[task].String()+":80", client); got[task] != 1 {
				t.Errorf("%s → %s: %v", from, task, got)
			}
		}
	}
	// What is no task stays as the engine left it.
	w.serve("far2", 81, "tcp")
	if _, err := w.ask("client", "tcp", w.addr["far2"].String()+":81"); err == nil {
		t.Error("a container that is no task is reached from another bridge")
	}
}

func TestWhatIsNotServedIsRefusedAtOnce(t *testing.T) {
	w := newWorld(t, "client", "a")
	for _, port := range []int{80, 7777, 9999} {
		w.serve("host", port, "tcp", "udp") // on 0.0.0.0
	}
	w.serve("a", 8080, "tcp")
	w.task("mapped", "a", "10.96.0.60", model.Port{Port: 80, Target: 8080, Protocol: model.TCP})
	w.task("idle", "a", "10.96.0.61").State = model.Starting
	w.vips[model.ServiceID{Stack: "default", Name: "empty"}] = dnsVIP.Next().Next()
	w.reconcile(true)
	for _, from := range []string{"client", "host"} {
		for _, to := range []string{
			"10.96.0.60:9999", // a port that the service does not name
			"10.96.0.60:7777", // and that Docker publishes
			"10.96.0.61:80",   // no task in rotation
			"10.96.0.12:80",   // no task at all
			"10.96.7.7:80",    // no service
			"10.96.0.10:80",   // the DNS address, another port
		} {
			w.refused(from, "tcp", to)
			w.refused(from, "udp", to)
		}
		if a, err := w.ask(from, "tcp", "10.96.0.60:80"); err != nil || a.task != "a" {
			t.Errorf("%s → mapped port: %v, %v", from, a, err)
		}
		if err := w.ping(from, "10.96.0.60"); err != nil {
			t.Errorf("ping of a live VIP from %s: %v", from, err)
		}
		if err := w.ping(from, "10.96.0.61"); err == nil {
			t.Errorf("ping of a VIP without a live task is answered to %s", from)
		}
	}
}

func TestPublishedPortOfDockerDoesNotTakeThePortOfAVIP(t *testing.T) {
	w := newWorld(t, "client2", "a")
	w.serve("a", 7777, "tcp")
	w.task("web", "a", vip)
	w.reconcile(true)
	for _, from := range []string{"client2", "host"} {
		if a, err := w.ask(from, "tcp", vip+":7777"); err != nil || a.task != "a" {
			t.Errorf("%s: %v, %v", from, a, err)
		}
	}
}

func TestTheHostAnswersDNSOnItsAddress(t *testing.T) {
	w := newWorld(t, "client")
	w.reconcile(true)
	w.serve("host@10.96.0.10", 53, "tcp", "udp")
	for _, network := range []string{"tcp", "udp"} {
		if got := w.tasks(1, "client", network, dnsVIP.String()+":53", w.addr["client"].String()); got["host"] != 1 {
			t.Errorf("%s: %v", network, got)
		}
	}
	if err := w.ping("client", dnsVIP.String()); err != nil {
		t.Error(err)
	}
}

func TestNamedPortWinsOverAllPorts(t *testing.T) {
	w := newWorld(t, "client", "a", "b")
	w.serve("a", 80, "tcp")
	w.serve("a", 90, "tcp")
	w.serve("b", 8080, "tcp")
	w.task("web", "a", vip) // all ports
	w.task("web", "b", vip, model.Port{Port: 80, Target: 8080, Protocol: model.TCP})
	w.reconcile(true)
	client := w.addr["client"].String()
	if got := w.tasks(4, "client", "tcp", vip+":80", client); !maps.Equal(got, map[string]int{"a": 2, "b": 2}) {
		t.Errorf("port 80: %v", got)
	}
	if got := w.tasks(2, "client", "tcp", vip+":90", client); got["a"] != 2 {
		t.Errorf("port 90: %v", got)
	}
}

func TestDrainingTaskFinishesWhatItHolds(t *testing.T) {
	w := newWorld(t, "client", "a", "b")
	for _, name := range []string{"a", "b"} {
		w.serve(name, 80, "tcp", "udp")
		w.task("web", name, vip)
	}
	w.reconcile(true)
	tcp, err := w.dial("client", "tcp", vip+":80")
	w.ok(err)
	defer tcp.Close()
	held, err := w.read(tcp)
	w.ok(err)
	// A steady UDP sender on the same task.
	udp, err := w.dial("client", "udp", vip+":80")
	w.ok(err)
	defer udp.Close()
	a, err := w.read(udp)
	for err == nil && a.task != held.task {
		udp.Close()
		udp, err = w.dial("client", "udp", vip+":80")
		w.ok(err)
		a, err = w.read(udp)
	}
	w.ok(err)
	other := map[string]string{"a": "b", "b": "a"}[held.task]

	task := w.of("web", held.task)
	task.State, task.Since = model.Draining, time.Now()
	if next := w.reconcile(false); next != drainLook {
		t.Errorf("next look in %v, want %v", next, drainLook)
	}
	w.moves(udp, held.task)
	if got := w.tasks(4, "client", "tcp", vip+":80", w.addr["client"].String()); got[other] != 4 {
		t.Errorf("new connections: %v, want all on %s", got, other)
	}
	w.reconcile(true)
	fmt.Fprintln(tcp, "still there")
	if line, err := bufio.NewReader(tcp).ReadString('\n'); err != nil || line != "still there\n" {
		t.Errorf("the held connection: %q, %v", line, err)
	}
	addr := w.addr[held.task].String() + ":0"
	if d, has := w.dest(vip, model.TCP, 0, addr); !has || d.Weight != 0 || d.Active != 1 {
		t.Errorf("draining destination: %+v, %v", d, has)
	}

	// A new agent finds the drain and goes on with it.
	w.b = w.balancer()
	if n := writes(func() { w.reconcile(true) }); n != 0 {
		t.Errorf("a new agent wrote %d times during a drain", n)
	}
	if _, has := w.dest(vip, model.TCP, 0, addr); !has {
		t.Error("the new agent dropped the draining destination")
	}

	task.Since = time.Now().Add(-time.Minute) // the deadline is over
	w.reconcile(false)
	if _, has := w.dest(vip, model.TCP, 0, addr); has {
		t.Error("destination is still there after the deadline")
	}
}

func TestIdleDrainingTaskLeavesBeforeItsDeadline(t *testing.T) {
	w := newWorld(t, "client", "a", "b")
	w.task("web", "a", vip)
	w.task("web", "b", vip)
	w.reconcile(true)
	task := w.of("web", "a")
	task.State, task.Since = model.Draining, time.Now()
	addr := w.addr["a"].String() + ":0"
	w.reconcile(false)
	w.until("the idle destination goes", func() bool {
		w.reconcile(false)
		_, has := w.dest(vip, model.TCP, 0, addr)
		return !has
	})
	if next := w.reconcile(false); next != 0 {
		t.Errorf("next look in %v with nothing draining", next)
	}
}

func TestLastTaskDrainsWhileNewConnectionsAreRefused(t *testing.T) {
	w := newWorld(t, "client", "a")
	w.serve("a", 80, "tcp", "udp")
	w.serve("host", 80, "tcp", "udp")
	w.task("web", "a", vip)
	w.reconcile(true)
	tcp, err := w.dial("client", "tcp", vip+":80")
	w.ok(err)
	defer tcp.Close()
	_, err = w.read(tcp)
	w.ok(err)
	udp, err := w.dial("client", "udp", vip+":80")
	w.ok(err)
	defer udp.Close()
	_, err = w.read(udp)
	w.ok(err)

	w.of("web", "a").State = model.Unhealthy
	w.reconcile(false)
	w.refused("client", "tcp", vip+":80")
	w.refused("client", "udp", vip+":80")
	if a, err := w.read(udp); err == nil {
		t.Errorf("UDP after the last task left: %v", a)
	}
	mark := w.b.marks.of[front{w.of("web", "a").Addr, model.TCP, 0}]
	w.b = w.balancer()
	if n := writes(func() { w.reconcile(true) }); n != 0 {
		t.Errorf("a new agent wrote %d times", n)
	}
	fmt.Fprintln(tcp, "still there")
	if line, err := bufio.NewReader(tcp).ReadString('\n'); err != nil || line != "still there\n" {
		t.Errorf("the held connection: %q, %v", line, err)
	}
	w.of("web", "a").State = model.Running
	w.reconcile(false)
	if now := w.b.marks.of[front{w.of("web", "a").Addr, model.TCP, 0}]; now != mark {
		t.Errorf("mark was %#x, is %#x", mark, now)
	}
	if a, err := w.ask("client", "tcp", vip+":80"); err != nil || a.task != "a" {
		t.Errorf("after it is healthy again: %v, %v", a, err)
	}
	// The socket whose datagram was refused gets through again.
	w.until("UDP of the old socket", func() bool { a, err := w.read(udp); return err == nil && a.task == "a" })
}

func TestUDPMovesWhenItsTaskIsGone(t *testing.T) {
	w := newWorld(t, "client", "a", "b")
	for _, name := range []string{"a", "b"} {
		w.serve(name, 53, "udp")
		w.task("web", name, vip, model.Port{Port: 53, Target: 53, Protocol: model.UDP})
	}
	w.reconcile(true)
	for _, from := range []string{"client", "host"} {
		udp, err := w.dial(from, "udp", vip+":53")
		w.ok(err)
		defer udp.Close()
		first, err := w.read(udp)
		w.ok(err)
		task := *w.of("web", first.task)
		w.gone("web", first.task)
		w.reconcile(false)
		w.moves(udp, first.task)
		if left := w.sh("conntrack -L -p udp 2>/dev/null | grep -c 'src=" + task.Addr.String() + "' || true"); left != "0\n" {
			t.Errorf("%s: conntrack entries of the gone task: %s", from, left)
		}
		back := w.task("web", first.task, vip)
		*back = task
		w.reconcile(false)
	}
}

func TestEverySchedulerBalances(t *testing.T) {
	w := newWorld(t, "client", "a", "b")
	for _, name := range []string{"a", "b"} {
		w.serve(name, 80, "tcp")
	}
	client := w.addr["client"].String()
	for i, s := range []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf"} {
		v := fmt.Sprintf("10.96.1.%d", i+1)
		w.task("s"+s, "a", v).Spec.Scheduler = s
		w.task("s"+s, "b", v).Spec.Scheduler = s
		w.reconcile(i == 0)
		got := w.tasks(6, "client", "tcp", v+":80", client)
		if got["a"]+got["b"] != 6 {
			t.Errorf("%s: %v", s, got)
		}
		// Whichever task leaves, the other serves everybody.
		for leaving, other := range map[string]string{"a": "b", "b": "a"} {
			w.of("s"+s, leaving).State = model.Unhealthy
			w.reconcile(false)
			if got := w.tasks(3, "client", "tcp", v+":80", client); got[other] != 3 {
				t.Errorf("%s with %s out of rotation: %v", s, leaving, got)
			}
			w.of("s"+s, leaving).State = model.Running
			w.reconcile(false)
		}
	}
	if n := writes(func() { w.reconcile(true) }); n != 0 {
		t.Errorf("a second pass wrote %d times", n)
	}
}

func TestWeightsAndAffinity(t *testing.T) {
	w := newWorld(t, "client", "a", "b")
	for _, name := range []string{"a", "b"} {
		w.serve(name, 80, "tcp")
		w.task("heavy", name, "10.96.0.70").Spec.Scheduler = "wrr"
		w.task("loyal", name, "10.96.0.71").Spec.Affinity = time.Minute
		w.task("mapped", name, "10.96.0.72", model.Port{Port: 8000, Target: 80, Protocol: model.TCP}).Spec.Affinity = time.Minute
	}
	w.of("heavy", "a").Weight = 3
	w.reconcile(true)
	client := w.addr["client"].String()
	if got := w.tasks(8, "client", "tcp", "10.96.0.70:80", client); !maps.Equal(got, map[string]int{"a": 6, "b": 2}) {
		t.Errorf("weights 3 and 1: %v", got)
	}
	got := w.tasks(6, "client", "tcp", "10.96.0.71:80", client)
	if len(got) != 1 {
		t.Errorf("a client with affinity met %v", got)
	}
	if n := writes(func() { w.reconcile(true) }); n != 0 {
		t.Errorf("a second pass wrote %d times", n)
	}
	if got := w.tasks(6, "client", "tcp", "10.96.0.72:8000", client); len(got) != 1 {
		t.Errorf("a client with affinity met %v by a port that is mapped", got)
	}
	for kept := range got {
		w.of("loyal", kept).State = model.Unhealthy
		w.reconcile(false)
		if again := w.tasks(3, "client", "tcp", "10.96.0.71:80", client); len(again) != 1 || again[kept] != 0 {
			t.Errorf("affinity to a task out of rotation: %v", again)
		}
	}
}

func TestNothingChangedNothingWritten(t *testing.T) {
	w := three(t)
	w.task("mapped", "a", "10.96.0.60", model.Port{Port: 80, Target: 80, Protocol: model.TCP},
		model.Port{Port: 53, Target: 53, Protocol: model.UDP}, model.Port{Port: 9, Target: 9, Protocol: model.SCTP}).Spec.Affinity = time.Minute
	w.task("dead", "b", "10.96.0.61").State = model.Unhealthy
	w.reconcile(false)
	if n := writes(func() { w.reconcile(true) }); n != 0 {
		t.Errorf("the second pass wrote %d times", n)
	}
	before := w.sh("ipset save | sort; cat /proc/net/ip_vs")
	w.b = w.balancer()
	if n := writes(func() { w.reconcile(true); w.reconcile(false) }); n != 0 {
		t.Errorf("a new agent wrote %d times", n)
	}
	if after := w.sh("ipset save | sort; cat /proc/net/ip_vs"); after != before {
		t.Errorf("kernel before:\n%s\nafter:\n%s", before, after)
	}
}

func TestWhatOthersBreakIsRepaired(t *testing.T) {
	for name, harm := range map[string]string{
		"rules":      "iptables -F; iptables -t mangle -F; iptables -t nat -F; iptables -t raw -F; iptables -P FORWARD ACCEPT; iptables -P INPUT ACCEPT",
		"chains":     "iptables -t mangle -F; iptables -t mangle -X; iptables -F SHOAL-VIP",
		"one rule":   "iptables -t mangle -D SHOAL-MARK 1",
		"order":      "iptables -I INPUT 1 -j DROP; iptables -I FORWARD 1 -j DROP",
		"route":      "ip route del local 10.96.0.0/16 dev lo",
		"services":   "ipvsadm -C",
		"scheduler":  "ipvsadm-save -n | head -1 | sed 's/-A \\(-f [0-9]*\\) .*/ipvsadm -E \\1 -s lc/' | sh",
		"weights":    "ipvsadm-save -n | grep -- -a | sed 's/^-a/ipvsadm -e/;s/-w 1/-w 0/' | sh",
		"sets":       "for s in $(ipset list -n); do ipset flush $s; done",
		"wrong mark": "ipset add SHOAL-VIP 10.96.0.50 skbmark 0x7 -exist; ipset add SHOAL-VIP 10.96.9.9 skbmark 0x8",
		"sysctl":     "sysctl -qw net.ipv4.vs.conntrack=0 net.ipv4.ip_forward=0 net.bridge.bridge-nf-call-iptables=0",
		"timeouts":   "ipvsadm --set 900 0 0",
	} {
		t.Run(name, func(t *testing.T) {
			w := three(t)
			before := w.sh(kernelState)
			w.sh(harm)
			if w.sh(kernelState) == before {
				t.Fatalf("no harm was done: %s", harm)
			}
			w.reconcile(true)
			if name == "rules" {
				w.restore(w.engineRules())
				w.reconcile(true)
			}
			if after := w.sh(kernelState); name != "order" && name != "rules" && after != before {
				t.Errorf("kernel before:\n%s\nafter:\n%s", before, after)
			}
			if got := w.tasks(9, "client", "tcp", vip+":80", w.addr["client"].String()); !maps.Equal(got, evenly) {
				t.Errorf("after the repair: %v", got)
			}
			w.refused("client", "tcp", "10.96.9.9:80")
			if n := writes(func() { w.reconcile(true) }); n != 0 {
				t.Errorf("the pass after the repair wrote %d times", n)
			}
		})
	}
}

// kernelState prints all that the balancer may touch, in an order that does not
// depend on when it was made.
const kernelState = `for t in raw mangle nat filter; do iptables -t $t -L -n >/dev/null; done
bridge -d link | grep -o 'hairpin o[nf]*'
iptables-save | sed 's/\[[0-9:]*\]//;/^#/d'
ipset save | sort | sed 's/ initval [^ ]*//'
ip route show table local | sort; ip rule
ipvsadm-save -n | sort; ipvsadm -l --timeout
sysctl net.ipv4.ip_forward net.ipv4.vs net.bridge net.ipv4.conf.all net.ipv4.conf.br1`

func TestDownLeavesTheHostAsItWas(t *testing.T) {
	w := newWorld(t, "client", "a")
	w.sh("ipvsadm -A -t 192.0.2.1:99 -s rr; ipvsadm -A -f 7 -s rr; ipset create OTHER hash:ip; ipset add OTHER 1.2.3.4; sysctl -qw net.bridge.bridge-nf-call-iptables=0")
	before := w.sh(kernelState)
	w.serve("a", 80, "tcp")
	w.task("web", "a", vip)
	w.reconcile(true)
	w.b = w.balancer()
	w.reconcile(true)
	if w.sh(kernelState) == before {
		t.Fatal("nothing was made")
	}
	opts := w.b.opts
	for range 2 {
		w.ok(Down(context.Background(), opts))
		if after := w.sh(kernelState); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
	}
	if files := strings.Fields(w.sh("ls " + w.dir)); len(files) != 0 {
		t.Errorf("left in the state folder: %v", files)
	}
}

func TestFailingServiceDoesNotStopTheOthers(t *testing.T) {
	w := newWorld(t, "client", "a")
	w.serve("a", 80, "tcp")
	w.task("bad", "a", "10.96.0.80").Spec.Scheduler = "nosuch"
	w.task("good", "a", "10.96.0.81")
	next, problems := finish(w.b, w.snapshot(), true)
	if len(problems) != 2 || !slices.ContainsFunc(problems, func(p model.Problem) bool {
		return p.Kind == "service" && p.Object == "default/bad" && strings.Contains(p.Reason, "ip_vs_nosuch")
	}) {
		t.Errorf("problems: %+v", problems)
	}
	if next <= 0 || next > firstRetry {
		t.Errorf("next try in %v", next)
	}
	if a, err := w.ask("client", "tcp", "10.96.0.81:80"); err != nil || a.task != "a" {
		t.Errorf("the good one: %v, %v", a, err)
	}
	w.refused("client", "tcp", "10.96.0.80:80")
	w.of("bad", "a").Spec.Scheduler = "rr"
	w.reconcile(false)
	if a, err := w.ask("client", "tcp", "10.96.0.80:80"); err != nil || a.task != "a" {
		t.Errorf("the bad one, mended: %v, %v", a, err)
	}
}

func TestTaskOfTheHostItself(t *testing.T) {
	w := newWorld(t, "client")
	w.serve("host@192.0.2.1", 8000, "tcp", "udp")
	w.task("web", "host", vip)
	w.reconcile(true)
	for _, network := range []string{"tcp", "udp"} {
		w.tasks(1, "client", network, vip+":8000", w.addr["client"].String())
		w.tasks(1, "host", network, vip+":8000", hostAddr.String())
	}
}

func TestStatsAndInspectTellWhatTheKernelHas(t *testing.T) {
	w := three(t)
	w.tasks(9, "client", "tcp", vip+":80", w.addr["client"].String())
	w.until("IPVS has counted, as it does every two seconds", func() bool {
		stats, err := w.b.Stats()
		w.ok(err)
		return len(stats) == 1 && stats[0].Connections == 9 && stats[0].BytesIn > 0 && stats[0].BytesOut > 0
	})
	v, err := w.b.Inspect(context.Background(), w.vips[model.ServiceID{Stack: "default", Name: "web"}])
	w.ok(err)
	if v.Route != "local 10.96.0.0/16 dev lo src 192.0.2.1" || !v.Ping || len(v.Broken) != 0 || len(v.Rules) != 4 || len(v.Fronts) != 2 {
		t.Fatalf("view: %+v", v)
	}
	if f := v.Fronts[0]; f.Protocol != model.TCP || !f.Open || !f.Service || f.Scheduler != "rr" || len(f.Dests) != 3 || f.Dests[0].Weight != 1 {
		t.Errorf("front: %+v", f)
	}
	w.sh("ip route del local 10.96.0.0/16 dev lo; ipvsadm -C; ipset flush SHOAL-PING; iptables -t mangle -F SHOAL-MARK")
	v, err = w.b.Inspect(context.Background(), v.VIP)
	w.ok(err)
	if v.Route != "" || v.Ping || len(v.Broken) != 1 || v.Fronts[0].Service {
		t.Errorf("view of the broken kernel: %+v", v)
	}
}
