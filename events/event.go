package events

import (
	"cmp"
	"time"

	"shoal/model"
)

// Type says what happened. More may come with later versions.
type Type string

// What happens.
const (
	TaskStarted  Type = "task-started"
	TaskIn       Type = "task-in-rotation"
	TaskOut      Type = "task-out-of-rotation" // it is still there
	TaskDraining Type = "task-draining"
	TaskLeft     Type = "task-left" // it is gone
	TaskDied     Type = "task-died" // likewise, by itself

	ServiceAdded Type = "service-added"
	ServiceGone  Type = "service-gone"

	HostJoined  Type = "host-joined"
	HostDead    Type = "host-dead"
	HostBack    Type = "host-back"
	HostRemoved Type = "host-removed"

	ProblemFound Type = "problem-found"
	ProblemGone  Type = "problem-gone"

	// Dropped stands in the place of events that a reader was too slow for.
	Dropped Type = "events-dropped"
)

// Event is one thing that happened.
type Event struct {
	Number    uint64         `json:"number,omitempty"` // grows by one with each event of a run of the agent
	Time      time.Time      `json:"time"`             // when this host came to know of it
	Type      Type           `json:"event"`
	Node      string         `json:"node,omitempty"`      // the host that it is about, or that the task runs on
	Service   string         `json:"service,omitempty"`   // stack/name
	Name      string         `json:"name,omitempty"`      // of the task's container
	Container string         `json:"container,omitempty"` // its full ID
	Reason    string         `json:"reason,omitempty"`    // for people
	Problem   *model.Problem `json:"problem,omitempty"`
	Count     uint64         `json:"count,omitempty"` // of events that were dropped
}

// Identity is what the event is about.
func (e Event) Identity() string {
	if e.Problem != nil {
		return e.Problem.Object
	}
	return cmp.Or(e.Name, e.Service, e.Node, string(e.Type))
}
