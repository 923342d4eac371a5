package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"shoal/catalog"
)

// Stopped tells how a container's end went.
type Stopped struct {
	Container string        `json:"container"`
	Tasks     []string      `json:"tasks"`             // the services it was a task of
	Drained   time.Duration `json:"drained"`           // how long that took
	Held      int           `json:"held"`              // connections that were cut off at the deadline; 0: none
	Unasked   []string      `json:"unasked,omitempty"` // hosts that did not tell what they hold
}

// settle is how long other hosts are given to hear that a task drains.
const settle = time.Second

// stop takes a container out of every rotation, waits until no host holds a
// connection to it or its drain time is over, and stops it. A client that has
// gone away meanwhile (ctx) puts it back.
func (a *Agent) stop(ctx context.Context, container string) (*Stopped, error) {
	tasks, err := a.watcher.Drain(ctx, container)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	s := &Stopped{Container: container, Tasks: []string{}}
	deadline := start
	for _, t := range tasks {
		s.Tasks = append(s.Tasks, t.Service.String())
		if d := start.Add(t.Drain); d.After(deadline) {
			deadline = d
		}
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for len(tasks) > 0 {
		select {
		case <-ctx.Done():
			bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return nil, errors.Join(fmt.Errorf("stop %s: given up, it is in rotation again: %w", container, ctx.Err()), a.watcher.Undrain(bounded, container))
		case <-tick.C:
		}
		s.Held, s.Unasked = a.heldEverywhere(ctx, tasks)
		settled := time.Since(start) >= settle || len(a.member.peers()) == 0
		if settled && s.Held == 0 && len(s.Unasked) == 0 || !time.Now().Before(deadline) {
			break
		}
	}
	s.Drained = time.Since(start)
	return s, a.watcher.Stop(ctx, container)
}

// heldEverywhere counts the connections that all living hosts hold to tasks.
func (a *Agent) heldEverywhere(ctx context.Context, tasks []catalog.Task) (sum int, unasked []string) {
	addrs := map[netip.Addr]bool{}
	for _, t := range tasks {
		addrs[t.Addr] = true
	}
	snap := a.catalog.Snapshot()
	var mu sync.Mutex
	var all sync.WaitGroup
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for addr := range addrs {
		sum += a.held(addr)
		for _, n := range snap.Nodes {
			if n.Name == snap.Self.Name || !n.Alive {
				continue
			}
			all.Go(func() {
				held, err := a.member.held(ctx, n.Addr, addr)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					unasked = append(unasked, n.Name)
				}
				sum += held
			})
		}
	}
	all.Wait()
	return sum, unasked
}

// held counts the connections that this host's balancers hold to a task: those
// established, since the others end by themselves.
func (a *Agent) held(task netip.Addr) (sum int) {
	snap := a.catalog.Snapshot()
	if snap == nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for i := range snap.Services {
		svc := &snap.Services[i]
		if !hasTask(svc, task) {
			continue
		}
		if svc.VIP.IsValid() {
			if v, err := a.balancer.Inspect(ctx, svc.VIP); err == nil {
				for _, f := range v.Fronts {
					for _, d := range f.Dests {
						if d.Addr.Addr() == task {
							sum += d.Active
						}
					}
				}
			}
		}
	}
	if n, err := a.ingress.Held(task); err == nil {
		sum += n
	}
	return sum
}

func hasTask(svc *catalog.Service, addr netip.Addr) bool {
	for i := range svc.Tasks {
		if svc.Tasks[i].Addr == addr {
			return true
		}
	}
	return false
}
