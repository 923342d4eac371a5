package dockerwatch

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/events"
	"golang.org/x/sys/unix"

	"shoal/model"
)

// A container that ends by itself and is started again is a task for moments only: what
// it has at any time does not show that. So deaths are remembered, of the containers with
// labels of the mesh. What an engine was told to stop is none of them.
const (
	crashWindow = 10 * time.Minute
	crashLoop   = 3               // deaths within crashWindow: it crashes again and again
	crashCalm   = 2 * time.Minute // without a death: it runs. An engine waits for a minute at most before it starts one again
	crashStays  = 2 * time.Second // after a death without another start: nobody starts it again
	crashKept   = 24 * time.Hour  // how long that is told
)

// exit is how a container ended, by the engine's event.
type exit struct {
	name string // the container's
	code string // its exit code, as the engine writes it
	mesh bool   // it has labels of the mesh
}

func exitOf(attributes map[string]string) exit {
	x := exit{name: attributes["name"], code: attributes["exitCode"]}
	for label := range attributes { // of the container, and its image
		x.mesh = x.mesh || strings.HasPrefix(label, labelPrefix+"service")
	}
	return x
}

// crash is what is remembered of a container that ended by itself.
type crash struct {
	name   string
	deaths []time.Time // within crashWindow, but for the last
	code   string      // of the last
	memory bool        // of the last: the kernel had ended a process of it, for want of memory

	oom  bool // the kernel ended a process of it, and it did not end yet
	told bool // to stop: its next death is none of its own
	runs bool // it was started again
}

// crashes are remembered by container ID. They may be used from any goroutine.
type crashes struct {
	mu   sync.Mutex
	byID map[string]*crash
	ends ends
}

// take takes in an event.
func (cs *crashes) take(e event) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.byID[e.container]
	if c == nil {
		c = &crash{}
	}
	switch e.action {
	case events.ActionKill:
		c.told = c.told || stopSignals[e.signal]
	case events.ActionOOM:
		c.oom = true
	case events.ActionStart:
		c.runs = true
	case events.ActionDie:
		if e.exit.mesh {
			cs.ends.put(e.container, endOf(c, e))
		}
		if c.told || !e.exit.mesh {
			delete(cs.byID, e.container)
			return
		}
		c.die(e)
	case events.ActionStop, events.ActionDestroy: // somebody wanted that, by whatever signal
		delete(cs.byID, e.container)
		return
	default:
		return
	}
	if c.told || c.oom || len(c.deaths) > 0 { // else nothing is to be remembered
		cs.put(e.container, c)
	}
}

func (c *crash) die(e event) {
	c.name, c.code, c.memory, c.oom, c.runs = e.exit.name, e.exit.code, c.oom, false, false
	c.deaths = append(slices.DeleteFunc(c.deaths, func(t time.Time) bool { return e.at.Sub(t) >= crashWindow }), e.at)
}

func (cs *crashes) put(id string, c *crash) {
	if cs.byID == nil {
		cs.byID = map[string]*crash{}
	}
	cs.byID[id] = c
}

// problems are those at a time. What is over is forgotten.
func (cs *crashes) problems(now time.Time) (ps []model.Problem) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for id, c := range cs.byID {
		why := c.why(now)
		switch {
		case why != "":
			ps = append(ps, model.Problem{Code: model.TaskCrashed, Kind: "container", Object: c.name, Reason: why, Since: c.deaths[0]})
		case len(c.deaths) > 0 && c.calm(now) >= crashWindow && (c.runs || c.calm(now) >= crashKept):
			delete(cs.byID, id)
		}
	}
	return ps
}

// calm is how long ago the container's last death was.
func (c *crash) calm(now time.Time) time.Duration { return now.Sub(c.deaths[len(c.deaths)-1]) }

// why says what is wrong with the container; "": nothing is.
func (c *crash) why(now time.Time) string {
	if len(c.deaths) == 0 {
		return ""
	}
	last := howEnded(c.code, c.memory)
	switch calm := c.calm(now); {
	case len(c.deaths) >= crashLoop && calm < crashCalm:
		return fmt.Sprintf("it has ended by itself %d times within %d minutes, the last time %s: docker logs %s shows why", len(c.deaths), int(crashWindow.Minutes()), last, c.name)
	case !c.runs && c.code != "0" && calm >= crashStays && calm < crashKept:
		return fmt.Sprintf("it ended by itself, %s, and was not started again: docker logs %s shows why; then start or remove it", last, c.name)
	}
	return ""
}

// howEnded says how a container ended, for people.
func howEnded(code string, memory bool) string {
	how := "with exit code " + code
	if memory {
		how += ", after the kernel had ended a process of it for want of memory (docker run --memory)"
	}
	return how
}

// endOf is how a container ended whose death was told, by what is known of it before.
func endOf(c *crash, e event) Ended {
	how := "it ended by itself, "
	if c.told {
		how = "it was told to stop, and ended "
	}
	return Ended{Told: c.told, How: how + howEnded(e.exit.code, c.oom), at: e.at}
}

// stopSignals are those by which a container is meant to end.
var stopSignals = map[syscall.Signal]bool{unix.SIGTERM: true, unix.SIGINT: true, unix.SIGQUIT: true, unix.SIGKILL: true}

// Problems are what containers of the mesh do that are not tasks now: such as end by
// themselves. It may be called by any goroutine.
func (w *Watcher) Problems(now time.Time) []model.Problem { return w.crashes.problems(now) }
