//go:build e2e

package ipvs

import (
	"context"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"shoal/model"
)

// many makes n services of one task each, on networks that do not exist.
func many(w *world, n int) []netip.Addr {
	addrs := make([]netip.Addr, n)
	v, a := netip.MustParseAddr("10.96.64.0"), netip.MustParseAddr("172.18.64.0")
	for i := range n {
		id := model.ServiceID{Stack: "default", Name: "s" + v.String()}
		w.vips[id] = v
		addrs[i] = v
		w.containers = append(w.containers, model.Container{ID: id.Name, Name: id.Name, Node: "a",
			Tasks: []model.Task{{Service: id, Node: "a", Container: id.Name, Addr: a, State: model.Running, Weight: 1,
				Spec: model.Spec{Mode: model.ModeVIP, Scheduler: "rr"}}}})
		v, a = v.Next(), a.Next()
	}
	return addrs
}

// took is the time and the processor time that f took.
func took(f func()) (wall, cpu time.Duration) {
	usage := func() time.Duration {
		var u syscall.Rusage
		syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	start, before := time.Now(), usage()
	f()
	return time.Since(start), usage() - before
}

func TestTenThousandServices(t *testing.T) {
	// Another namespace with services of its own, as Docker Swarm's sandbox: not
	// to be mixed up with ours, nor to hide them.
	other := newWorld(t)
	many(other, 50)
	other.reconcile(true)

	w := newWorld(t, "client", "a")
	w.serve("a", 80, "tcp")
	many(w, 10_000)
	w.task("web", "a", vip)

	pass := func(what string, full bool) (wall time.Duration, n int) {
		t.Helper()
		snap := w.snapshot()
		var cpu time.Duration
		n = writes(func() {
			wall, cpu = took(func() {
				if _, problems := finish(w.b, snap, full); len(problems) > 0 {
					t.Errorf("%s: %d problems, first %+v", what, len(problems), problems[0])
				}
			})
		})
		t.Logf("%-32s %8v (processor %8v), %d writes", what, wall.Round(10*time.Microsecond), cpu.Round(10*time.Microsecond), n)
		return wall, n
	}
	pass("from nothing", true)
	for range 3 {
		if _, n := pass("full, nothing changed", true); n != 0 {
			t.Errorf("%d writes", n)
		}
	}
	for range 3 {
		if _, n := pass("nothing changed", false); n != 0 {
			t.Errorf("%d writes", n)
		}
	}
	w.of("web", "a").State = model.Unhealthy
	pass("one task leaves", false)
	w.of("web", "a").State = model.Running
	if wall, n := pass("one task joins", false); wall > 100*time.Millisecond || n > 10 {
		t.Errorf("it took %v and %d writes", wall, n)
	}
	if a, err := w.ask("client", "tcp", vip+":80"); err != nil || a.task != "a" {
		t.Errorf("%v, %v", a, err)
	}

	// A change does not wait for a full pass that is going on.
	if next, _ := w.b.Reconcile(context.Background(), w.snapshot(), true); next != GoOn {
		t.Errorf("a full pass over all of it was finished in one call: next in %v", next)
	}
	w.of("web", "a").State = model.Unhealthy
	snap := w.snapshot()
	if n := writes(func() { w.b.Reconcile(context.Background(), snap, false) }); n == 0 {
		t.Error("a change waits for the end of a full pass")
	}
	w.of("web", "a").State = model.Running
	pass("the end of a full pass", false)

	w.b = w.balancer()
	if _, n := pass("a new agent", true); n != 0 {
		t.Errorf("%d writes", n)
	}
	w.containers = w.containers[10_000:]
	pass("ten thousand services leave", false)
}
