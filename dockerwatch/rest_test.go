package dockerwatch

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"shoal/model"
)

// hostAddress is that of tasks on the host's network.
const hostAddress = "192.0.2.1"

// containersOf are containers given as "ID@ADDRESS=SERVICE,SERVICE", the address left
// out of one that is on the host's network, "+ADDRESS" of one that has joined
// another's.
func containersOf(text string) (all []model.Container) {
	for f := range strings.FieldsSeq(text) {
		head, services, _ := strings.Cut(f, "=")
		id, addr, own := strings.Cut(head, "@")
		if joined, of, ok := strings.Cut(id, "+"); ok {
			id, addr = joined, of
		}
		if addr == "" {
			addr = hostAddress
		}
		c := model.Container{ID: id, Since: t0}
		if own {
			c.Addrs = []netip.Addr{netip.MustParseAddr(addr)}
		}
		for name := range strings.SplitSeq(services, ",") {
			if name != "" {
				state := model.Running
				if bare, unhealthy := strings.CutSuffix(name, "!"); unhealthy {
					name, state = bare, model.Unhealthy
				}
				c.Tasks = append(c.Tasks, model.Task{Service: model.ServiceID{Name: name}, Addr: netip.MustParseAddr(addr), State: state, Started: t0, Since: t0})
			}
		}
		all = append(all, c)
	}
	return all
}

func TestAddressesRest(t *testing.T) {
	const never = 0
	type step struct {
		after    time.Duration // since the step before
		has      string        // as in containersOf
		resting  string
		inactive string // "ID:STATE" of tasks that are not in rotation
		next     time.Duration
	}
	for name, steps := range map[string][]step{
		"a task dies": {
			{0, "a@10.0.0.1=web b@10.0.0.2=web", "", "", never},
			{time.Second, "b@10.0.0.2=web", "10.0.0.1", "", restTime},
			{time.Second, "b@10.0.0.2=web", "10.0.0.1", "", restTime - time.Second},
			{restTime - time.Second, "b@10.0.0.2=web", "", "", never},
		},
		"a container without services dies": {
			{0, "a@10.0.0.1", "", "", never},
			{0, "", "", "", never},
		},
		"its address goes to another service": {
			{0, "a@10.0.0.1=web", "", "", never},
			{0, "", "10.0.0.1", "", restTime},
			{time.Second, "b@10.0.0.1=db c@10.0.0.3=web", "10.0.0.1", "b:starting", restTime - time.Second},
			{restTime - time.Second, "b@10.0.0.1=db c@10.0.0.3=web", "", "", never},
		},
		"and nobody saw that it was free": {
			{0, "a@10.0.0.1=web", "", "", never},
			{0, "b@10.0.0.1=db", "10.0.0.1", "b:starting", restTime},
			{restTime, "b@10.0.0.1=db", "", "", never},
		},
		"its address goes to a container without services": {
			{0, "a@10.0.0.1=web", "", "", never},
			{0, "b@10.0.0.1", "10.0.0.1", "", restTime},
		},
		"it is restarted": {
			{0, "a@10.0.0.1=web", "", "", never},
			{0, "", "10.0.0.1", "", restTime},
			{time.Second, "a@10.0.0.1=web", "", "", never},
		},
		"it is restarted and nobody saw it": {
			{0, "a@10.0.0.1=web", "", "", never},
			{0, "a@10.0.0.1=web", "", "", never},
		},
		"another task of the service has its address": {
			{0, "a@10.0.0.1=web", "", "", never},
			{0, "b@10.0.0.1=web", "", "", never},
		},
		"the other one serves more": {
			{0, "a@10.0.0.1=web", "", "", never},
			{0, "", "10.0.0.1", "", restTime},
			{0, "b@10.0.0.1=web,db", "", "", never},
		},
		"the other one serves less": {
			{0, "a@10.0.0.1=web,db", "", "", never},
			{0, "b@10.0.0.1=web", "10.0.0.1", "b:starting", restTime},
		},
		"the one that waits dies": {
			{0, "a@10.0.0.1=web", "", "", never},
			{0, "b@10.0.0.1=db", "10.0.0.1", "b:starting", restTime},
			{time.Second, "", "10.0.0.1", "", restTime - time.Second},
			{time.Second, "c@10.0.0.1=db", "10.0.0.1", "c:starting", restTime - 2*time.Second},
			{0, "", "10.0.0.1", "", restTime - 2*time.Second},
			{0, "d@10.0.0.1=web", "", "", never},
			{time.Second, "", "10.0.0.1", "", restTime},
		},
		"the one that waited dies": {
			{0, "a@10.0.0.1=web", "", "", never},
			{0, "b@10.0.0.1=db", "10.0.0.1", "b:starting", restTime},
			{restTime, "b@10.0.0.1=db", "", "", never},
			{0, "", "10.0.0.1", "", restTime},
			{0, "a@10.0.0.1=web", "10.0.0.1", "a:starting", restTime},
		},
		"an unhealthy task dies": { // other hosts may not know yet that it was
			{0, "a@10.0.0.1=web!", "", "a:unhealthy", never},
			{0, "b@10.0.0.1=db!", "10.0.0.1", "b:unhealthy", restTime},
		},
		"it moves to another network": {
			{0, "a@10.0.0.1=web", "", "", never},
			{0, "a@10.0.0.2=web", "10.0.0.1", "", restTime},
		},
		"two die one after the other": {
			{0, "a@10.0.0.2=web b@10.0.0.1=db", "", "", never},
			{0, "b@10.0.0.1=db", "10.0.0.2", "", restTime},
			{time.Second, "", "10.0.0.1 10.0.0.2", "", restTime - time.Second},
			{restTime - time.Second, "", "10.0.0.1", "", time.Second},
		},
		"one on the host's network dies": {
			{0, "a=web", "", "", never},
			{0, "b=db", "", "", never},
		},
		"one that other hosts do not reach dies": {
			{0, "a@172.17.0.2=web", "", "", never},
			{0, "b@172.17.0.2=db", "", "", never},
		},
		"one that has joined another's network dies": {
			{0, "a@10.0.0.1=web b+10.0.0.1=db", "", "", never},
			{0, "a@10.0.0.1=web", "", "", never},
			{0, "", "10.0.0.1", "", restTime},
		},
		"the one whose network another has joined dies": {
			{0, "a@10.0.0.1 b+10.0.0.1=db", "", "", never},
			{0, "b", "10.0.0.1", "", restTime},
			{0, "b a@10.0.0.1", "10.0.0.1", "", restTime},
			{0, "b+10.0.0.1=db a@10.0.0.1", "", "", never},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRests(func(a netip.Addr) bool {
				return netip.MustParsePrefix("10.0.0.0/24").Contains(a) || a.String() == hostAddress
			})
			now := t0
			for i, s := range steps {
				now = now.Add(s.after)
				l := model.Local{Containers: containersOf(s.has)}
				next := r.apply(&l, now)
				var inactive []string
				for _, c := range l.Containers {
					for _, task := range c.Tasks {
						if task.State != model.Running {
							inactive = append(inactive, c.ID+":"+string(task.State))
						}
					}
				}
				if got := strings.Trim(fmt.Sprint(l.Resting), "[]"); got != s.resting {
					t.Errorf("step %d: %q rest, want %q", i, got, s.resting)
				}
				if got := strings.Join(inactive, " "); got != s.inactive {
					t.Errorf("step %d: out of rotation are %q, want %q", i, got, s.inactive)
				}
				if next != s.next {
					t.Errorf("step %d: something changes after %s, want %s", i, next, s.next)
				}
			}
		})
	}
}

// TestARestIsOverWithoutTheEngine: it begins at a death of which the kernel tells,
// and ends by itself.
func TestARestIsOverWithoutTheEngine(t *testing.T) {
	e := newFakeEngine()
	e.run("a", "service=web")
	h := watch(t, e, func(o *Options) { o.Reached = func(netip.Addr) bool { return true } })
	h.wants("a:running")
	rest := func(want string) func() bool {
		return func() bool { return strings.Trim(fmt.Sprint(h.last.Resting), "[]") == want }
	}
	e.cut(errors.New("away"))
	h.until("away", func() bool { return h.errs[len(h.errs)-1] != nil })
	h.w.exits.ended <- life{"a", h.container("a").Tasks[0].Started}
	h.until("the address rests", rest("172.17.0.2"))
	h.until("the rest is over", rest(""))
}

// TestATaskWaitsForTheRestOfItsAddress: nothing but its own change is told.
func TestATaskWaitsForTheRestOfItsAddress(t *testing.T) {
	e := newFakeEngine()
	e.run("a", "service=web")
	h := watch(t, e, func(o *Options) { o.Reached = func(netip.Addr) bool { return true } })
	h.wants("a:running")
	e.die("a")
	h.wants("")
	e.start("b", "service=db")
	h.wants("b:starting")
	began := time.Now()
	h.wants("b:running")
	if took := time.Since(began); took < restTime/2 {
		t.Errorf("it waited for %s", took)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if got, want := strings.Join(h.locals, ", "), "a:running, , b:starting, b:running"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
}
