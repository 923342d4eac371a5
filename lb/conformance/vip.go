package conformance

import (
	"maps"
	"net/netip"
	"testing"

	"shoal/model"
)

var vipTests = []test{
	{"EveryClientReachesEveryTaskAndIsSeen", everyClient, false},
	{"TasksOfOtherHostsSeeWhomTheyCanAnswer", tasksElsewhere, true},
	{"TheVIPStaysWhileTasksComeAndGo", stableVIP, true},
	{"LiveVIPsAnswerPing", ping, false},
	{"WhatIsNotServedIsRefusedAtOnce", refusals, false},
	{"NamedPortsWinOverAllPorts", namedPorts, false},
	{"MappedPorts", mappedPorts, true},
	{"SCTPIsBalanced", sctpVIP, false},
	{"ATaskReachesItselfAndOnlyItIsMasqueraded", hairpin, false},
	{"ProcessesOfTheHostAreTasks", hostTask, false},
	{"AContainerReachesTasksByTheirOwnAddresses", ownAddresses, false},
	{"PortsThatTheEnginePublishesAreNotThoseOfAVIP", enginePort, false},
	{"AVIPPassesFromOneServiceToAnother", vipPasses, false},
}

const vip = "10.96.0.50"

// three is a service with tasks on one bridge and on another.
func (w *world) three() {
	w.service("web", vip, model.Spec{}, "a1", "a2", "x1")
	w.reconcile()
}

func everyClient(t *testing.T, w *world) {
	w.three()
	for _, network := range []string{"tcp", "udp"} {
		for _, from := range []string{"a4", "x2", "a"} { // on the bridges of the tasks, and the host itself
			w.sub(network+" from "+from, func(*testing.T) {
				w.evenly(from, network, vip+":80", w.seen(from, network), "a1", "a2", "x1")
			})
		}
	}
}

// A host knows no way to the networks that an engine made on another: only
// masqueraded can such a container be answered. The network between hosts is
// known to all.
func tasksElsewhere(t *testing.T, w *world) {
	w.service("web", vip, model.Spec{}, "b1", "c1")
	w.reconcile()
	for _, network := range []string{"tcp", "udp"} {
		w.evenly("a4", network, vip+":80", w.names["a4"].addr, "b1", "c1")
		w.evenly("x2", network, vip+":80", netip.Addr{}, "b1", "c1")
		w.evenly("a", network, vip+":80", netip.Addr{}, "b1", "c1")
	}
	w.service("web", vip, model.Spec{}, "b1")
	w.reconcile()
	w.evenly("x2", "tcp", vip+":80", hostA, "b1")
	w.evenly("a", "tcp", vip+":80", hostA, "b1")
}

func stableVIP(t *testing.T, w *world) {
	for _, tasks := range [][]string{{"a1"}, {"a1", "x1"}, {"x1"}, {"x1", "b1"}, {"a2"}} {
		w.service("web", vip, model.Spec{}, tasks...)
		w.reconcile()
		w.evenly("a4", "tcp", vip+":80", w.names["a4"].addr, tasks...)
	}
	w.service("web", vip, model.Spec{})
	w.reconcile()
	w.refused("a4", "tcp", vip+":80")
	w.service("web", vip, model.Spec{}, "a1")
	w.reconcile()
	w.by("a4", "tcp", vip+":80", "a1")
}

func ping(t *testing.T, w *world) {
	w.service("live", vip, ports("80:80/tcp"), "a1")
	w.service("dead", "10.96.0.51", model.Spec{}, "a1")
	w.task("dead", "a1").State = model.Unhealthy
	w.reconcile()
	for _, from := range []string{"a4", "x2", "a"} {
		for _, to := range []string{vip, dnsVIP.String(), dnsPeers.String()} {
			if err := w.names[from].ping(to, waitLimit); err != nil {
				t.Errorf("ping of %s from %s: %v", to, from, err)
			}
		}
		if w.names[from].ping("10.96.0.51", silence) == nil {
			t.Errorf("a VIP without a live task answers ping from %s", from)
		}
	}
	w.task("live", "a1").State = model.Unhealthy
	w.reconcile()
	if w.names["a4"].ping(vip, silence) == nil {
		t.Error("a VIP answers ping after its last task left")
	}
}

func refusals(t *testing.T, w *world) {
	for _, at := range []string{"0.0.0.0:80", "0.0.0.0:9999", "0.0.0.0:7777"} {
		w.listen("a", at)
	}
	w.service("mapped", "10.96.0.60", ports("80:8080/tcp"), "a1")
	w.service("idle", "10.96.0.61", model.Spec{}, "a1")
	w.task("idle", "a1").State = model.Starting
	w.service("empty", "10.96.0.62", model.Spec{})
	w.reconcile()
	for _, from := range []string{"a4", "x2", "a"} {
		for _, to := range []string{
			"10.96.0.60:9999", // a port that the service does not name
			"10.96.0.60:7777", // and that the engine publishes
			"10.96.0.61:80",   // no task in rotation
			"10.96.0.62:80",   // no task at all
			"10.96.7.7:80",    // no service
			"10.96.0.10:80",   // the address for DNS, another port
		} {
			w.refused(from, "tcp", to)
			w.refused(from, "udp", to)
		}
		w.refused(from, "udp", "10.96.0.60:80") // named for TCP only
		w.by(from, "tcp", "10.96.0.60:80", "a1")
	}
	// A socket whose datagram was refused gets through once there is somebody.
	udp, err := w.names["a4"].dial("udp", "10.96.0.61:80", netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	if udp.hear(silence) == nil {
		t.Fatal("answered, though no task is in rotation")
	}
	w.task("idle", "a1").State = model.Running
	w.reconcile()
	w.until("UDP of a socket that was refused", func() bool { return udp.hear(silence) == nil })
}

func namedPorts(t *testing.T, w *world) {
	w.service("web", vip, model.Spec{}, "a1", "a2")
	w.task("web", "a2").Spec.Ports = ports("80:8080/tcp").Ports
	w.reconcile()
	// Port 80 is named by one and served by both; the others by the one that
	// serves all.
	w.evenly("a4", "tcp", vip+":80", w.names["a4"].addr, "a1", "a2")
	w.by("a4", "tcp", vip+":9000", "a1")
	w.by("a4", "udp", vip+":80", "a1")
}

func mappedPorts(t *testing.T, w *world) {
	w.service("web", vip, ports("80:8080/tcp", "443:9000/tcp", "53:8080/udp"), "a1", "x1", "b1")
	w.reconcile()
	for _, c := range []struct {
		network, port string
		target        int
	}{{"tcp", "80", 8080}, {"tcp", "443", 9000}, {"udp", "53", 8080}} {
		for _, from := range []string{"a4", "x2", "a", "a1"} {
			for range 3 {
				a, err := w.names[from].ask(c.network, vip+":"+c.port)
				if err != nil || a.port != c.target {
					t.Errorf("%s → %s/%s: %+v, %v; want port %d of the task", from, c.port, c.network, a, err, c.target)
				}
			}
		}
	}
	w.refused("a4", "tcp", vip+":8080")
}

func hairpin(t *testing.T, w *world) {
	w.service("web", vip, model.Spec{}, "a1", "x1")
	w.service("mapped", "10.96.0.60", ports("80:8080/tcp", "80:8080/udp"), "a1")
	w.reconcile()
	for _, network := range []string{"tcp", "udp"} {
		for range 4 {
			a, err := w.names["a1"].ask(network, vip+":80")
			if own := w.names["a1"].addr; err != nil || (a.client == own) == (a.task == "a1" && !w.plane.leads(network)) {
				t.Errorf("a1 → %s: %s saw %s, %v; want another than %s where the task is the client, else it", network, a.task, a.client, err, own)
			}
		}
		w.by("a1", network, "10.96.0.60:80", "a1")
		// Nobody else is masqueraded, the task's neighbours least of all.
		w.evenly("a2", network, "10.96.0.60:80", w.names["a2"].addr, "a1")
	}
}

func hostTask(t *testing.T, w *world) {
	w.listen("a", "192.168.88.11:8000")
	w.service("web", vip, model.Spec{}, "a")
	w.service("mapped", "10.96.0.60", ports("80:8000/tcp", "80:8000/udp"), "a")
	w.reconcile()
	for _, network := range []string{"tcp", "udp"} {
		for _, from := range []string{"a4", "x2", "a"} {
			w.evenly(from, network, vip+":8000", w.names[from].addr, "a")
			w.evenly(from, network, "10.96.0.60:80", w.names[from].addr, "a")
		}
	}
}

func ownAddresses(t *testing.T, w *world) {
	w.three()
	for _, from := range []string{"a4", "x2"} {
		for _, task := range []string{"a1", "x1"} {
			w.evenly(from, "tcp", netip.AddrPortFrom(w.names[task].addr, 80).String(), w.names[from].addr, task)
		}
	}
	// What is no task stays as the engine left it.
	w.unreached("a4", netip.AddrPortFrom(w.names["x2"].addr, 80).String())
	w.unreached("x2", netip.AddrPortFrom(w.names["a4"].addr, 80).String())
}

func enginePort(t *testing.T, w *world) {
	w.service("web", vip, model.Spec{}, "a")
	w.listen("a", "192.168.88.11:7777")
	w.reconcile()
	for _, from := range []string{"a4", "x2", "a"} {
		w.by(from, "tcp", vip+":7777", "a")
	}
}

// In one Snapshot, so in one Delta: what of a VIP goes, goes first.
func vipPasses(t *testing.T, w *world) {
	w.service("shop", vip, ports("80:8080/tcp", "443:9000/tcp"), "a1")
	w.reconcile()

	for _, c := range []struct {
		name string
		spec model.Spec
		task string
	}{{"blog", model.Spec{}, "a2"}, {"zoo", ports("80:80/tcp"), "x1"}, {"art", model.Spec{}, "a1"}} {
		clear(w.services)
		w.service(c.name, vip, c.spec, c.task)
		w.reconcile()
		w.evenly("a4", "tcp", vip+":80", w.names["a4"].addr, c.task)
	}
	w.by("a4", "tcp", vip+":9000", "a1") // no port is named any more
}

func sctpVIP(t *testing.T, w *world) {
	for _, task := range []string{"a1", "x1"} {
		defer w.names[task].serveSCTP(t, 9000)()
	}
	w.service("all", vip, model.Spec{}, "a1", "x1")
	w.service("mapped", "10.96.0.60", ports("36412:9000/sctp"), "a1", "x1")
	w.reconcile()
	for _, to := range []string{vip + ":9000", "10.96.0.60:36412"} {
		got := map[string]int{}
		for range 4 {
			a, err := w.names["a4"].askSCTP(netip.MustParseAddrPort(to))
			if err != nil || a.client != w.names["a4"].addr {
				t.Errorf("a4 → %s: %+v, %v", to, a, err)
			}
			got[a.task]++
		}
		if !maps.Equal(got, map[string]int{"a1": 2, "x1": 2}) {
			t.Errorf("a4 → %s: answers by task %v", to, got)
		}
	}
	if a, err := w.names["a4"].askSCTP(netip.MustParseAddrPort("10.96.0.60:9000")); err == nil {
		t.Errorf("a port that is not named: %+v", a)
	}
}
