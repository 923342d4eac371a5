package dockerwatch

import (
	"fmt"
	"testing"
	"time"

	"github.com/docker/docker/api/types/events"
	"golang.org/x/sys/unix"
)

func TestHowAContainerEndedIsRemembered(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	die := func(code string, mesh bool) event {
		return event{action: events.ActionDie, exit: exit{name: "web", code: code, mesh: mesh}}
	}
	kill := func(s unix.Signal) event { return event{action: events.ActionKill, signal: s} }
	for name, test := range map[string]struct {
		events  []event
		started time.Duration // after the end
		want    string        // "": not known
	}{
		"by itself":           {[]event{die("3", true)}, -1, "it ended by itself, with exit code 3"},
		"told to stop":        {[]event{kill(unix.SIGTERM), die("143", true)}, -1, "told: it was told to stop, and ended with exit code 143"},
		"told something else": {[]event{kill(unix.SIGHUP), die("1", true)}, -1, "it ended by itself, with exit code 1"},
		"out of memory":       {[]event{{action: events.ActionOOM}, die("137", true)}, -1, "it ended by itself, with exit code 137, after the kernel had ended a process of it for want of memory (docker run --memory)"},
		"the last":            {[]event{kill(unix.SIGTERM), die("0", true), die("1", true)}, -1, "it ended by itself, with exit code 1"},
		"no task":             {[]event{die("3", false)}, -1, ""},
		"started since":       {[]event{die("3", true)}, 1, ""},
	} {
		w := &Watcher{}
		for _, e := range test.events {
			e.container, e.at = "id", at
			w.crashes.take(e)
		}
		got := ""
		if how, known := w.Ended("id", at.Add(test.started*time.Second)); known {
			got = map[bool]string{true: "told: "}[how.Told] + how.How
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestOnlySoManyEndsAreRemembered(t *testing.T) {
	var e ends
	for i := range endsKept + 2 {
		e.put(fmt.Sprint(i), Ended{})
		e.put(fmt.Sprint(i), Ended{Told: true})
	}
	if _, known := e.byID["1"]; known || len(e.byID) != endsKept || len(e.order) != endsKept || !e.byID["2"].Told {
		t.Errorf("%d are remembered, the first is %v", len(e.byID), e.order[0])
	}
}
