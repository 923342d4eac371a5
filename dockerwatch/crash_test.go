package dockerwatch

import (
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/events"
	"golang.org/x/sys/unix"

	"shoal/model"
)

// Each case is a story of one container: its events, each at a second, and what is told of it
// at another.
func TestAContainerThatEndsByItselfIsAProblem(t *testing.T) {
	type at struct {
		seconds int
		event
	}
	event := func(seconds int, action events.Action) at { return at{seconds, event{action: action}} }
	die := func(seconds int, code string) at {
		e := event(seconds, events.ActionDie)
		e.exit = exit{name: "web", code: code, mesh: true}
		return e
	}
	kill := func(seconds int) at {
		e := event(seconds, events.ActionKill)
		e.signal = unix.SIGTERM
		return e
	}
	start := func(seconds int) at { return event(seconds, events.ActionStart) }
	foreign := die(0, "1")
	foreign.exit.mesh = false
	loop := []at{die(0, "1"), start(1), die(5, "1"), start(6), die(10, "2"), start(12)}
	for name, test := range map[string]struct {
		events []at
		when   int    // seconds
		says   string // "": nothing
	}{
		"once, and started again":    {[]at{die(0, "1"), start(1)}, 60, ""},
		"again and again":            {loop, 20, "3 times within 10 minutes, the last time with exit code 2"},
		"and runs since":             {loop, 10 + 130, ""},
		"seldom":                     {[]at{die(0, "1"), start(1), die(400, "1"), start(401), die(800, "1"), start(801)}, 810, ""},
		"not started again":          {[]at{die(0, "137")}, 5, "with exit code 137, and was not started again"},
		"may be started again":       {[]at{die(0, "137")}, 1, ""},
		"long ago":                   {[]at{die(0, "1")}, 25 * 3600, ""},
		"done":                       {[]at{die(0, "0")}, 5, ""},
		"done, again and again":      {[]at{die(0, "0"), start(1), die(2, "0"), start(3), die(4, "0")}, 5, "3 times"},
		"told to stop":               {[]at{kill(0), die(1, "143")}, 5, ""},
		"stopped by its own signal":  {[]at{die(0, "3"), event(0, events.ActionStop)}, 5, ""},
		"removed":                    {[]at{die(0, "1"), event(3, events.ActionDestroy)}, 5, ""},
		"of nobody's interest":       {[]at{foreign}, 5, ""},
		"for want of memory":         {[]at{event(0, events.ActionOOM), die(0, "137")}, 5, "want of memory"},
		"want of memory was earlier": {[]at{event(0, events.ActionOOM), die(0, "137"), start(1), die(2, "1")}, 5, "exit code 1, and was not"},
	} {
		var cs crashes
		begin := time.Unix(1e9, 0)
		for _, e := range test.events {
			e.container, e.event.at = "c1", begin.Add(time.Duration(e.seconds)*time.Second)
			cs.take(e.event)
		}
		ps := cs.problems(begin.Add(time.Duration(test.when) * time.Second))
		switch {
		case test.says == "" && len(ps) > 0:
			t.Errorf("%s: %+v", name, ps)
		case test.says == "":
		case len(ps) != 1 || ps[0].Code != model.TaskCrashed || ps[0].Object != "web" || !strings.Contains(ps[0].Reason, test.says) || !strings.Contains(ps[0].Reason, "docker logs web"):
			t.Errorf("%s: %+v", name, ps)
		}
	}
}

func TestADeathIsToldWithItsExitCode(t *testing.T) {
	m := events.Message{Type: events.ContainerEventType, Action: events.ActionDie, Actor: events.Actor{ID: "c1", Attributes: map[string]string{"name": "web", "exitCode": "3", "shoal.services.web.ports": "80"}}}
	e, ok := eventOf(m)
	if want := (exit{name: "web", code: "3", mesh: true}); !ok || e.exit != want {
		t.Errorf("%+v, want %+v", e.exit, want)
	}
}
