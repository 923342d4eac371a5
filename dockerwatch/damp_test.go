package dockerwatch

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"

	"shoal/model"
)

// flapper is a container in an inventory, whose health comes and goes.
type flapper struct {
	t       *testing.T
	v       *inventory
	now     time.Time
	started time.Time
	labels  string
	told    []string // states of its task, as they were told
	last    model.Task
}

func newFlapper(t *testing.T, labels string) *flapper {
	return &flapper{t: t, v: newInventory(), now: t0, started: t0, labels: labels}
}

// wait lets seconds pass.
func (f *flapper) wait(d time.Duration) {
	for end := f.now.Add(d); f.now.Before(end); f.now = f.now.Add(time.Second) {
		f.v.release(f.now)
		f.tell()
	}
}

// is has the container be of some health.
func (f *flapper) is(health container.HealthStatus) {
	c := inspected("one", f.labels, "bridge=172.17.0.2")
	c.State.StartedAt = f.started.Format(time.RFC3339Nano)
	if health != "" {
		c.State.Health = &container.Health{Status: health}
	}
	f.v.put(factsOf(c, nil, testLimits, f.now), f.now)
	f.tell()
}

// restarts ends its life, and begins another one a second later.
func (f *flapper) restarts(health container.HealthStatus) {
	f.v.apply(event{kind: events.ContainerEventType, container: "one", effect: gone, at: f.now}, f.now)
	f.told = append(f.told, "gone")
	f.now = f.now.Add(time.Second)
	f.started = f.now
	f.is(health)
}

// tell notes what would be written to the store.
func (f *flapper) tell() {
	task := f.v.local().Containers[0].Tasks[0]
	if !task.Equal(&f.last) {
		f.last = task
		f.told = append(f.told, string(task.State))
	}
}

// saw checks what was told since it was asked before.
func (f *flapper) saw(want string) {
	f.t.Helper()
	if got := strings.Join(f.told, " "); got != want {
		f.t.Fatalf("at %s: told %q, want %q", f.now.Sub(t0), got, want)
	}
	f.told = nil
}

func (f *flapper) notices() string {
	var codes []string
	for _, n := range f.v.local().Containers[0].Notices {
		codes = append(codes, string(n.Code))
	}
	return strings.Join(codes, " ")
}

func TestFlappingHealthIsDamped(t *testing.T) {
	f := newFlapper(t, "service=web")
	f.is(container.Starting)
	f.saw("starting")
	for range freeJoins {
		f.is(container.Healthy)
		f.wait(time.Second)
		f.is(container.Unhealthy) // at once
		f.wait(time.Second)
		f.saw("running unhealthy")
	}
	if got := f.notices(); got != "task-flapping" {
		t.Errorf("notices %q", got)
	}
	// From now on it is told nothing of one that is never fit for ten seconds.
	for range 100 {
		f.is(container.Healthy)
		f.wait(9 * time.Second)
		f.is(container.Unhealthy)
		f.wait(time.Second)
		if f.now.Sub(t0) > joinWindow-20*time.Second {
			break
		}
	}
	f.saw("")
	// What stays fit is let in, after a while that is bounded.
	f.is(container.Healthy)
	f.wait(lastHold + time.Second)
	f.saw("running")
	if f.last.Since.Before(f.now.Add(-lastHold)) {
		t.Errorf("it is in rotation since %s, at %s", f.last.Since, f.now)
	}
	f.is(container.Unhealthy)
	f.saw("unhealthy")
	// After the window it is as if nothing had been.
	f.wait(joinWindow)
	if got := f.notices(); got != "" {
		t.Errorf("notices after all is over: %q", got)
	}
	f.is(container.Healthy)
	f.saw("running")
}

func TestACrashLoopIsDamped(t *testing.T) {
	f := newFlapper(t, "service=web")
	f.is("")
	f.saw("running")
	for range freeJoins - 1 {
		f.wait(time.Second)
		f.restarts("")
		f.saw("gone running")
	}
	for range 3 {
		f.restarts("")
		f.wait(5 * time.Second)
		f.saw("gone starting")
	}
	f.wait(firstHold)
	f.saw("running")
}

func TestHoldsGrowAndAreBounded(t *testing.T) {
	var got []string
	for joins := range 13 {
		got = append(got, holdAfter(joins).String())
	}
	if want := "[0s 0s 0s 0s 0s 10s 20s 40s 1m20s 2m0s 2m0s 2m0s 2m0s]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
	if holdAfter(1000) != lastHold {
		t.Errorf("after 1000 it is %s", holdAfter(1000))
	}
}

func TestHealthThatDoesNotMatterIsNotDamped(t *testing.T) {
	f := newFlapper(t, "service=web health=none")
	f.is(container.Healthy)
	for range 2 * freeJoins {
		f.is(container.Unhealthy)
		f.is(container.Healthy)
	}
	f.saw("running")
	if got := f.notices(); got != "" {
		t.Errorf("notices %q", got)
	}
}

func TestWhatIsGoneForLongIsForgotten(t *testing.T) {
	f := newFlapper(t, "service=web")
	f.is("")
	f.v.remove("one")
	f.v.release(f.now.Add(joinWindow - time.Second))
	if len(f.v.dampers) != 1 {
		t.Error("it is forgotten too soon")
	}
	f.v.release(f.now.Add(joinWindow))
	if len(f.v.dampers) != 0 {
		t.Error("it is never forgotten")
	}
}
