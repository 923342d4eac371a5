package conformance

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"shoal/model"
)

var schedulerTests = []test{
	{"TwoServicesCalledInTurnAreEachBalancedEvenly", inTurn, false},
	{"Weights", weights, false},
	{"EverySchedulerBalances", everyScheduler, false},
	{"HashingKeepsAClientsTask", hashing, false},
	{"AffinityKeepsAClientsTaskWhileThatIsInRotation", affinity, false},
	{"AffinityEndsAfterItsTime", affinityEnds, false},
	{"LocalTasksArePreferred", preferLocal, true},
	{"AFailingServiceDoesNotStopTheOthers", failing, false},
}

func inTurn(t *testing.T, w *world) {
	w.service("one", vip, model.Spec{}, "a1", "a2", "x1")
	w.service("two", "10.96.0.60", ports("80:80/tcp"), "a1", "a2", "x1")
	w.reconcile()
	got := map[string]map[string]int{vip: {}, "10.96.0.60": {}}
	for range 6 {
		for to, tasks := range got {
			for task, n := range w.answers(1, "a4", "tcp", to+":80", netip.Addr{}) {
				tasks[task] += n
			}
		}
	}
	for to, tasks := range got {
		if !maps.Equal(tasks, map[string]int{"a1": 2, "a2": 2, "x1": 2}) {
			t.Errorf("%s: answers by task %v, want two each", to, tasks)
		}
	}
}

func weights(t *testing.T, w *world) {
	w.service("web", vip, model.Spec{Scheduler: "wrr"}, "a1", "a2")
	w.task("web", "a1").Weight = 3
	w.reconcile()
	for network, want := range map[string]map[string]int{"tcp": {"a1": 6, "a2": 2}, "udp": {"a1": 6, "a2": 2}} {
		if got := w.answers(8, "a4", network, vip+":80", netip.Addr{}); !maps.Equal(got, want) {
			t.Errorf("%s, weights 3 and 1: answers by task %v, want %v", network, got, want)
		}
	}
	w.task("web", "a1").Weight = 0
	w.reconcile()
	w.by("a4", "tcp", vip+":80", "a2")
	w.by("a4", "udp", vip+":80", "a2")
}

// Those that a plane does not have are replaced by the nearest that it has, and
// a problem says so.
func everyScheduler(t *testing.T, w *world) {
	for i, s := range []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf"} {
		clear(w.services)
		v := fmt.Sprintf("10.96.1.%d", i+1)
		w.service("web", v, model.Spec{Scheduler: s}, "a1", "a2")
		pass := func() {
			t.Helper()
			w.start(w.a)
			have := w.a.dp.Scheduler(s)
			if r := w.try(w.a, false); (len(r.Problems) == 0) != (have == s) {
				t.Errorf("%s, for which %s has %s: problems %+v", s, w.a.dp.Name(), have, r.Problems)
			}
		}
		pass()
		w.by("a4", "tcp", v+":80", "a1", "a2")
		// Whichever task leaves, the other serves everybody.
		for leaving, other := range map[string]string{"a1": "a2", "a2": "a1"} {
			w.task("web", leaving).State = model.Unhealthy
			pass()
			w.by("a4", "tcp", v+":80", other)
			w.task("web", leaving).State = model.Running
			pass()
		}
	}
}

// hashing has as many clients as addresses.
func hashing(t *testing.T, w *world) {
	const clients = 24
	c := w.names["a4"]
	var from []netip.Addr
	for i := range byte(clients) {
		a := netip.AddrFrom4([4]byte{10, 244, 1, 100 + i})
		c.must(t, func() error { return address("eth0", netip.PrefixFrom(a, 24)) })
		from = append(from, a)
	}
	t.Cleanup(func() {
		for _, a := range from {
			c.sh(t, fmt.Sprintf("ip addr del %s/24 dev eth0", a))
		}
	})
	tasks := []string{"a1", "a2", "a3", "x1"}
	for _, s := range []string{"sh", "mh"} {
		w.sub(s, func(t *testing.T) {
			w.service("web", vip, model.Spec{Scheduler: s}, tasks...)
			w.reconcile()
			all := func() (who []string) {
				for _, a := range from {
					got, err := c.askFrom(a, "tcp", vip+":80")
					if err != nil || got.client != a {
						t.Errorf("from %s: %+v, %v", a, got, err)
					}
					who = append(who, got.task)
				}
				return who
			}
			before := all()
			if again := all(); !slices.Equal(before, again) {
				t.Errorf("tasks by client %v, and then %v", before, again)
			}
			if n := len(slices.Compact(slices.Sorted(slices.Values(before)))); n < 2 {
				t.Errorf("%d clients have %d task", clients, n)
			}
			lost := before[0]
			w.gone("web", lost)
			w.reconcile()
			moved := 0
			for i, task := range all() {
				if task == lost {
					t.Errorf("client %s is with %s, which is gone", from[i], lost)
				}
				if before[i] != lost && task != before[i] {
					moved++
				}
			}
			// sh promises nothing to the other tasks' clients; Maglev's tables move
			// a few in a hundred.
			if s == "mh" && moved > 2 {
				t.Errorf("%d clients of other tasks moved", moved)
			}
		})
	}
}

func affinity(t *testing.T, w *world) {
	spec := model.Spec{Affinity: time.Minute}
	w.service("all", "10.96.0.71", spec, "a1", "a2", "x1")
	mapped := ports("8000:80/tcp", "8000:80/udp")
	mapped.Affinity = time.Minute
	w.service("mapped", "10.96.0.72", mapped, "a1", "a2", "x1")
	w.reconcile()
	for service, to := range map[string]string{"all": "10.96.0.71:80", "mapped": "10.96.0.72:8000"} {
		for _, network := range []string{"tcp", "udp"} {
			w.sub(service+" "+network, func(t *testing.T) {
				got := w.answers(6, "a4", network, to, w.names["a4"].addr)
				if len(got) != 1 {
					t.Fatalf("answers by task %v, want one task", got)
				}
				for kept := range got {
					w.task(service, kept).State = model.Unhealthy
					w.reconcile()
					again := w.answers(4, "a4", network, to, w.names["a4"].addr)
					if len(again) != 1 || again[kept] != 0 {
						t.Errorf("%s is not in rotation any more: answers by task %v, want one other", kept, again)
					}
					w.task(service, kept).State = model.Running
					w.reconcile()
				}
			})
		}
	}
	w.nothingWritten(w.a, true, "with affinity in use")
}

// IPVS keeps a client's task while a connection of it is remembered, so that has
// to be short here.
func affinityEnds(t *testing.T, w *world) {
	w.a.must(t, func() error { w.a.stop(); return nil })
	usual := w.a.opts.Timeouts
	w.a.opts.Timeouts.UDP = time.Second
	t.Cleanup(func() {
		w.a.must(t, func() error { w.a.stop(); return nil })
		w.a.opts.Timeouts = usual
		w.pass(w.a, true)
	})
	const keeps = 2 * time.Second
	w.service("web", vip, model.Spec{Affinity: keeps}, "a1", "a2", "x1")
	w.reconcile()
	ask := func() string {
		a, err := w.names["a4"].ask("udp", vip+":80")
		if err != nil {
			t.Fatal(err)
		}
		return a.task
	}
	first := ask()
	begun := time.Now()
	if again := ask(); again != first && time.Since(begun) < keeps/2 {
		t.Errorf("%s, and then %s at once", first, again)
	}
	for range 3 { // the task that is chosen then may happen to be the same
		<-time.After(2*keeps + keeps/2)
		if ask() != first {
			return
		}
	}
	t.Errorf("the client is still with %s, though it has been idle for longer than %v each time", first, keeps)
}

func preferLocal(t *testing.T, w *world) {
	w.service("web", vip, model.Spec{PreferLocal: true}, "a1", "b1")
	w.reconcile()
	for _, network := range []string{"tcp", "udp"} {
		w.by("a4", network, vip+":80", "a1")
	}
	w.task("web", "a1").State = model.Unhealthy
	w.reconcile()
	for _, network := range []string{"tcp", "udp"} {
		w.by("a4", network, vip+":80", "b1")
	}
}

func failing(t *testing.T, w *world) {
	w.service("bad", "10.96.0.80", model.Spec{Scheduler: "nosuch"}, "a1")
	w.service("good", "10.96.0.81", model.Spec{}, "a1")
	r := w.try(w.a, false)
	if len(r.Problems) == 0 {
		t.Error("no problem tells that there is no scheduler nosuch")
	}
	for _, p := range r.Problems {
		if p.Object != "default/bad" {
			t.Errorf("problem of %s %s: %s", p.Kind, p.Object, p.Reason)
		}
	}
	w.by("a4", "tcp", "10.96.0.81:80", "a1")
	if w.a.dp.Scheduler("nosuch") == "nosuch" { // it is tried, and fails
		w.refused("a4", "tcp", "10.96.0.80:80")
		if r.Again <= 0 {
			t.Error("it is not tried again")
		}
	} else {
		w.by("a4", "tcp", "10.96.0.80:80", "a1")
	}
	w.service("bad", "10.96.0.80", model.Spec{}, "a1")
	w.reconcile()
	w.by("a4", "tcp", "10.96.0.80:80", "a1")
}
