package dockerwatch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	dockerimage "github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"github.com/prometheus/client_golang/prometheus"

	"shoal/catalog"
)

// fakeEngine has containers and tells its events, as an engine does: those of
// the past that are asked for, then those to come.
type fakeEngine struct {
	mu         sync.Mutex
	containers map[string]container.InspectResponse
	past       []events.Message
	listeners  map[chan events.Message]chan error
	images     map[string]string // image's ID -> its labels, as in labelsOf
	inspected  map[string]int    // container's or image's ID -> how often

	dialErr     error
	listenAfter chan struct{}                        // the engine answers a call for events at once, but listens for them only after this; nil: at once
	onList      func()                               // called when containers have been listed, before the answer
	onInspect   func(id string) error                // called before the answer is made
	onInspectd  func(ctx context.Context, id string) // called after it is made, before it is sent
}

func newFakeEngine() *fakeEngine {
	return &fakeEngine{
		containers: map[string]container.InspectResponse{},
		listeners:  map[chan events.Message]chan error{},
		images:     map[string]string{},
		inspected:  map[string]int{},
	}
}

func (e *fakeEngine) Close() error { return nil }

func (e *fakeEngine) Events(ctx context.Context, o events.ListOptions) (<-chan events.Message, <-chan error) {
	errs := make(chan error, 1)
	if o.Until != "" {
		messages := make(chan events.Message)
		e.mu.Lock()
		past := e.between(nanos(o.Since), nanos(o.Until))
		e.mu.Unlock()
		go func() {
			for _, m := range past {
				messages <- m
			}
			errs <- io.EOF
		}()
		return messages, errs
	}
	messages := make(chan events.Message, 10_000)
	listen := func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, m := range e.between(nanos(o.Since), math.MaxInt64) {
			messages <- m
		}
		e.listeners[messages] = errs
	}
	if e.listenAfter == nil {
		listen()
	} else {
		go func() {
			<-e.listenAfter
			listen()
		}()
	}
	context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.listeners, messages)
		select {
		case errs <- ctx.Err():
		default:
		}
	})
	return messages, errs
}

// between are the past events from since to until.
func (e *fakeEngine) between(since, until int64) (past []events.Message) {
	for _, m := range e.past {
		if m.TimeNano >= since && m.TimeNano <= until {
			past = append(past, m)
		}
	}
	return past
}

func nanos(timestamp string) int64 {
	var s, n int64
	fmt.Sscanf(timestamp, "%d.%d", &s, &n)
	return s*1e9 + n
}

func (e *fakeEngine) ContainerList(context.Context, container.ListOptions) ([]container.Summary, error) {
	e.mu.Lock()
	var list []container.Summary
	for id, c := range e.containers {
		list = append(list, container.Summary{ID: id, ImageID: c.Image, Names: []string{c.Name}, State: "running", Status: "Up 3 hours",
			NetworkSettings: &container.NetworkSettingsSummary{Networks: c.NetworkSettings.Networks}})
	}
	then := e.onList
	e.mu.Unlock()
	if then != nil {
		then()
	}
	return list, nil
}

func (e *fakeEngine) ContainerInspect(ctx context.Context, id string) (container.InspectResponse, error) {
	e.mu.Lock()
	e.inspected[id]++
	before, after := e.onInspect, e.onInspectd
	e.mu.Unlock()
	if before != nil {
		if err := before(id); err != nil {
			return container.InspectResponse{}, err
		}
	}
	e.mu.Lock()
	c, ok := e.containers[id]
	e.mu.Unlock()
	if after != nil {
		after(ctx, id)
	}
	if ctx.Err() != nil {
		return container.InspectResponse{}, ctx.Err()
	}
	if !ok {
		return c, errdefs.ErrNotFound
	}
	return c, nil
}

func (e *fakeEngine) ImageInspect(_ context.Context, id string, _ ...client.ImageInspectOption) (dockerimage.InspectResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.inspected[id]++
	labels, ok := e.images[id]
	switch {
	case !ok:
		return dockerimage.InspectResponse{}, errdefs.ErrNotFound
	case labels == "broken":
		return dockerimage.InspectResponse{}, errdefs.ErrInternal
	}
	said, _ := json.Marshal(map[string]any{"Id": id, "Config": map[string]any{"Labels": labelsOf(labels)}})
	var image dockerimage.InspectResponse
	err := json.Unmarshal(said, &image)
	return image, err
}

func (e *fakeEngine) NetworkList(context.Context, network.ListOptions) ([]network.Summary, error) {
	return []network.Summary{{ID: "idbridge", Name: "bridge", Driver: "bridge"}}, nil
}

// happen tells an event of now.
func (e *fakeEngine) happen(action events.Action, id string, attributes ...string) {
	m := events.Message{Type: events.ContainerEventType, Action: action, TimeNano: time.Now().UnixNano(),
		Actor: events.Actor{ID: id, Attributes: map[string]string{}}}
	for i := 0; i+1 < len(attributes); i += 2 {
		m.Actor.Attributes[attributes[i]] = attributes[i+1]
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.past = append(e.past, m)
	for l := range e.listeners {
		l <- m
	}
}

// run puts a container there without telling.
func (e *fakeEngine) run(id, labels string) {
	c := inspected(id, labels, "bridge=172.17.0.2")
	c.State.StartedAt = time.Now().Format(time.RFC3339Nano)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers[id] = c
}

// runImage is run with a container of an image.
func (e *fakeEngine) runImage(id, image, labels string) {
	e.run(id, labels)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers[id].Image = image // what of it is behind a pointer
}

func (e *fakeEngine) start(id, labels string) {
	e.run(id, labels)
	e.happen(events.ActionStart, id)
}

// drop takes a container away without telling.
func (e *fakeEngine) drop(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.containers, id)
}

func (e *fakeEngine) die(id string) {
	e.drop(id)
	e.happen(events.ActionDie, id)
}

// cut ends all connections, and lets none be made while err is not nil.
func (e *fakeEngine) cut(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dialErr = err
	for l, errs := range e.listeners {
		errs <- io.EOF
		delete(e.listeners, l)
	}
}

// heard is what a Watcher has told.
type heard struct {
	t      *testing.T
	w      *Watcher
	mu     sync.Mutex
	locals []string
	errs   []error
	change chan struct{}
	log    *bytes.Buffer
	reg    *prometheus.Registry
}

// summary writes the containers as "name:state name:problem name".
func summary(l catalog.Local) string {
	var parts []string
	for _, c := range l.Containers {
		s := c.Name
		for _, t := range c.Tasks {
			s += ":" + string(t.State)
		}
		if c.Problem != "" {
			s += ":problem"
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " ")
}

// watch runs a Watcher of the engine until the test ends.
func watch(t *testing.T, e *fakeEngine, change func(*Options)) *heard {
	t.Helper()
	h := &heard{t: t, change: make(chan struct{}, 1), log: &bytes.Buffer{}, reg: prometheus.NewRegistry()}
	o := Options{Node: "host", Pool: testLimits.pool, Registerer: h.reg, Log: slog.New(slog.NewTextHandler(h, nil))}
	if change != nil {
		change(&o)
	}
	w, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	w.dial = func() (engine, error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e, e.dialErr
	}
	h.w = w
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.Run(ctx, h.emit, h.status) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	})
	return h
}

func (h *heard) emit(l catalog.Local) {
	h.mu.Lock()
	h.locals = append(h.locals, summary(l))
	h.mu.Unlock()
	h.poke()
}

func (h *heard) status(err error) {
	h.mu.Lock()
	h.errs = append(h.errs, err)
	h.mu.Unlock()
	h.poke()
}

func (h *heard) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Write(b)
}

func (h *heard) poke() {
	select {
	case h.change <- struct{}{}:
	default:
	}
}

// until waits for a condition over what has been told.
func (h *heard) until(what string, cond func() bool) {
	h.t.Helper()
	deadline := time.After(5 * time.Second)
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		h.mu.Lock()
		ok := cond()
		h.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-h.change:
		case <-poll.C:
		case <-deadline:
			h.mu.Lock()
			defer h.mu.Unlock()
			h.t.Fatalf("waited for %s\ntold: %q\nstatus: %v\nlog: %s", what, h.locals, h.errs, h.log)
		}
	}
}

// wants waits until the last that was told is this.
func (h *heard) wants(local string) {
	h.t.Helper()
	h.until(fmt.Sprintf("%q", local), func() bool { return len(h.locals) > 0 && h.locals[len(h.locals)-1] == local })
}

// never fails if this was told at any time.
func (h *heard) never(local string) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.locals {
		if l == local {
			h.t.Errorf("told %q: %q", local, h.locals)
		}
	}
}

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

// metric is the value of the metric of that name, which has no labels.
func (h *heard) metric(name string) float64 {
	h.t.Helper()
	families, err := h.reg.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	h.t.Fatalf("no metric %s", name)
	return 0
}

func TestNoImageJoinsByItself(t *testing.T) {
	e := newFakeEngine()
	e.images = map[string]string{"web": "service=web", "plain": "", "broken": "broken"}
	e.runImage("a", "web", "service=web")
	e.runImage("b", "web", "service=web weight=1")
	e.runImage("c", "plain", "service=web")
	e.runImage("d", "gone", "service=web")
	e.runImage("e", "unasked", "")
	e.runImage("f", "broken", "service=web")
	h := watch(t, e, func(o *Options) { o.Resync = 20 * time.Millisecond })
	h.wants("a:problem b:running c:running d:running e")
	h.until("what was wrong with an image is told", func() bool {
		return strings.Contains(h.log.String(), "inspect its image broken")
	})
	e.mu.Lock()
	e.images["broken"] = "service=other"
	e.mu.Unlock()
	h.wants("a:problem b:running c:running d:running e f:running")

	// Its image has been asked about, as long as there is a container of it.
	asked := func(image string) int {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.inspected[image]
	}
	web := asked("web")
	if asked("unasked") > 0 {
		t.Error("an image was asked about for no label")
	}
	e.runImage("g", "web", "service=web")
	e.happen(events.ActionStart, "g")
	h.wants("a:problem b:running c:running d:running e f:running g:problem")
	if n := asked("web"); n != web {
		t.Errorf("an image was asked about %d times more", n-web)
	}
	for _, id := range []string{"a", "b", "g"} {
		e.die(id)
	}
	h.wants("c:running d:running e f:running")
	h.until("the image is forgotten", func() bool { _, known := h.w.images.Load("web"); return !known })
}

func TestImagesJoinWhereTheyMay(t *testing.T) {
	e := newFakeEngine()
	e.images = map[string]string{"web": "service=web"}
	e.runImage("a", "web", "service=web")
	h := watch(t, e, func(o *Options) { o.ImageLabels = true })
	h.wants("a:running")
}
