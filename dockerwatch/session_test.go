package dockerwatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/events"

	"shoal/model"
)

func TestNothingIsLostBetweenListAndEvents(t *testing.T) {
	e := newFakeEngine()
	e.run("a", "service=web")
	e.run("b", "service=web")
	var once sync.Once
	e.listenAfter = make(chan struct{})
	e.onList = func() {
		once.Do(func() {
			e.start("c", "service=web")
			e.die("a")
			close(e.listenAfter)
			e.start("d", "service=web")
		})
	}
	h := watch(t, e, nil)
	h.wants("b:running c:running d:running")
}

func TestSignalsSentWhileNobodyWatchedAreRemembered(t *testing.T) {
	e := newFakeEngine()
	e.run("a", "service=web")
	e.run("b", "service=web")
	e.happen(events.ActionKill, "a", "signal", "15")
	h := watch(t, e, nil)
	h.wants("a:draining b:running")
	h.never("a:running b:running")
}

func TestAContainerStartedAndToldToStopAtOnceDrains(t *testing.T) {
	e := newFakeEngine()
	h := watch(t, e, nil)
	h.wants("")
	release := make(chan struct{})
	e.onInspectd = func(context.Context, string) { <-release }
	e.start("a", "service=web")
	e.happen(events.ActionKill, "a", "signal", "15")
	close(release)
	h.wants("a:draining")
}

// TestAContainerThatCannotBeInspectedStaysAsItWas: when the agent starts, the engine lists it as running, and does not tell more.
func TestAContainerThatCannotBeInspectedStaysAsItWas(t *testing.T) {
	e := newFakeEngine()
	for _, id := range []string{"same", "moved", "stopped", "fine"} {
		e.run(id, "service=web")
	}
	var answers atomic.Bool
	e.onInspect = func(id string) error {
		if id != "fine" && !answers.Load() {
			return errdefs.ErrInternal
		}
		return nil
	}
	was := func(o *Options) {
		o.Recorded = func(id string) (model.Container, bool) {
			a := netip.MustParseAddr("172.17.0.2")
			if id == "moved" {
				a = a.Next()
			}
			return model.Container{ID: id, Name: id, Addrs: []netip.Addr{a}, Tasks: []model.Task{{Container: id, Name: id, Addr: a, State: model.Running}}}, true
		}
	}
	h := watch(t, e, was)
	h.wants("fine:running same:running stopped:running")
	e.happen(events.ActionKill, "stopped", "signal", "15")
	h.wants("fine:running same:running")
	h.never("fine:running moved:running same:running stopped:running")
	answers.Store(true)
	h.wants("fine:running moved:running same:running stopped:draining")
}

func TestAnAbsentEngineIsWaitedFor(t *testing.T) {
	e := newFakeEngine()
	e.run("a", "service=web")
	e.cut(errors.New("no such socket"))
	h := watch(t, e, nil)
	h.until("three failures", func() bool { return len(h.errs) >= 3 && h.errs[0] != nil })
	h.mu.Lock()
	if len(h.locals) != 0 || !strings.Contains(h.errs[0].Error(), "no such socket") {
		t.Errorf("told %q, %v", h.locals, h.errs)
	}
	h.mu.Unlock()
	e.cut(nil)
	h.wants("a:running")
	h.until("connected", func() bool { return h.errs[len(h.errs)-1] == nil })
}

func TestTheLastStateIsKeptWhileTheEngineIsAway(t *testing.T) {
	e := newFakeEngine()
	e.run("a", "service=web")
	e.run("b", "service=web")
	h := watch(t, e, nil)
	h.wants("a:running b:running")
	e.cut(errors.New("away"))
	h.until("away", func() bool { return h.errs[len(h.errs)-1] != nil })
	// What happens now is not told to anybody.
	e.mu.Lock()
	delete(e.containers, "a")
	e.mu.Unlock()
	e.run("c", "service=web")
	e.cut(nil)
	h.wants("b:running c:running")
	h.never("")
	if got := h.metric("shoal_docker_connected"); got != 1 {
		t.Errorf("connected: %v", got)
	}
}

func TestAnEngineThatGoesBetweenListAndInspectionEmptiesNothing(t *testing.T) {
	e := newFakeEngine()
	e.run("a", "service=web")
	failures := 3
	e.onInspect = func(string) error {
		e.mu.Lock()
		defer e.mu.Unlock()
		if failures--; failures >= 0 {
			return fmt.Errorf("read: %w", io.ErrUnexpectedEOF)
		}
		return nil
	}
	h := watch(t, e, nil)
	h.wants("a:running")
	h.never("")
}

func TestAContainerThatHangsHoldsUpNobody(t *testing.T) {
	e := newFakeEngine()
	h := watch(t, e, nil)
	h.wants("")
	e.onInspectd = func(ctx context.Context, id string) {
		if id == "hung" {
			<-ctx.Done()
		}
	}
	e.start("hung", "service=web")
	for i := range 5 {
		begun := time.Now()
		e.start(fmt.Sprint("c", i), "service=web")
		h.until("the next", func() bool { return strings.Contains(h.locals[len(h.locals)-1], fmt.Sprint("c", i)) })
		if took := time.Since(begun); took > time.Second {
			t.Errorf("c%d waited %v", i, took)
		}
	}
}

func TestAnAnswerThatAnEventHasOvertakenIsDropped(t *testing.T) {
	e := newFakeEngine()
	h := watch(t, e, nil)
	h.wants("")
	dead := make(chan struct{})
	e.onInspectd = func(_ context.Context, id string) {
		if id == "brief" {
			<-dead
		}
	}
	e.start("brief", "service=web") // its answer will say that it runs
	h.until("the question", func() bool { e.mu.Lock(); defer e.mu.Unlock(); return e.inspected["brief"] == 1 })
	e.die("brief")
	e.start("next", "service=web")
	h.wants("next:running")
	close(dead)
	h.until("the question again", func() bool { e.mu.Lock(); defer e.mu.Unlock(); return e.inspected["brief"] == 2 })
	e.start("third", "service=web")
	h.wants("next:running third:running")
	h.never("brief:running next:running")
}

// TestAnAnswerThatAnEndHasOvertakenIsDropped: the first process has ended, and the engine, asked before, says that it runs.
func TestAnAnswerThatAnEndHasOvertakenIsDropped(t *testing.T) {
	e := newFakeEngine()
	e.run("a", "service=web")
	h := watch(t, e, func(o *Options) { o.Ready = time.Minute })
	h.until("it is looked at", func() bool { return len(h.last.Containers) == 1 })
	began := h.last.Containers[0].Since
	ended := make(chan struct{})
	e.onInspectd = func(_ context.Context, id string) {
		if id == "a" {
			<-ended
		}
	}
	e.happen(events.ActionUpdate, "a")
	h.until("the question", func() bool { e.mu.Lock(); defer e.mu.Unlock(); return e.inspected["a"] == 2 })
	h.w.exits.ended <- life{"a", began}
	h.wants("")
	close(ended)
	e.start("next", "service=web")
	h.wants("next:running")
	h.never("a:running next:running")
}

func TestAContainerThatCannotBeInspectedIsTriedAgain(t *testing.T) {
	e := newFakeEngine()
	failures := 1
	e.onInspect = func(string) error {
		e.mu.Lock()
		defer e.mu.Unlock()
		if failures--; failures >= 0 {
			return errdefs.ErrInternal
		}
		return nil
	}
	h := watch(t, e, nil)
	h.wants("")
	e.start("a", "service=web")
	h.wants("a:running")
}

func TestAFloodOfEventsIsToldTogether(t *testing.T) {
	e := newFakeEngine()
	h := watch(t, e, nil)
	h.wants("")
	const n = 500
	for i := range n {
		e.start(fmt.Sprintf("c%03d", i), "")
	}
	h.until("all", func() bool { return strings.Count(h.locals[len(h.locals)-1], "c") == n })
	h.mu.Lock()
	defer h.mu.Unlock()
	if told := len(h.locals); told > n/5 {
		t.Errorf("%d starts told %d times", n, told)
	}
}

func TestAProblemIsLoggedOnceAndCounted(t *testing.T) {
	e := newFakeEngine()
	e.run("bad", "service=web ports=0")
	e.run("good", "service=web")
	h := watch(t, e, func(o *Options) { o.Resync = 20 * time.Millisecond })
	h.wants("bad:problem good:running")
	e.happen(events.ActionUpdate, "bad")
	e.cut(nil)
	e.start("more", "service=web")
	h.wants("bad:problem good:running more:running")
	h.until("more lists", func() bool { return h.metric("shoal_docker_lists_total") > 5 })
	h.mu.Lock()
	logged := strings.Count(h.log.String(), "left out of the mesh")
	h.mu.Unlock()
	if logged != 1 {
		t.Errorf("logged %d times", logged)
	}
	if got := h.metric("shoal_docker_problem_containers"); got != 1 {
		t.Errorf("%v problems counted", got)
	}
	e.die("bad")
	h.wants("good:running more:running")
	if got := h.metric("shoal_docker_problem_containers"); got != 0 {
		t.Errorf("%v problems counted", got)
	}
}

func TestAResyncFindsWhatNoEventToldAndAsksForNothingElse(t *testing.T) {
	e := newFakeEngine()
	e.run("a", "service=web")
	e.run("b", "service=web")
	h := watch(t, e, func(o *Options) { o.Resync = 20 * time.Millisecond })
	h.wants("a:running b:running")
	e.run("c", "service=web")
	h.wants("a:running b:running c:running")
	e.drop("a")
	h.wants("b:running c:running")
	h.until("more lists", func() bool { return h.metric("shoal_docker_lists_total") > 10 })
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inspected["b"] != 1 {
		t.Errorf("b was inspected %d times", e.inspected["b"])
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.locals) != 3 {
		t.Errorf("told without a change: %q", h.locals)
	}
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	good := Options{Node: "host", Pool: testLimits.pool}
	for reason, change := range map[string]func(*Options){
		"no name":     func(o *Options) { o.Node = "" },
		"no pool":     func(o *Options) { o.Pool = netip.Prefix{} },
		"negative":    func(o *Options) { o.Resync = -1 },
		"docker.sock": func(o *Options) { o.Host = "somewhere" },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v", reason, err)
		}
	}
}

// An engine that is busy takes seconds to list what it has.
func TestASlowListHoldsUpNoEvent(t *testing.T) {
	e := newFakeEngine()
	e.run("a", "service=web")
	e.run("b", "service=web")
	h := watch(t, e, func(o *Options) { o.Resync = 20 * time.Millisecond })
	h.wants("a:running b:running")
	begun, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	e.mu.Lock()
	e.onList = func() {
		once.Do(func() {
			close(begun)
			<-release
		})
	}
	e.mu.Unlock()
	<-begun
	e.start("c", "service=web")
	h.wants("a:running b:running c:running")
	e.die("a") // the list, which is made already, has it
	h.wants("b:running c:running")
	h.w.exits.ended <- life{"b", h.last.Containers[0].Tasks[0].Started}
	h.wants("c:running")
	lists := h.metric("shoal_docker_lists_total")
	close(release)
	h.until("more lists", func() bool { return h.metric("shoal_docker_lists_total") > lists+3 })
	h.mu.Lock()
	defer h.mu.Unlock()
	if got := h.locals[len(h.locals)-1]; got != "c:running" {
		t.Errorf("after the list: %s", got)
	}
}

// TestAnEngineIsFollowedOnceTheClockWasSetBack: the last event is then one of the future.
func TestAnEngineIsFollowedOnceTheClockWasSetBack(t *testing.T) {
	e := newFakeEngine()
	e.ahead = time.Hour
	h := watch(t, e, nil)
	h.wants("")
	e.start("a", "service=web")
	h.wants("a:running")
	e.ahead = 0
	e.cut(nil)
	h.until("it was away", func() bool { return slices.ContainsFunc(h.errs, func(err error) bool { return err != nil }) })
	e.start("b", "service=web")
	h.wants("a:running b:running")
}
