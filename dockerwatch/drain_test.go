package dockerwatch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/google/go-cmp/cmp"

	"shoal/model"
)

func TestADrainedContainerIsTakenBackUnlessItWasToldToStop(t *testing.T) {
	v := newInventory()
	c := inspected("one", "service=web drain=5s", "bridge=172.17.0.2")
	v.see(c, t0)
	f := v.containers["one"]
	state := func() string {
		task := v.local().Containers[0].Tasks[0]
		return fmt.Sprint(task.State, " ", task.Since.Sub(t0))
	}
	var got []string
	v.drain(f, t0.Add(time.Second))
	v.drain(f, t0.Add(2*time.Second)) // drains already
	got = append(got, state())
	if err := v.undrain(f); err != nil {
		t.Error(err)
	}
	got = append(got, state())

	v.drain(f, t0.Add(3*time.Second))
	v.apply(signaledAt(10*time.Second), t0.Add(10*time.Second)) // it drains since before that
	if err := v.undrain(f); err == nil || !strings.Contains(err.Error(), "told to stop at 2026-01-02T03:04:15Z") {
		t.Errorf("taken back: %v", err)
	}
	got = append(got, state())
	// Its engine has its time from the signal on.
	due := t0.Add(10*time.Second + 10*time.Second + 5*time.Second + time.Minute)
	if len(v.expireStops(due.Add(-1))) != 0 || len(v.expireStops(due)) != 1 {
		t.Error("not back in its time")
	}
	got = append(got, state())

	v.drain(f, due)
	if due = due.Add(75 * time.Second); len(v.expireStops(due.Add(-1))) != 0 || len(v.expireStops(due)) != 1 {
		t.Error("drained and forgotten, and not back in its time")
	}
	if diff := cmp.Diff([]string{"draining 1s", "running 0s", "draining 3s", "running 0s"}, got); diff != "" {
		t.Error(diff)
	}
	v.see(inspected("other", "", "bridge=172.17.0.3"), t0)
	v.drain(v.containers["other"], t0)
	if _, drains := v.leaving["other"]; drains {
		t.Error("what is no task drains")
	}
}

func TestAContainerIsNamedAsForDocker(t *testing.T) {
	v := newInventory()
	for _, id := range []string{"abc", "abd", "abde", "b"} {
		c := inspected(id, "")
		c.Name = "/the-" + id
		v.see(c, t0)
	}
	c := inspected("f00d", "")
	c.Name = "/b00" // not the ID that begins like this
	v.see(c, t0)
	v.see(inspected("b00f", ""), t0)
	for ref, want := range map[string]string{
		"abc": "abc", "the-abc": "abc", "abd": "abd", "b": "b", "b00": "f00d", "b00f": "b00f", "f": "f00d",
		"ab": "several", "a": "several", "": "no such", "c": "no such", "the": "no such",
	} {
		f, err := v.lookup(ref)
		switch {
		case err != nil && !strings.Contains(err.Error(), want):
			t.Errorf("%q: %v, want %s", ref, err, want)
		case err == nil && f.id != want:
			t.Errorf("%q: %s, want %s", ref, f.id, want)
		}
	}
}

func TestDrainAndUndrainAreToldBeforeTheyReturn(t *testing.T) {
	e := newFakeEngine()
	e.run("a", "service=web services.admin.weight=2 services.admin.drain=7")
	e.run("b", "service=web")
	e.run("plain", "")
	h := watch(t, e, nil)
	h.wants("a:running:running b:running plain")
	ctx := t.Context()
	last := func() string { h.mu.Lock(); defer h.mu.Unlock(); return h.locals[len(h.locals)-1] }

	before := time.Now()
	tasks, err := h.w.Drain(ctx, "a")
	if err != nil || len(tasks) != 2 || tasks[0].State != model.Draining || tasks[0].Drain != 7*time.Second ||
		tasks[0].Since.Before(before) || tasks[0].Since.After(time.Now()) {
		t.Errorf("%v, %+v", err, tasks)
	}
	if got := last(); got != "a:draining:draining b:running plain" {
		t.Errorf("told %q", got)
	}
	if tasks, err := h.w.Drain(ctx, "plain"); err != nil || len(tasks) != 0 {
		t.Errorf("%v, %+v", err, tasks)
	}
	if err := h.w.Undrain(ctx, "a"); err != nil {
		t.Error(err)
	}
	if got := last(); got != "a:running:running b:running plain" {
		t.Errorf("told %q", got)
	}
	if _, err := h.w.Drain(ctx, "c"); err == nil || err.Error() != "drain container c: "+ErrUnknown.Error() {
		t.Error(err)
	}
	if err := h.w.Undrain(ctx, "c"); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}

	// The engine need not be there.
	e.cut(errors.New("away"))
	h.until("away", func() bool { return h.errs[len(h.errs)-1] != nil })
	if _, err := h.w.Drain(ctx, "b"); err != nil {
		t.Error(err)
	}
	if got := last(); got != "a:running:running b:draining plain" {
		t.Errorf("told %q", got)
	}
	e.cut(nil)
	h.until("back", func() bool { return h.errs[len(h.errs)-1] == nil })
	e.start("c", "service=web")
	h.wants("a:running:running b:draining c:running plain")
}

func TestDrainBeforeAndAfterTheEngineIsFollowed(t *testing.T) {
	e := newFakeEngine()
	e.run("a", "service=web")
	e.cut(errors.New("away"))
	h := watch(t, e, nil)
	if _, err := h.w.Drain(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "not known yet") {
		t.Error(err)
	}

	w, err := New(Options{Node: "host", Pool: testLimits.pool})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Drain(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("Run was not called: %v", err)
	}
	w.dial = func() (engine, error) { return nil, errors.New("away") }
	w.Run(ctx, nil, func(error) {})
	if _, err := w.Drain(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "no longer followed") {
		t.Errorf("Run has ended: %v", err)
	}
}

func TestManyDrainAtOnce(t *testing.T) {
	e := newFakeEngine()
	var want []string
	for i := range 20 {
		id := fmt.Sprintf("c%02d", i)
		e.run(id, "service=web")
		want = append(want, id+":draining")
	}
	h := watch(t, e, func(o *Options) { o.Resync = time.Millisecond })
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			id := fmt.Sprintf("c%02d", i)
			for range 10 {
				if _, err := h.w.Drain(t.Context(), id); err != nil {
					t.Error(err)
				}
				e.happen(events.ActionUpdate, id)
				if err := h.w.Undrain(t.Context(), id); err != nil {
					t.Error(err)
				}
			}
			if _, err := h.w.Drain(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	h.wants(strings.Join(want, " "))
}
