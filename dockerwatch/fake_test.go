package dockerwatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	dockerimage "github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
)

// fakeEngine has containers and tells its events, as an engine does: those of
// the past that are asked for, then those to come.
type fakeEngine struct {
	mu         sync.Mutex
	containers map[string]container.InspectResponse
	past       []events.Message
	listeners  map[chan events.Message]chan error
	images     map[string]string // image's ID -> its labels, as in labelsOf
	inspected  map[string]int    // container's or image's ID -> how often
	ahead      time.Duration     // how far its clock is ahead

	dialErr     error
	listenAfter chan struct{}                        // the engine answers a call for events at once, but listens for them only after this; nil: at once
	onList      func()                               // called when containers have been listed, before the answer
	onInspect   func(id string) error                // called before the answer is made
	onInspectd  func(ctx context.Context, id string) // called after it is made, before it is sent
}

func newFakeEngine() *fakeEngine {
	return &fakeEngine{
		containers: map[string]container.InspectResponse{},
		listeners:  map[chan events.Message]chan error{},
		images:     map[string]string{},
		inspected:  map[string]int{},
	}
}

func (e *fakeEngine) Close() error { return nil }

func (e *fakeEngine) Events(ctx context.Context, o events.ListOptions) (<-chan events.Message, <-chan error) {
	errs := make(chan error, 1)
	if o.Until != "" {
		messages := make(chan events.Message)
		if nanos(o.Since) > nanos(o.Until) {
			errs <- errors.New("invalid `since` time must be before `until`") // as an engine says it
			return messages, errs
		}
		e.mu.Lock()
		past := e.between(nanos(o.Since), nanos(o.Until))
		e.mu.Unlock()
		go func() {
			for _, m := range past {
				messages <- m
			}
			errs <- io.EOF
		}()
		return messages, errs
	}
	messages := make(chan events.Message, 10_000)
	listen := func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, m := range e.between(nanos(o.Since), math.MaxInt64) {
			messages <- m
		}
		e.listeners[messages] = errs
	}
	if e.listenAfter == nil {
		listen()
	} else {
		go func() {
			<-e.listenAfter
			listen()
		}()
	}
	context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.listeners, messages)
		select {
		case errs <- ctx.Err():
		default:
		}
	})
	return messages, errs
}

// between are the past events from since to until.
func (e *fakeEngine) between(since, until int64) (past []events.Message) {
	for _, m := range e.past {
		if m.TimeNano >= since && m.TimeNano <= until {
			past = append(past, m)
		}
	}
	return past
}

func nanos(timestamp string) int64 {
	var s, n int64
	fmt.Sscanf(timestamp, "%d.%d", &s, &n)
	return s*1e9 + n
}

func (e *fakeEngine) ContainerList(context.Context, container.ListOptions) ([]container.Summary, error) {
	e.mu.Lock()
	var list []container.Summary
	for id, c := range e.containers {
		list = append(list, container.Summary{ID: id, ImageID: c.Image, Names: []string{c.Name}, State: "running", Status: "Up 3 hours",
			NetworkSettings: &container.NetworkSettingsSummary{Networks: c.NetworkSettings.Networks}})
	}
	then := e.onList
	e.mu.Unlock()
	if then != nil {
		then()
	}
	return list, nil
}

func (e *fakeEngine) ContainerInspect(ctx context.Context, id string) (container.InspectResponse, error) {
	e.mu.Lock()
	e.inspected[id]++
	before, after := e.onInspect, e.onInspectd
	e.mu.Unlock()
	if before != nil {
		if err := before(id); err != nil {
			return container.InspectResponse{}, err
		}
	}
	e.mu.Lock()
	c, ok := e.containers[id]
	e.mu.Unlock()
	if after != nil {
		after(ctx, id)
	}
	if ctx.Err() != nil {
		return container.InspectResponse{}, ctx.Err()
	}
	if !ok {
		return c, errdefs.ErrNotFound
	}
	return c, nil
}

func (e *fakeEngine) ImageInspect(_ context.Context, id string, _ ...client.ImageInspectOption) (dockerimage.InspectResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.inspected[id]++
	labels, ok := e.images[id]
	switch {
	case !ok:
		return dockerimage.InspectResponse{}, errdefs.ErrNotFound
	case labels == "broken":
		return dockerimage.InspectResponse{}, errdefs.ErrInternal
	}
	said, _ := json.Marshal(map[string]any{"Id": id, "Config": map[string]any{"Labels": labelsOf(labels)}})
	var image dockerimage.InspectResponse
	err := json.Unmarshal(said, &image)
	return image, err
}

func (e *fakeEngine) NetworkList(context.Context, network.ListOptions) ([]network.Summary, error) {
	return []network.Summary{{ID: "idbridge", Name: "bridge", Driver: "bridge"}}, nil
}

// happen tells an event of now.
func (e *fakeEngine) happen(action events.Action, id string, attributes ...string) {
	m := events.Message{Type: events.ContainerEventType, Action: action, TimeNano: time.Now().Add(e.ahead).UnixNano(),
		Actor: events.Actor{ID: id, Attributes: map[string]string{}}}
	for i := 0; i+1 < len(attributes); i += 2 {
		m.Actor.Attributes[attributes[i]] = attributes[i+1]
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.past = append(e.past, m)
	for l := range e.listeners {
		l <- m
	}
}

// run puts a container there without telling.
func (e *fakeEngine) run(id, labels string) {
	c := inspected(id, labels, "bridge=172.17.0.2")
	c.State.StartedAt = time.Now().Format(time.RFC3339Nano)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers[id] = c
}

// runImage is run with a container of an image.
func (e *fakeEngine) runImage(id, image, labels string) {
	e.run(id, labels)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers[id].Image = image // what of it is behind a pointer
}

func (e *fakeEngine) start(id, labels string) {
	e.run(id, labels)
	e.happen(events.ActionStart, id)
}

// drop takes a container away without telling.
func (e *fakeEngine) drop(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.containers, id)
}

func (e *fakeEngine) die(id string) {
	e.drop(id)
	e.happen(events.ActionDie, id)
}

// cut ends all connections, and lets none be made while err is not nil.
func (e *fakeEngine) cut(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dialErr = err
	for l, errs := range e.listeners {
		errs <- io.EOF
		delete(e.listeners, l)
	}
}
