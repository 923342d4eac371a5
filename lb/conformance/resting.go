package conformance

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/model"
)

var restingTests = []test{
	{"AnAddressThatChangedHandsGetsNothingMeantForItsFormerOwner", changedHands, true},
	{"ARestIsForgottenByANewProcess", restForgotten, true},
}

// rest has addresses of tasks of a host rest that these just had.
func (h *host) rest(containers ...*namespace) {
	h.resting = nil
	for _, c := range containers {
		h.resting = append(h.resting, c.addr)
	}
}

// someRefused asks the service as often as each of three tasks is asked twice:
// those that still serve answer, and requests for the third are refused at once.
func (w *world) someRefused(from, network, to string, tasks ...string) {
	w.t.Helper()
	answered, refused := map[string]int{}, 0
	for range 2 * (len(tasks) + 1) {
		start := time.Now()
		a, err := w.names[from].ask(network, to)
		switch {
		case errors.Is(err, unix.ECONNREFUSED) && time.Since(start) < waitLimit/2:
			refused++
		case err != nil:
			w.t.Errorf("%s → %s/%s: %v after %v", from, to, network, err, time.Since(start).Round(time.Millisecond))
			w.timedOut(err)
		default:
			answered[a.task]++
		}
	}
	for _, task := range tasks {
		if answered[task] != 2 {
			w.t.Errorf("%s → %s/%s: answered by %v, want each of %v twice", from, to, network, answered, tasks)
		}
		delete(answered, task)
	}
	if len(answered) > 0 || refused != 2 {
		w.t.Errorf("%s → %s/%s: besides, answered by %v and %d times refused, want nobody and 2", from, to, network, answered, refused)
	}
}

// changedHands: the task a1 of web is gone, and its address is that of a task of
// another service, which only host a knows.
func changedHands(t *testing.T, w *world) {
	w.wide()
	a1 := netip.AddrPortFrom(w.names["a1"].addr, 80).String()
	b, c := w.hosts[1], w.hosts[2]
	networks := []string{"tcp", "udp"}
	held := w.holdAt("a1", "b2", "tcp", vip+":80")
	senders := map[string]*conn{
		"b2 by the VIP":      w.holdAt("a1", "b2", "udp", vip+":80"),
		"c1 by the VIP":      w.holdAt("a1", "c1", "udp", vip+":80"),
		"b2 by its address":  w.hold("b2", "udp", a1),
		"a client by host b": w.holdAt("a1", "client", "udp", b.at(8000)),
		"a client by host c": w.holdAt("a1", "client", "udp", c.at(8000)),
	}

	w.gone("web", "a1")
	w.a.rest(w.names["a1"])
	w.pass(w.a, false)
	for _, network := range networks { // nobody has the address, or somebody whom nothing is known of
		for _, h := range []*host{b, c} {
			w.someRefused("client", network, h.at(8000), "b1", "c1")
		}
	}
	w.service("other", "10.96.0.60", publish("8001:80/tcp", "8001:80/udp"), "a1")
	w.pass(w.a, false)
	for _, network := range networks {
		for _, from := range []string{"b2", "c1", "b", "c"} {
			w.someRefused(from, network, vip+":80", "b1", "c1")
		}
		w.someRefused("client", network, b.at(8000), "b1", "c1")
		w.someRefused("client", network, c.at(8000), "b1", "c1")
		w.someRefused("b2", network, b.at(8000), "b1", "c1")
		for _, from := range []string{"b2", "c1", "b", "c"} {
			w.refused(from, network, a1)
		}
	}
	for who, s := range senders {
		s.task = ""
		for range 3 { // what is refused is told by the call after
			if err := s.hear(silence); err == nil && s.task == "a1" {
				t.Errorf("a steady sender, %s, is answered by the address's new owner", who)
			}
		}
	}
	if err := held.echo(); err != nil {
		t.Errorf("a connection that the kernel at that address still has: %v", err)
	}

	// Host a knows who has the address, and who has it may connect to anybody.
	for _, network := range networks {
		for _, from := range []string{"a", "a4", "x2"} {
			w.by(from, network, "10.96.0.60:80", "a1")
			w.by(from, network, a1, "a1")
			w.by(from, network, vip+":80", "b1", "c1")
		}
		w.by("client", network, w.a.at(8001), "a1")
		w.by("client", network, w.a.at(8000), "b1", "c1")
		w.by("a1", network, netip.AddrPortFrom(w.names["b2"].addr, 80).String(), "b2")
		w.by("a1", network, netip.AddrPortFrom(w.names["c1"].addr, 80).String(), "c1")
		w.by("a1", network, vip+":80", "b1", "c1")
		w.by("b2", network, netip.AddrPortFrom(w.names["a3"].addr, 80).String(), "a3")
	}

	// The other hosts follow. The address is closed to them until the rest is over.
	w.reconcile()
	for _, network := range networks {
		w.evenly("b2", network, vip+":80", netip.Addr{}, "b1", "c1")
		for _, h := range []*host{b, c} {
			w.evenly("client", network, h.at(8000), clientAddr, "b1", "c1")
			w.refused("client", network, h.at(8001))
		}
		w.refused("b2", network, "10.96.0.60:80")
	}
	w.nothingWritten(w.a, false, "during a rest")
	w.nothingWritten(w.a, true, "during a rest")
	w.a.rest()
	w.reconcile()
	for _, network := range networks {
		for _, from := range []string{"b2", "c1", "b", "a4"} {
			w.by(from, network, "10.96.0.60:80", "a1")
		}
		for _, h := range w.hosts {
			w.evenly("client", network, h.at(8001), clientAddr, "a1")
		}
	}
}

// restForgotten: nothing remembers a rest but the process that began it.
func restForgotten(t *testing.T, w *world) {
	w.wide()
	w.service("idle", "", model.Spec{}, "a2")
	w.a.rest(w.names["a3"])
	w.reconcile()
	for _, network := range []string{"tcp", "udp"} {
		w.refused("b2", network, netip.AddrPortFrom(w.names["a3"].addr, 80).String())
		w.by("b2", network, netip.AddrPortFrom(w.names["a2"].addr, 80).String(), "a2")
	}
	w.a.rest()
	w.restart(w.a)
	w.pass(w.a, true)
	for _, network := range []string{"tcp", "udp"} {
		w.by("b2", network, netip.AddrPortFrom(w.names["a3"].addr, 80).String(), "a3")
		w.evenly("b2", network, vip+":80", netip.Addr{}, "a1", "b1", "c1")
	}
}
