package dockerwatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"

	"shoal/model"
)

const (
	// inspections go on at a time.
	inspections = 16

	// answerTime is how long answers are waited for, so that events that come
	// together are emitted together. An engine holds back its answer about a
	// container that it is busy with, for ever if that container hangs; the
	// others are not to wait for it.
	answerTime = 100 * time.Millisecond

	// tick is when what failed is tried again, and deadlines are looked at.
	tick = time.Second
)

// session is one connection to an engine.
type session struct {
	*Watcher
	engine engine
	stream *stream

	emit    func(model.Local)
	known   bool            // what happened before the session began, whole
	dirty   map[string]bool // IDs of containers of which events came while a list was waited for; nil: none is
	steps   int
	answers chan answer
	asked   map[string]question // container's ID -> what is not answered yet
	failed  map[string]bool     // containers' IDs to ask for again at the next tick
}

// question is an inspection that goes on.
type question struct {
	step   int  // in which it was asked
	tooOld bool // an event has come since: the answer may be older than that
}

// answer is the engine's, about one container.
type answer struct {
	id        string
	container container.InspectResponse
	image     map[string]string // labels of its image, if they matter
	err       error
}

// session follows the engine over one connection, and returns why it ended.
func (w *Watcher) session(ctx context.Context, emit func(model.Local), connected func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	engine, err := w.dial()
	if err != nil {
		return err
	}
	defer engine.Close()

	// First the events, then the list, then what the events say: whatever
	// happens is in one of them. Events that the list knows already do no
	// harm: most make us look again, and those that a later start of the
	// container has overtaken are let be.
	since := w.seen.Add(1)
	if now := time.Now(); w.seen.IsZero() || since.After(now) {
		// An engine refuses to tell of the future, which is where the last event lies once
		// the clock was set back.
		since, w.seen = now.Add(-lookBack), time.Time{}
	}
	stream, err := follow(ctx, engine, since)
	if err != nil {
		return err
	}
	s := &session{
		Watcher: w,
		engine:  engine,
		stream:  stream,
		emit:    emit,
		answers: make(chan answer, inspections),
		asked:   map[string]question{},
		failed:  map[string]bool{},
	}
	clear(w.outlines)
	if err := s.list(ctx); err != nil {
		return err
	}
	// The first time nothing is emitted before all is known.
	if err := s.step(ctx, callTimeout); err != nil {
		return err
	}
	s.known = true
	connected()
	w.tell(emit)
	return s.follow(ctx)
}

// follow emits what changes until the session ends.
func (s *session) follow(ctx context.Context) error {
	resync := time.NewTicker(s.resync)
	defer resync.Stop()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		s.heart.Beat()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stream.wake:
		case c := <-s.commands:
			s.runCommand(c, s.emit)
			continue
		case l := <-s.exits.ended:
			s.onExit(l)
			s.tell(s.emit) // at once: the engine may hold back the answers that step waits for
		case p := <-s.probes.news:
			if !s.onProbed(p) {
				continue
			}
			s.tell(s.emit)
		case <-s.awake.C:
			s.tell(s.emit)
			continue
		case a := <-s.answers:
			if err := s.takeAnswer(a); err != nil {
				return err
			}
		case <-resync.C:
			if err := s.list(ctx); err != nil {
				return err
			}
		case <-ticker.C:
			back := s.inventory.expireStops(time.Now())
			for _, f := range back {
				s.log.Warn("a container was to stop and still runs: its tasks are in rotation again",
					"container", f.name, "id", f.id)
			}
			if !s.inventory.release(time.Now().UTC()) && len(back)+len(s.failed) == 0 && !s.inventory.relist {
				continue
			}
			maps.Copy(s.inventory.stale, s.failed)
			clear(s.failed)
		}
		err := s.step(ctx, answerTime)
		s.tell(s.emit)
		if err != nil {
			return err
		}
	}
}

// step takes in the events that wait and looks at what they ask to look at. It
// returns an error if the engine has gone; the events are taken in all the
// same.
func (s *session) step(ctx context.Context, answerTime time.Duration) error {
	events, err := s.stream.drain()
	if s.takeIn(events) && s.known {
		s.tell(s.emit) // what leaves does not wait for answers about others
	}
	if err != nil {
		return err
	}
	late := time.After(answerTime)
	s.ask(ctx)
	for waits := true; waits && (s.awaits() || s.probes.fresh()); {
		s.heart.Beat()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case a := <-s.answers:
			if err := s.takeAnswer(a); err != nil {
				return err
			}
			s.ask(ctx)
		case l := <-s.exits.ended:
			s.onExit(l)
			s.tell(s.emit)
		case p := <-s.probes.news:
			s.onProbed(p)
		case <-s.probes.hold.C:
		case <-s.awake.C:
			s.tell(s.emit)
		case <-late:
			waits = false
		}
	}
	s.steps++
	if s.inventory.relist || !s.inventory.knowsNetworks() {
		return s.listNetworks(ctx)
	}
	return nil
}

// awaits tells whether anything asked in this step, or in the lists before it, is
// not answered yet.
func (s *session) awaits() bool {
	for _, q := range s.asked {
		if q.step == s.steps {
			return true
		}
	}
	return false
}

// takeIn applies events to the inventory, and tells whether anything may have left by
// them.
func (s *session) takeIn(events []event) (left bool) {
	now := time.Now().UTC()
	for _, e := range events {
		s.metrics.events.WithLabelValues(string(e.kind), string(e.action)).Inc()
		s.log.Debug("event of the Docker engine", "type", e.kind, "action", e.action, "container", e.container)
		s.inventory.apply(e, now)
		s.crashes.take(e)
		left = left || e.effect == signaled || e.effect == gone
		delete(s.outlines, e.container)
		if q, ok := s.asked[e.container]; ok {
			q.tooOld = true
			s.asked[e.container] = q
		}
		if s.dirty != nil {
			s.dirty[e.container] = true
		}
		if e.at.After(s.seen) {
			s.seen = e.at
		}
	}
	return left
}

// while waits for a list of the engine's, which can take it seconds. Events, and
// deaths of which the kernel tells, are taken in and told meanwhile.
func (s *session) while(ctx context.Context, call func(context.Context) error) error {
	callCtx, cancel := context.WithTimeout(ctx, callTimeout)
	done := make(chan error, 1)
	go func() { done <- call(callCtx) }()
	fail := func(err error) error {
		cancel()
		<-done // so that nobody else writes to what call returns
		return err
	}
	defer cancel()
	for {
		commands := s.commands
		if !s.known {
			commands = nil
		}
		tells := s.known // what comes before all is known is told with it
		select {
		case err := <-done:
			return err
		case <-s.stream.wake:
			events, err := s.stream.drain()
			s.takeIn(events)
			if err != nil {
				return fail(err)
			}
			s.ask(ctx)
		case a := <-s.answers:
			if err := s.takeAnswer(a); err != nil {
				return fail(err)
			}
			s.ask(ctx)
		case l := <-s.exits.ended:
			s.onExit(l)
			tells = true // a death does not wait
		case p := <-s.probes.news:
			if !s.onProbed(p) {
				continue
			}
		case <-s.awake.C:
			tells = true // nor does the end of a rest
		case c := <-commands:
			s.runCommand(c, s.emit)
			continue
		}
		if tells {
			s.tell(s.emit)
		}
	}
}

// list asks for all networks and running containers, and marks those to look
// at that are new or have changed, or of which there were events meanwhile: they
// may not be as they were listed.
func (s *session) list(ctx context.Context) error {
	s.metrics.lists.Inc()
	if err := s.listNetworks(ctx); err != nil {
		return err
	}
	s.dirty = map[string]bool{}
	defer func() { s.dirty = nil }()
	var containers []container.Summary
	err := s.while(ctx, func(ctx context.Context) (err error) {
		containers, err = s.engine.ContainerList(ctx, container.ListOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	running, images := maps.Clone(s.dirty), map[string]bool{}
	for _, c := range containers {
		running[c.ID], images[c.ImageID] = true, true
		if !s.dirty[c.ID] {
			s.inventory.list(c.ID, addrsOf(c))
		}
		if s.dirty[c.ID] {
			s.inventory.stale[c.ID] = true
		} else if now := outline(c); s.outlines[c.ID] != now {
			s.outlines[c.ID] = now
			s.inventory.stale[c.ID] = true
		}
	}
	s.inventory.keep(running)
	maps.DeleteFunc(s.outlines, func(id, _ string) bool { return !running[id] })
	s.images.Range(func(id, _ any) bool {
		if !images[id.(string)] {
			s.images.Delete(id)
		}
		return true
	})
	return nil
}

func (s *session) listNetworks(ctx context.Context) error {
	s.inventory.relist = false // an event that comes meanwhile asks for another list
	var list []network.Summary
	err := s.while(ctx, func(ctx context.Context) (err error) {
		list, err = s.engine.NetworkList(ctx, network.ListOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("list networks: %w", err)
	}
	s.inventory.networks = networksOf(list, interfaceAddrs)
	return nil
}

// ask begins to inspect what is to be looked at, as much as may go on at a time.
func (s *session) ask(ctx context.Context) {
	for _, id := range slices.Sorted(maps.Keys(s.inventory.stale)) {
		if len(s.asked) == inspections {
			break
		}
		if _, already := s.asked[id]; already {
			continue // its answer will be too old, and it is asked for again
		}
		delete(s.inventory.stale, id)
		s.asked[id] = question{step: s.steps}
		go func() {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			a := answer{id: id}
			if a.container, a.err = s.engine.ContainerInspect(ctx, id); a.err == nil {
				a.image, a.err = s.imageOf(ctx, a.container)
			}
			s.answers <- a // has room for all that go on
		}()
	}
}

// imageOf are the labels of a container's image, which is asked for when first
// it matters: where the container has shoal labels, or a Compose project. An
// image that is gone has none, and the container's are taken for its own: who
// made an image cannot have it removed while a container of it runs.
func (s *session) imageOf(ctx context.Context, c container.InspectResponse) (map[string]string, error) {
	if c.ContainerJSONBase == nil || c.Config == nil || !mayBeOfImage(c.Config.Labels) {
		return nil, nil
	}
	if labels, known := s.images.Load(c.Image); known {
		return labels.(map[string]string), nil
	}
	image, err := s.engine.ImageInspect(ctx, c.Image)
	switch {
	case errdefs.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("inspect its image %s: %w", c.Image, err)
	}
	var labels map[string]string
	if image.Config != nil {
		labels = image.Config.Labels
	}
	s.images.Store(c.Image, labels)
	return labels, nil
}

// takeAnswer takes in an answer. It returns an error if there is no engine to
// answer.
func (s *session) takeAnswer(a answer) error {
	v := s.inventory
	tooOld := s.asked[a.id].tooOld
	delete(s.asked, a.id)
	now := time.Now().UTC()
	switch {
	case errdefs.IsNotFound(a.err):
		v.remove(a.id)
	case client.IsErrConnectionFailed(a.err), errors.Is(a.err, io.EOF), errors.Is(a.err, io.ErrUnexpectedEOF):
		return fmt.Errorf("inspect container %s: %w", a.id, a.err)
	case tooOld:
		v.stale[a.id] = true
	case a.err != nil:
		s.log.Warn("a container cannot be inspected; trying again", "id", a.id, "error", a.err)
		s.failed[a.id] = true
	default:
		if f := factsOf(a.container, a.image, v.limits, now); f != nil {
			if v.put(f, now) {
				s.probes.begin(v.probesOf(f))
			}
		} else {
			v.remove(a.id)
		}
	}
	return nil
}
