package dockerwatch

import (
	"fmt"
	"slices"
	"time"

	"shoal/model"
)

// A container that flaps, as its health comes and goes or it dies and is started
// again, is taken out of rotation at once each time. But each time that it comes
// back, all hosts give it connections that it soon loses, and each is a write to
// the store. So coming back is damped: after freeJoins within joinWindow it has to
// be fit without a break for longer each time. Leaving is not.
const (
	joinWindow = 10 * time.Minute
	freeJoins  = 5
	firstHold  = 10 * time.Second
	lastHold   = 2 * time.Minute
)

// holdAfter is how long a container must be fit before it joins, which has joined so
// often within joinWindow.
func holdAfter(joins int) time.Duration {
	if joins < freeJoins {
		return 0
	}
	return min(firstHold<<min(joins-freeJoins, 10), lastHold)
}

// damper is what is remembered of a container's joining, over its lives.
type damper struct {
	life  time.Time   // start of the life that was last looked at
	fit   bool        // it could be in rotation
	until time.Time   // it is fit, and held out of rotation until then; zero: it is not held
	out   time.Time   // since when it is out of rotation after it was in; zero: it is in, or never was in this life
	in    time.Time   // since when it is in, if it was held before
	joins []time.Time // of the last joinWindow
}

// observe takes in whether a container could be in rotation.
func (d *damper) observe(fit bool, life, now time.Time) {
	if !life.Equal(d.life) {
		*d = damper{life: life, joins: d.joins}
	}
	was := d.fit
	d.fit = fit
	switch {
	case fit == was:
	case fit:
		if hold := holdAfter(d.recent(now)); hold > 0 {
			d.until = now.Add(hold)
			return
		}
		d.join(now)
	default:
		if d.until.IsZero() {
			d.out = now
		}
		d.until = time.Time{}
	}
}

// release joins a container that was held for long enough, and forgets what is long
// ago. It tells whether that made a difference.
func (d *damper) release(now time.Time) bool {
	flapped := d.flaps()
	joined := !d.until.IsZero() && !now.Before(d.until)
	if joined {
		d.in = now
		d.join(now)
	}
	d.recent(now)
	return joined || d.flaps() != flapped
}

func (d *damper) join(now time.Time) {
	d.until, d.out = time.Time{}, time.Time{}
	d.joins = append(d.joins, now)
}

// recent forgets joins that are long ago, and counts the others.
func (d *damper) recent(now time.Time) int {
	d.joins = slices.DeleteFunc(d.joins, func(t time.Time) bool { return now.Sub(t) >= joinWindow })
	return len(d.joins)
}

// flaps tells whether its next join is damped.
func (d *damper) flaps() bool { return holdAfter(len(d.joins)) > 0 }

// state is the state of a task that would be in another one without damping. While
// a task is out of rotation its state does not follow every turn of its health: that
// would be a write each.
func (d *damper) state(state model.State, since time.Time, started time.Time) (model.State, time.Time) {
	switch {
	case state == model.Running && !d.until.IsZero() && d.out.IsZero():
		return model.Starting, started
	case state == model.Running && !d.until.IsZero():
		return model.Unhealthy, d.out
	case state == model.Running && d.in.After(since):
		return state, d.in
	case state == model.Unhealthy && !d.out.IsZero():
		return state, d.out
	}
	return state, since
}

// notice says that a container flaps.
func (d *damper) notice() (n []model.Notice) {
	if d.flaps() {
		n = append(n, model.Notice{Code: model.TaskFlapping, Text: fmt.Sprintf("it has come into rotation %d times or more within %s: "+
			"until that is over it comes back only once it has been fit for a while, up to %s; see its log, and its HEALTHCHECK", freeJoins, joinWindow, lastHold)})
	}
	return n
}

// damped looks at a container's fitness.
func (v *inventory) damped(f *facts, now time.Time) {
	if len(f.services) == 0 {
		return
	}
	d := v.dampers[f.id]
	if d == nil {
		d = &damper{}
		v.dampers[f.id] = d
	}
	state, _ := f.state(f.usesHealth(), time.Time{})
	d.observe(state == model.Running && v.readiness.joined(f), f.started, now)
}

// usesHealth tells whether the container's HEALTHCHECK matters to any of its services.
func (f *facts) usesHealth() bool {
	return slices.ContainsFunc(f.services, func(s serviceLabels) bool { return s.health })
}

// release joins what was held for long enough. It tells whether anything differs.
func (v *inventory) release(now time.Time) (changed bool) {
	for id, d := range v.dampers {
		if d.release(now) && v.containers[id] != nil {
			changed = true
		}
		if v.containers[id] == nil && len(d.joins) == 0 {
			delete(v.dampers, id)
		}
	}
	return changed
}
