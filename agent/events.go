package agent

import (
	"context"
	"time"

	"shoal/events"
	"shoal/model"
)

// How often it is looked which problems there are, and how long the engine may take to
// say how a container ended.
const (
	problemsFollowed = 2 * time.Second  // while anybody follows the events
	problemsKept     = 10 * time.Second // else
	endLimit         = 5 * time.Second
	endPause         = 20 * time.Millisecond
)

// watchEvents notes what happens for as long as ctx lasts.
func (a *Agent) watchEvents(ctx context.Context) {
	defer a.events.Close()
	snapshots := a.catalog.Watch(ctx)
	var last *model.Snapshot
	var problems []model.Problem // nil: not looked at yet
	look := time.NewTicker(problemsFollowed)
	defer look.Stop()
	var looked time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case s, ok := <-snapshots:
			if !ok {
				return
			}
			a.events.Add(events.Between(last, s, time.Now().UTC(), a.endsBy(ctx, time.Now().Add(endLimit)))...)
			last = s
		case now := <-look.C:
			if last == nil || now.Sub(looked) < problemsKept && !a.events.Followed() {
				continue
			}
			looked = now
			ps := a.ownProblems()
			a.events.Add(events.OfProblems(problems, ps, now.UTC())...)
			if problems = ps; ps == nil {
				problems = []model.Problem{}
			}
		}
	}
}

// endsBy asks how tasks of this host ended. That they ended is known before the engine
// says how: it is waited for, until a time.
func (a *Agent) endsBy(ctx context.Context, deadline time.Time) events.EndOf {
	return func(t *model.Task) (events.End, bool) {
		if t.Node != a.config.Node {
			return events.End{}, false
		}
		for {
			e, known := a.watcher.Ended(t.Container, t.Started)
			if known || time.Now().After(deadline) {
				return events.End{Told: e.Told, How: e.How}, known
			}
			select {
			case <-ctx.Done():
				return events.End{}, false
			case <-time.After(endPause):
			}
		}
	}
}
