package dockerwatch

import (
	"strings"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
)

// effect is what an event asks for.
type effect int

const (
	look     effect = iota + 1 // at the container again, if it is known
	appear                     // look at the container, known or not
	gone                       // forget the container
	signaled                   // the container was sent a signal
	networks                   // list the networks again
)

// effects are the events followed, by type and action. Some are there for
// what they bring with them: an engine sends oom before it is known whether
// the container ends of it, and stop after die.
//
// A container that is being started is not looked at before it has started
// (its networks are connected first): the engine would hold back the answer
// until then.
var effects = map[events.Type]map[events.Action]effect{
	events.ContainerEventType: {
		events.ActionStart:        appear,
		events.ActionDie:          gone,
		events.ActionDestroy:      gone,
		events.ActionKill:         signaled,
		events.ActionStop:         look,
		events.ActionPause:        look,
		events.ActionUnPause:      look,
		events.ActionOOM:          look,
		events.ActionHealthStatus: look,
		events.ActionRename:       look,
		events.ActionUpdate:       look,
	},
	events.NetworkEventType: {
		events.ActionCreate:     networks,
		events.ActionDestroy:    networks,
		events.ActionRemove:     networks,
		events.ActionConnect:    look,
		events.ActionDisconnect: look,
	},
}

// event is an engine's event, as far as it matters.
type event struct {
	effect    effect
	kind      events.Type
	action    events.Action
	container string         // full ID; "" if it is about a network alone
	signal    syscall.Signal // of signaled
	exit      exit           // of a death
	at        time.Time
}

// eventOf reads a message, and tells whether it is one to follow.
func eventOf(m events.Message) (event, bool) {
	// "health_status: healthy" carries its state along.
	action, _, _ := strings.Cut(string(m.Action), ":")
	e := event{
		kind:      m.Type,
		action:    events.Action(action),
		effect:    effects[m.Type][events.Action(action)],
		container: m.Actor.ID,
		at:        time.Unix(0, m.TimeNano).UTC(),
	}
	if m.TimeNano == 0 {
		e.at = time.Unix(m.Time, 0).UTC()
	}
	if m.Type == events.NetworkEventType {
		e.container = m.Actor.Attributes["container"]
	}
	if e.effect == signaled {
		e.signal = parseSignal(m.Actor.Attributes["signal"])
	}
	if e.action == events.ActionDie {
		e.exit = exitOf(m.Actor.Attributes)
	}
	return e, e.effect != 0
}

// followed asks the engine for no other events: every probe of a HEALTHCHECK
// makes three.
func followed() filters.Args {
	args := filters.NewArgs()
	for kind, actions := range effects {
		args.Add("type", string(kind))
		for action := range actions {
			args.Add("event", string(action))
		}
	}
	return args
}
