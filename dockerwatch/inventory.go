package dockerwatch

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"shoal/model"
)

// inventory is what is known of the engine: it takes in events and
// inspections and tells what to look at next and what follows for the mesh. It
// does no I/O.
type inventory struct {
	node     string
	nodeAddr func() netip.Addr
	limits   limits

	containers map[string]*facts        // running ones, by ID
	networks   map[string]engineNetwork // by ID
	leaving    map[string]leave         // container's ID -> since when it drains
	early      map[string][]event       // container's ID -> signals it was sent before it was looked at
	dead       map[string]time.Time     // container's ID -> start of a life that has ended, of which the engine may not know yet
	stale      map[string]bool          // containers' IDs to look at
	dampers    map[string]*damper       // container's ID -> how often it came into rotation
	readiness  *readiness               // nil: every task is ready at once
	relist     bool                     // the networks are to be listed

	// unseen are containers that run and were not looked at yet, with the addresses that the
	// engine lists them with: they are as they were recorded.
	unseen   map[string][]string
	recorded func(id string) (model.Container, bool) // as it was when the agent last ran
}

// leave is a container's way out of rotation.
type leave struct {
	since    time.Time // it drains
	signaled time.Time // it was told to stop; zero: not yet
}

// maxEarly bounds the signals kept of a container not looked at yet.
const maxEarly = 64

// apply takes in an event.
func (v *inventory) apply(e event, now time.Time) {
	f := v.containers[e.container]
	switch e.effect {
	case networks:
		v.relist = true
	case appear:
		v.stale[e.container] = true
	case look:
		if f != nil {
			v.stale[e.container] = true
		}
	case gone:
		// It may have been started again since, and looked at.
		if f == nil || !f.startedSince(e.at, now) {
			v.remove(e.container)
		}
	case signaled:
		if f == nil {
			if v.ends(e) {
				delete(v.unseen, e.container)
			}
			// It may be one that is about to be looked at.
			held := append(v.early[e.container], e)
			v.early[e.container] = held[max(0, len(held)-maxEarly):]
			return
		}
		if len(f.services) == 0 || !f.stops(e.signal) || f.startedSince(e.at, now) {
			return
		}
		l, already := v.leaving[f.id]
		if !already {
			l.since = e.at
		}
		if l.signaled.IsZero() {
			l.signaled = e.at
		}
		if !f.back(l, now) {
			v.leaving[f.id] = l
		}
	}
}

// startedSince tells whether a container was started after a time. One that was started
// in the future was not started after a time that has passed: the clock was set back in between.
func (f *facts) startedSince(at, now time.Time) bool {
	return f.started.After(at) && (at.After(now) || !f.started.After(now))
}

// end takes in that the first process of a container has ended. It returns
// what was known of the container; nil: nothing, or it has been started again
// since.
func (v *inventory) end(l life) *facts {
	f := v.containers[l.id]
	if f == nil || !f.started.Equal(l.started) {
		return nil
	}
	v.remove(l.id)
	v.dead[l.id] = l.started
	return f
}

// drain takes a container out of rotation that was not told to stop.
func (v *inventory) drain(f *facts, now time.Time) {
	if _, already := v.leaving[f.id]; !already && len(f.services) > 0 {
		v.leaving[f.id] = leave{since: now}
	}
}

// undrain puts it back.
func (v *inventory) undrain(f *facts) error {
	if l := v.leaving[f.id]; !l.signaled.IsZero() {
		return fmt.Errorf("it was told to stop at %s: start it again once it has", l.signaled.Format(time.RFC3339))
	}
	delete(v.leaving, f.id)
	return nil
}

// lookup is the running container of a name, an ID or the beginning of one.
func (v *inventory) lookup(ref string) (*facts, error) {
	if f := v.find(ref); f != nil {
		return f, nil
	}
	var found *facts
	for id, f := range v.containers {
		if ref == "" || !strings.HasPrefix(id, ref) {
			continue
		}
		if found != nil {
			return nil, errors.New("the IDs of several containers begin like this: write more of it")
		}
		found = f
	}
	if found == nil {
		return nil, ErrUnknown
	}
	return found, nil
}

// put takes in a running container. It returns false if that is one which only the engine
// holds for running: its first process has ended.
func (v *inventory) put(f *facts, now time.Time) bool {
	if died, ok := v.dead[f.id]; ok && died.Equal(f.started) {
		return false
	}
	delete(v.dead, f.id)
	delete(v.unseen, f.id)
	f.follows(v.containers[f.id], now)
	v.containers[f.id] = f
	v.readiness.observe(f, now)
	v.damped(f, now)
	if l, ok := v.leaving[f.id]; ok && f.startedSince(l.since, now) {
		delete(v.leaving, f.id)
	}
	for _, e := range v.early[f.id] {
		v.apply(e, now)
	}
	delete(v.early, f.id)
	return true
}

// remove forgets a container.
func (v *inventory) remove(id string) {
	delete(v.containers, id)
	delete(v.leaving, id)
	delete(v.early, id)
	delete(v.dead, id)
	delete(v.stale, id)
	delete(v.unseen, id)
	v.readiness.remove(id)
}

// keep forgets the containers that are not among ids.
func (v *inventory) keep(ids map[string]bool) {
	other := func(id string) bool { return !ids[id] }
	deleteFrom(v.containers, other)
	deleteFrom(v.leaving, other)
	deleteFrom(v.early, other)
	deleteFrom(v.dead, other)
	deleteFrom(v.stale, other)
	deleteFrom(v.unseen, other)
	v.readiness.keep(other)
}

func deleteFrom[T any](m map[string]T, which func(id string) bool) {
	maps.DeleteFunc(m, func(id string, _ T) bool { return which(id) })
}

// expireStops gives up on the containers that were to stop and did not, and
// returns them: they are in rotation again.
func (v *inventory) expireStops(now time.Time) (back []*facts) {
	for id, l := range v.leaving {
		if f := v.containers[id]; f != nil && f.back(l, now) {
			delete(v.leaving, id)
			back = append(back, f)
		}
	}
	return back
}

// knowsNetworks tells whether every network a container is on is known.
func (v *inventory) knowsNetworks() bool {
	for _, f := range v.containers {
		for _, e := range f.endpoints {
			if _, ok := v.networks[e.networkID]; !ok {
				return false
			}
		}
	}
	return true
}

// local is what all of it means for the mesh. It shares nothing that is
// changed later.
func (v *inventory) local() model.Local {
	l := model.Local{Networks: bridges(v.networks)}
	for _, id := range slices.Sorted(maps.Keys(v.containers)) {
		l.Containers = append(l.Containers, v.container(v.containers[id]))
	}
	for id, addrs := range v.unseen {
		// One that was started again has the same address only if nobody else has it.
		if c, known := v.recorded(id); known && !slices.ContainsFunc(c.Addrs, func(a netip.Addr) bool { return !slices.Contains(addrs, a.String()) }) {
			c.Tasks = slices.Clone(c.Tasks) // their states may change
			l.Containers = append(l.Containers, c)
		}
	}
	slices.SortFunc(l.Containers, func(a, b model.Container) int { return strings.Compare(a.ID, b.ID) })
	return l
}

// ends tells whether a signal is one that ends a container which was not looked at, in the
// life in which it was recorded. By which other signal it is stopped is not known.
func (v *inventory) ends(e event) bool {
	last, _ := v.recorded(e.container)
	return (e.signal == syscall.SIGTERM || e.signal == syscall.SIGKILL) && !last.Since.After(e.at)
}

// list takes in that a container runs, which may not have been looked at yet.
func (v *inventory) list(id string, addrs []string) {
	if v.containers[id] == nil && !slices.ContainsFunc(v.early[id], v.ends) {
		v.unseen[id] = addrs
	}
}

// container is one container's part in the mesh: all of its tasks, or none and
// the reason.
func (v *inventory) container(f *facts) model.Container {
	c := model.Container{
		ID:    f.id,
		Name:  f.name,
		Node:  v.node,
		Stack: f.stack,
		Since: f.started,
	}
	c.Notices = imageNotice(f.ignored)
	damper := v.dampers[f.id]
	if damper != nil && len(f.services) > 0 {
		c.Notices = append(c.Notices, damper.notice()...)
	}
	c.Notices = append(c.Notices, v.readiness.notices(f)...)
	if f.refusal != nil {
		c.Problem, c.ProblemCode = f.refusal.Error(), model.CodeOf(f.refusal, model.LabelsInvalid)
	}
	for _, e := range f.endpoints {
		c.Addrs = append(c.Addrs, e.addrs...)
	}
	for i := range f.services {
		s := &f.services[i]
		addr, err := v.address(f, s)
		if err != nil {
			c.Tasks, c.Problem, c.ProblemCode = nil, err.Error(), model.CodeOf(err, model.AddressMissing)
			break
		}
		state, since, reason := v.state(f, s)
		c.Tasks = append(c.Tasks, model.Task{
			Service:   s.id,
			Node:      v.node,
			Container: f.id,
			Name:      f.name,
			Addr:      addr,
			State:     state,
			Since:     since,
			Reason:    reason,
			Drain:     s.drain,
			Weight:    s.weight,
			Started:   f.started,
			Spec:      &s.spec,
		})
	}
	return c
}

// state tells where a task stands, since when, and what one that starts waits for.
func (v *inventory) state(f *facts, s *serviceLabels) (state model.State, since time.Time, reason string) {
	state, since = f.state(s.health, v.leaving[f.id].since)
	if state == model.Starting {
		return state, since, "waits until its HEALTHCHECK passes"
	}
	if w := v.readiness.of(f, s); w != nil && state == model.Running {
		if w.entered.IsZero() {
			owner, err := v.networkOwner(f)
			p := planOf(s, f.exposed, err == nil && owner.hostNetwork)
			return model.Starting, f.started, p.reason()
		}
		if w.entered.After(since) {
			since = w.entered
		}
	}
	if d := v.dampers[f.id]; d != nil && s.health == f.usesHealth() {
		state, since = d.state(state, since, f.started)
	}
	if state == model.Starting {
		reason = "waits until it has been fit for a while, as it came into rotation too often"
	}
	return state, since, reason
}
