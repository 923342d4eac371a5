package events

import (
	"cmp"
	"slices"
	"time"

	"shoal/model"
)

// End is how a task's container ended.
type End struct {
	Told bool   // somebody wanted it
	How  string // for people
}

// EndOf tells how a task ended, where that is known.
type EndOf func(*model.Task) (end End, known bool)

// Between is what happened from one Snapshot to a later one: hosts first, then
// services by their IDs, each with its tasks. Of the first Snapshot (old is nil)
// nothing is told.
func Between(old, now *model.Snapshot, at time.Time, ended EndOf) []Event {
	if old == nil || now == nil || old == now {
		return nil
	}
	d := differ{at: at, ended: ended, old: old, now: now}
	d.hosts()
	for _, id := range changedServices(old, now) {
		d.service(id)
	}
	return d.events
}

// changedServices are those that may differ, by ID.
func changedServices(old, now *model.Snapshot) []model.ServiceID {
	if ids, known := now.ServicesSince(old); known {
		return ids
	}
	var ids []model.ServiceID
	for _, s := range slices.Concat(old.Services, now.Services) {
		ids = append(ids, s.ID)
	}
	slices.SortFunc(ids, model.ServiceID.Compare)
	return slices.Compact(ids)
}

// differ gathers what differs between two Snapshots.
type differ struct {
	at       time.Time
	ended    EndOf
	old, now *model.Snapshot
	events   []Event
}

func (d *differ) add(e Event) {
	e.Time = d.at
	d.events = append(d.events, e)
}

func (d *differ) hosts() {
	if model.Shared(d.old.Nodes, d.now.Nodes) {
		return
	}
	was, is := nodesOf(d.old), nodesOf(d.now)
	for i := range d.now.Nodes {
		n := &d.now.Nodes[i]
		o, known := was[n.Name]
		switch {
		case n.Name == d.now.Self.Name: // it is alive, to itself
		case !known:
			d.add(Event{Type: HostJoined, Node: n.Name, Reason: "its address is " + n.Addr.String()})
		case o.Alive && !n.Alive:
			d.add(Event{Type: HostDead, Node: n.Name, Reason: "it does not answer: its tasks are out of rotation"})
		case !o.Alive && n.Alive:
			d.add(Event{Type: HostBack, Node: n.Name})
		}
	}
	for i := range d.old.Nodes {
		if name := d.old.Nodes[i].Name; is[name] == nil {
			d.add(Event{Type: HostRemoved, Node: name})
		}
	}
}

func nodesOf(s *model.Snapshot) map[string]*model.Node {
	nodes := map[string]*model.Node{}
	for i := range s.Nodes {
		nodes[s.Nodes[i].Name] = &s.Nodes[i]
	}
	return nodes
}

// taskKey tells the tasks of a service apart.
type taskKey struct{ node, container string }

func tasksOf(s *model.Service) map[taskKey]*model.Task {
	tasks := map[taskKey]*model.Task{}
	if s != nil {
		for _, t := range s.Tasks {
			tasks[taskKey{t.Node, t.Container}] = t
		}
	}
	return tasks
}

func (d *differ) service(id model.ServiceID) {
	old, was := d.old.Service(id)
	now, is := d.now.Service(id)
	if old == now {
		return
	}
	if !was {
		d.add(Event{Type: ServiceAdded, Service: id.String()})
	}
	before, after := tasksOf(old), tasksOf(now)
	if was {
		for _, t := range old.Tasks { // those that leave first: others take their place
			n := after[taskKey{t.Node, t.Container}]
			if n == nil || !n.Started.Equal(t.Started) {
				d.gone(t)
			}
		}
	}
	if is {
		for _, t := range now.Tasks {
			d.task(before[taskKey{t.Node, t.Container}], t)
		}
	} else {
		d.add(Event{Type: ServiceGone, Service: id.String()})
	}
}

func ofTask(what Type, t *model.Task, reason string) Event {
	return Event{Type: what, Node: t.Node, Service: t.Service.String(), Name: t.Name, Container: t.Container, Reason: reason}
}

// task tells what became of one that is there. Old is nil of a new one.
func (d *differ) task(old, t *model.Task) {
	if old == nil || !old.Started.Equal(t.Started) {
		why := ""
		if t.State != model.Running {
			why = whyOut(t)
		}
		d.add(ofTask(TaskStarted, t, why))
		old = &model.Task{}
	}
	switch {
	case old.State == t.State:
	case t.State == model.Running:
		d.add(ofTask(TaskIn, t, ""))
	case t.State == model.Draining:
		d.add(ofTask(TaskDraining, t, "it has "+t.Drain.String()+" to finish what it holds"))
	case old.State == model.Running:
		d.add(ofTask(TaskOut, t, whyOut(t)))
	}
}

// whyOut says why a task is given no new connections.
func whyOut(t *model.Task) string {
	switch t.State {
	case model.Unhealthy:
		return "its HEALTHCHECK fails"
	case model.Paused:
		return "it is paused"
	case model.Lost:
		return "its host is dead"
	case model.Unreached:
		return "this host does not reach its address"
	}
	return cmp.Or(t.Reason, "it is "+string(t.State))
}

// gone tells how a task left.
func (d *differ) gone(t *model.Task) {
	end, known := d.ended(t)
	switch {
	case known && end.Told, known && t.State == model.Draining:
		d.add(ofTask(TaskLeft, t, cmp.Or(end.How, "it was stopped")))
	case known:
		d.add(ofTask(TaskDied, t, end.How))
	case t.State == model.Draining:
		d.add(ofTask(TaskLeft, t, "it has drained"))
	case !hasNode(d.now, t.Node):
		d.add(ofTask(TaskLeft, t, "its host was removed from the cluster"))
	default:
		d.add(ofTask(TaskLeft, t, "it was not seen to drain: shoal events on its host tells how it ended"))
	}
}

func hasNode(s *model.Snapshot, name string) bool {
	return slices.ContainsFunc(s.Nodes, func(n model.Node) bool { return n.Name == name })
}

// problemKey tells problems apart. A reason may change while the problem stays.
type problemKey struct {
	node, kind, object string
	code               model.Code
}

func keysOf(ps []model.Problem) map[problemKey]model.Problem {
	keys := map[problemKey]model.Problem{}
	for _, p := range ps {
		k := problemKey{p.Node, p.Kind, p.Object, p.Code}
		if _, there := keys[k]; !there {
			keys[k] = p
		}
	}
	return keys
}

// OfProblems is which problems appeared and which are gone, in the order of the
// lists. Of the first list (old is nil) nothing is told.
func OfProblems(old, now []model.Problem, at time.Time) (events []Event) {
	if old == nil {
		return nil
	}
	add := func(what Type, ps []model.Problem, but map[problemKey]model.Problem) {
		told := map[problemKey]bool{}
		for _, p := range ps {
			k := problemKey{p.Node, p.Kind, p.Object, p.Code}
			if _, there := but[k]; !there && !told[k] {
				told[k] = true
				events = append(events, Event{Time: at, Type: what, Node: p.Node, Reason: p.Reason, Problem: &p})
			}
		}
	}
	add(ProblemFound, now, keysOf(old))
	add(ProblemGone, old, keysOf(now))
	return events
}
