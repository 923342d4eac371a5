package conformance

import (
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"shoal/lb"
	"shoal/model"
)

var leavingTests = []test{
	{"ADrainingTaskFinishesWhatItHoldsAndGetsNoMore", draining, false},
	{"ADrainWaitsForTheAnswerToAClientThatHasClosedItsEnd", halfClosedDrain, false},
	{"NobodyHoldsATaskWithoutIPv4", heldWithoutIPv4, false},
	{"AnIdleDrainingTaskLeavesBeforeItsDeadline", idleDrain, false},
	{"ADrainEndsAtItsDeadline", drainDeadline, false},
	{"AnUnhealthyTaskKeepsWhatItHas", unhealthy, false},
	{"TheLastTaskFinishesWhileNewConnectionsAreRefused", lastTask, false},
	{"UDPMovesWhenItsTaskIsGone", udpMoves, false},
	{"ClientsLearnThatTheirTaskIsGone", taskGone, false},
	{"ClientsLearnThatTheOnlyTaskIsGone", onlyTaskGone, false},
	{"AnAddressThatIsUsedAgainIsAnotherTask", addressAgain, false},
}

// backends are those of a frontend, as the kernel has them.
func (w *world) backends(h *host, k lb.Key) (addrs []netip.Addr) {
	w.t.Helper()
	h.must(w.t, func() error {
		v, err := h.dp.Inspect(context.Background(), k)
		if err != nil {
			return err
		}
		for _, f := range v.Fronts {
			if f.Key != k {
				continue
			}
			for _, b := range f.Backends {
				addrs = append(addrs, b.Addr.Addr())
			}
		}
		return nil
	})
	return addrs
}

func key(at string, proto model.Protocol, port uint16) lb.Key {
	return lb.Key{VIP: netip.MustParseAddr(at), Protocol: proto, Port: port}
}

func (w *world) held(h *host, task string) (held lb.Held) {
	w.t.Helper()
	h.must(w.t, func() (err error) { held, err = h.dp.Held(w.names[task].addr); return err })
	return held
}

// heldWithoutIPv4 asks who holds connections to a task that has an IPv6 address alone: nobody is led there, and that is no error.
func heldWithoutIPv4(t *testing.T, w *world) {
	var held lb.Held
	w.a.must(t, func() (err error) { held, err = w.a.dp.Held(netip.MustParseAddr("2001:db8::1")); return err })
	if held != (lb.Held{}) {
		t.Errorf("connections to an IPv6 address: %+v", held)
	}
}

func draining(t *testing.T, w *world) {
	w.service("web", vip, model.Spec{}, "a1", "x1")
	w.reconcile()
	for _, from := range []string{"a4", "a"} {
		tcp := w.holdAt("a1", from, "tcp", vip+":80")
		udp := w.holdAt("a1", from, "udp", vip+":80") // a steady sender
		w.drain("web", "a1", time.Minute)
		if r := w.pass(w.a, false); r.Again <= 0 {
			t.Error("nobody looks at the draining task again")
		}
		w.moves(udp, "a1")
		w.by(from, "tcp", vip+":80", "x1")
		w.repair()
		if err := tcp.echo(); err != nil {
			t.Errorf("%s: the connection that is held: %v", from, err)
		}
		w.until("the drain holds one connection, and the task is given no more", func() bool {
			return w.held(w.a, "a1") == lb.Held{Connections: 1}
		})
		// A new agent finds the drain and goes on with it.
		w.restart(w.a)
		w.nothingWritten(w.a, true, "a new agent during a drain")
		if err := tcp.echo(); err != nil {
			t.Errorf("%s: the connection that is held, after a restart: %v", from, err)
		}
		tcp.Close()
		w.task("web", "a1").State = model.Running
		w.reconcile()
	}
}

func halfClosedDrain(t *testing.T, w *world) {
	w.service("web", vip, model.Spec{}, "a1", "x1")
	w.reconcile()
	for _, from := range []string{"a4", "a"} {
		answer := w.names["a1"].answerLate()
		c := w.holdAt("a1", from, "tcp", vip+":80")
		if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		w.drain("web", "a1", time.Minute)
		w.reconcile()
		w.until("the task is given no more", func() bool { return !w.held(w.a, "a1").Open })
		w.repair()
		if held := w.held(w.a, "a1"); held.Connections != 1 {
			t.Errorf("%s: held, with an answer to come: %+v", from, held)
		}
		answer()
		c.SetDeadline(time.Now().Add(waitLimit))
		if got, err := io.ReadAll(c.r); string(got) != lastWords {
			t.Errorf("%s: the answer is %q, %v", from, got, err)
		}
		c.Close()
		w.until("nothing is held", func() bool { return w.held(w.a, "a1") == lb.Held{} })
		w.task("web", "a1").State = model.Running
		w.reconcile()
	}
}

func idleDrain(t *testing.T, w *world) {
	w.service("web", vip, model.Spec{}, "a1", "x1")
	w.reconcile()
	w.drain("web", "a1", time.Hour)
	w.reconcile()
	w.until("the idle task is gone, and nobody looks again", func() bool {
		r := w.pass(w.a, false)
		return r.Again == 0 && !slices.Contains(w.backends(w.a, key(vip, model.TCP, 0)), w.names["a1"].addr)
	})
	if held := w.held(w.a, "a1"); held != (lb.Held{}) {
		t.Errorf("held of the idle task: %+v", held)
	}
}

func drainDeadline(t *testing.T, w *world) {
	w.service("web", vip, model.Spec{}, "a1", "x1")
	w.reconcile()
	cut := w.holdAt("a1", "a4", "tcp", vip+":80")
	kept := w.holdAt("x1", "a4", "tcp", vip+":80")
	w.drain("web", "a1", time.Minute)
	w.drain("web", "x1", time.Hour)
	w.reconcile()
	if err := cut.echo(); err != nil {
		t.Errorf("before the deadline: %v", err)
	}
	w.task("web", "a1").Since = time.Now().Add(-time.Minute)
	w.reconcile()
	if got := w.backends(w.a, key(vip, model.TCP, 0)); slices.Contains(got, w.names["a1"].addr) {
		t.Errorf("backends after the deadline of a1: %v", got)
	}
	w.learns(cut)
	if err := kept.echo(); err != nil {
		t.Errorf("the connection to the task with time left: %v", err)
	}
}

func unhealthy(t *testing.T, w *world) {
	w.service("web", vip, model.Spec{}, "a1", "x1")
	w.reconcile()
	tcp := w.holdAt("a1", "a4", "tcp", vip+":80")
	udp := w.holdAt("a1", "a4", "udp", vip+":80")
	for _, state := range []model.State{model.Unhealthy, model.Paused, model.Lost} {
		w.task("web", "a1").State, w.task("web", "a1").Since = state, time.Now()
		w.reconcile()
		w.by("a4", "tcp", vip+":80", "x1")
		w.moves(udp, "a1")
		if err := tcp.echo(); err != nil {
			t.Errorf("%s: the connection that is held: %v", state, err)
		}
	}
	w.task("web", "a1").State = model.Running
	w.reconcile()
	w.evenly("a4", "tcp", vip+":80", w.names["a4"].addr, "a1", "x1")
}

func lastTask(t *testing.T, w *world) {
	w.listen("a", "0.0.0.0:80") // not to be taken for the task
	w.service("web", vip, model.Spec{}, "a1")
	w.reconcile()
	tcp := w.hold("a4", "tcp", vip+":80")
	udp := w.hold("a4", "udp", vip+":80")
	own := w.hold("a", "udp", vip+":80") // of a process of the host
	w.task("web", "a1").State = model.Unhealthy
	w.reconcile()
	w.refused("a4", "tcp", vip+":80")
	w.refused("a4", "udp", vip+":80")
	w.until("UDP of the host's old socket is not answered", func() bool { return own.hear(silence) != nil })
	own.hear(silence) // it sends while there is no task
	if w.plane.leads("udp") {
		w.until("UDP of the old socket is not answered", func() bool { return udp.hear(silence) != nil })
	}
	if udp.hear(silence) == nil {
		t.Errorf("UDP after the last task left: %s answers", udp.task)
	}
	w.restart(w.a)
	w.nothingWritten(w.a, true, "a new agent")
	if err := tcp.echo(); err != nil {
		t.Errorf("the connection that is held: %v", err)
	}
	w.task("web", "a1").State = model.Running
	w.reconcile()
	w.by("a4", "tcp", vip+":80", "a1")
	if err := tcp.echo(); err != nil {
		t.Errorf("the connection that is held, after the task is healthy again: %v", err)
	}
	w.until("UDP of the host's old socket", func() bool { return own.hear(silence) == nil && own.task == "a1" })
	w.until("UDP of the old socket", func() bool { return udp.hear(silence) == nil && udp.task == "a1" })
}

func udpMoves(t *testing.T, w *world) {
	w.service("web", vip, ports("53:80/udp"), "a1", "x1")
	w.service("all", "10.96.0.60", model.Spec{}, "a1", "x1")
	w.reconcile()
	for _, from := range []string{"a4", "x2", "a"} {
		for service, to := range map[string]string{"web": vip + ":53", "all": "10.96.0.60:80"} {
			udp := w.holdAt("a1", from, "udp", to)
			w.gone(service, "a1")
			w.reconcile()
			w.moves(udp, "a1")
			w.service(service, to[:len(to)-3], w.services[service].Spec, "a1", "x1")
			w.reconcile()
		}
	}
}

// learns tells that a client with a connection that it writes to hears that its
// task is gone.
func (w *world) learns(c *conn) {
	w.t.Helper()
	if c.led && w.plane.Unclosed != "" {
		w.t.Logf("the connection may go on, as is known: %s", w.plane.Unclosed)
		return
	}
	begun := time.Now()
	err := c.echo()
	for c.led && err == nil && time.Since(begun) < learnLimit {
		err = c.echo()
	}
	switch took := time.Since(begun).Round(time.Millisecond); {
	case err == nil:
		w.t.Error("the connection goes on")
	case took >= learnLimit:
		w.t.Errorf("the client learns only after %v: %v", took, err)
	}
}

func taskGone(t *testing.T, w *world) {
	for _, from := range []string{"a4", "x2", "a"} {
		w.service("web", vip, model.Spec{}, "a1", "x1")
		w.reconcile()
		c := w.holdAt("a1", from, "tcp", vip+":80")
		w.gone("web", "a1")
		w.reconcile()
		w.learns(c)
	}
}

func onlyTaskGone(t *testing.T, w *world) {
	w.service("web", vip, model.Spec{}, "a1")
	w.reconcile()
	c := w.hold("a4", "tcp", vip+":80")
	w.services["web"].Tasks = nil
	w.reconcile()
	w.learns(c)
	w.refused("a4", "tcp", vip+":80")
}

// An engine gives the address of a container that is gone to the next one.
func addressAgain(t *testing.T, w *world) {
	w.service("old", vip, model.Spec{}, "a1")
	w.service("new", "10.96.0.60", model.Spec{})
	w.reconcile()
	c := w.hold("a4", "tcp", vip+":80")
	w.services["old"].Tasks = nil
	w.service("new", "10.96.0.60", model.Spec{}, "a1")
	w.reconcile()
	w.learns(c)
	w.by("a4", "tcp", "10.96.0.60:80", "a1")
	w.refused("a4", "tcp", vip+":80")
}
