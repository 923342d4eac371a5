package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"shoal/api"
	"shoal/dockerwatch"
	"shoal/lb"
	"shoal/model"
)

// How long stop waits between its looks at what is held: longer where looking takes
// long, as hosts are many, or hold many connections.
const (
	minLookPause = 200 * time.Millisecond
	maxLookPause = 2 * time.Second
	lookShare    = 10 // pauses are as long as that many looks
)

// putBackTime is how long an engine may take to be followed again, for a container's drain to be ended.
const putBackTime = 30 * time.Second

// stop takes a container out of every rotation, waits until every living host
// has taken it out and none holds a connection to it, or its drain time is over,
// and stops it. A client that has gone away meanwhile (ctx) puts it back.
func (a *Agent) stop(ctx context.Context, container string) (*api.Stopped, error) {
	if _, err := a.snapshot(); err != nil {
		return nil, err
	}
	tasks, err := a.watcher.Drain(ctx, container)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	s := &api.Stopped{Container: container, Tasks: []string{}}
	deadline := start
	for _, t := range tasks {
		s.Tasks = append(s.Tasks, t.Service.String())
		if d := start.Add(t.Drain); d.After(deadline) {
			deadline = d
		}
	}
	pause := minLookPause
	for idle := 0; len(tasks) > 0; {
		select {
		case <-ctx.Done():
			return nil, a.putBack(ctx, container, fmt.Errorf("stop container %s: given up: %w", container, ctx.Err()))
		case <-time.After(pause):
		}
		asked := time.Now()
		held, unasked := a.heldEverywhere(ctx, tasks)
		pause = min(max(minLookPause, lookShare*time.Since(asked)), maxLookPause, max(time.Until(deadline), 0))
		s.Held, s.Unasked = held.Connections, unasked
		if idle++; held != (lb.Held{}) || len(unasked) > 0 {
			idle = 0
		}
		// Once is not enough: a connection may have been on its way when its host
		// was asked, and be established since.
		if idle == 2 || !time.Now().Before(deadline) {
			break
		}
	}
	s.Drained = api.Duration(time.Since(start))
	err = a.watcher.Stop(ctx, container)
	if err == nil {
		return s, nil
	}
	if len(s.Tasks) > 0 && !errors.Is(err, dockerwatch.ErrUnknown) {
		err = a.putBack(ctx, container, err)
	}
	return nil, err
}

// putBack ends the drain of a container that was not stopped, for the reason given, unless it was told to
// stop all the same. The error says how it is.
func (a *Agent) putBack(ctx context.Context, container string, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), putBackTime)
	defer cancel()
	if err := a.watcher.Undrain(ctx, container); err != nil {
		return errors.Join(why, err)
	}
	return fmt.Errorf("%w; it does not drain any more", why)
}

// heldEverywhere is what all living hosts still have to do with tasks, and
// which of them did not tell.
func (a *Agent) heldEverywhere(ctx context.Context, tasks []model.Task) (sum lb.Held, unasked []string) {
	var mu sync.Mutex
	count := func(node string, h lb.Held, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			if !slices.Contains(unasked, node) {
				unasked = append(unasked, node)
			}
			return
		}
		sum = sum.Add(h)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	addrs := map[netip.Addr]bool{}
	for _, t := range tasks {
		addrs[t.Addr] = true
	}
	var all sync.WaitGroup
	for addr := range addrs {
		for _, n := range a.catalog.Snapshot().Nodes {
			if n.Name == a.config.Node || !n.Alive {
				continue
			}
			all.Go(func() {
				h, err := a.member.held(ctx, n.Addr, addr)
				count(n.Name, h, err)
			})
		}
		h, err := a.held(addr)
		count(a.config.Node, h, err)
	}
	all.Wait()
	return sum, unasked
}

// held tells what this host's data plane still has to do with a task.
func (a *Agent) held(task netip.Addr) (lb.Held, error) {
	h, err := a.plane.Held(task)
	if err != nil {
		return h, fmt.Errorf("read the connections of the data plane: %w", err)
	}
	return h, nil
}
