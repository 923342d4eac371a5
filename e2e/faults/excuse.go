package faults

import (
	"slices"
	"strings"
	"time"
)

// Request is one that has ended.
type Request struct {
	From    string // the machine that made it
	Via     string // the host whose kernel chose the task
	Service string // that it is for
	Begun   time.Time
	Ended   time.Time
	By      string // the task that answered, SERVICE-HOST; "": none did
	Error   string // "": it was answered
}

// Wrong says that a task of another service has answered, which no fault excuses.
func (r Request) Wrong() bool { return r.By != "" && !strings.HasPrefix(r.By, r.Service+"-") }

// Window is when a fault was there.
type Window struct {
	Step
	Began  time.Time // before anything was broken
	Broken time.Time // after all was
	// Restarted is when the agent of Host was there again, which was restarted meanwhile: it cannot have seen before what broke. Zero: it was
	// not restarted.
	Restarted time.Time
	Undone    time.Time // after all was put right; zero: not yet
}

// Limits are how long what is broken may stay in the rotation of hosts.
type Limits struct {
	TaskGone time.Duration // a task whose engine tells that it has ended or is paused
	HostGone time.Duration // a host that is silent
}

// Native are those where each host has the processors of the machine that tests run on.
var Native = Limits{TaskGone: time.Second, HostGone: 3 * time.Second}

// Excuse says why a failed request may have failed because of one of the faults; "": none of them excuses it.
//
// Most faults excuse nothing: packets pass neither agents nor the store nor engines, and what a state folder's disk holds is not
// asked while there is an agent.
func Excuse(windows []Window, r Request, limits Limits) string {
	for _, w := range slices.Backward(windows) {
		switch w.Kind {
		case TaskKilled, TaskFrozen:
			if r.Service == w.Service && w.during(r, limits.TaskGone) {
				return "its task was not gone from rotation yet"
			}
		case HostCut:
			if r.Via == w.Host && r.From != w.Host && w.during(r, 0) {
				return "it was made to a host that was cut off"
			}
			if w.during(r, limits.HostGone) {
				return "a host was not gone from rotation yet"
			}
			if w.closed(r, limits.HostGone) {
				return "a host was taken for dead just as it came back"
			}
		case HostsApart:
			if (r.Via == w.Host || r.Via == w.Other) && w.during(r, limits.HostGone) {
				return "a host was not gone from the other one's rotation yet"
			}
			if (r.Via == w.Host || r.Via == w.Other) && w.closed(r, limits.HostGone) {
				return "a host was taken for dead by the other one just as it came back"
			}
		}
	}
	return ""
}

// aborted is how a client's connection ends that was closed since its task is gone (ECONNABORTED).
const aborted = "software caused connection abort"

// closed says that a request's connection was closed since a host was found dead: that takes a while, in which it may be back.
func (w Window) closed(r Request, within time.Duration) bool {
	return strings.Contains(r.Error, aborted) && r.Ended.After(w.Began) && r.Ended.Before(w.seen(r).Add(within))
}

// seen is when the agent of the host that chose the request's task could see what broke.
func (w Window) seen(r Request) time.Time {
	if r.Via == w.Host && w.Restarted.After(w.Broken) {
		return w.Restarted
	}
	return w.Broken
}

// during says that a request was under way while things broke or in the first so long after that, by the agent of the host that chose its task, 0: before they were put right.
func (w Window) during(r Request, first time.Duration) bool {
	until := w.Undone
	if end := w.seen(r).Add(first); first > 0 && (until.IsZero() || end.Before(until)) {
		until = end
	}
	return r.Ended.After(w.Began) && (until.IsZero() || r.Begun.Before(until))
}
