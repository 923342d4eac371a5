package agent

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"shoal/api"
	"shoal/catalog"
	"shoal/cluster"
)

// How hosts follow each other's containers without the store. A host that could not
// write a change into it for unstoredTime tells all others so, and again every
// listEvery until it could. One whose store does not answer asks all others every
// listEvery. Either has to be heard once in two seconds.
const (
	unstoredTime = 300 * time.Millisecond
	listEvery    = time.Second

	listTime   = 5 * time.Second        // for a list to be fetched
	listPause  = 100 * time.Millisecond // between two fetches from one host
	listsAtOne = 16                     // lists that are fetched at a time
)

// lists fetches other hosts' lists of containers from these themselves.
type lists struct {
	m    *membership
	sem  *semaphore.Weighted
	ctx  context.Context
	wait sync.WaitGroup

	mu      sync.Mutex
	heard   map[string]cluster.Generation // the last of each, to look at
	fetched map[string]bool               // those with somebody at work
}

func newLists(ctx context.Context, m *membership) *lists {
	return &lists{m: m, sem: semaphore.NewWeighted(listsAtOne), ctx: ctx, heard: map[string]cluster.Generation{}, fetched: map[string]bool{}}
}

// serveList gives this host's list to another.
func (m *membership) serveList(w http.ResponseWriter, _ *http.Request) {
	l, err := m.catalog.List()
	api.Reply(w, l, err)
}

// generation is that of this host's list.
func (m *membership) generation() cluster.Generation {
	number, stored := m.catalog.Generation()
	return cluster.Generation{Number: number, Stored: stored}
}

// follow tells of this host's changes that the store does not have, and asks for those
// of others while it does not tell, for as long as ctx lasts.
func (f *lists) follow(live *cluster.Liveness) {
	defer f.wait.Wait()
	tick := time.NewTicker(listEvery)
	defer tick.Stop()
	var unstored <-chan time.Time
	for {
		select {
		case <-f.ctx.Done():
			return
		case <-f.m.catalog.ListChanged():
			if unstored == nil {
				unstored = time.After(unstoredTime)
			}
			continue
		case <-unstored:
		case <-tick.C:
			if f.m.catalog.Away() {
				live.AskGenerations(nil)
			} else if in := f.m.catalog.HostLists(); len(in) > 0 {
				live.AskGenerations(in)
			}
			if unstored != nil {
				continue
			}
		}
		unstored = nil
		if is := f.m.generation(); is.Number != 0 && is.Stored == 0 {
			live.TellGeneration()
		}
	}
}

// hear takes in what another host says of its generation. It does not wait.
func (f *lists) hear(node string, is cluster.Generation) {
	if !f.m.catalog.Outdated(node, is.Number, is.Stored) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heard[node] = is
	if !f.fetched[node] && f.ctx.Err() == nil {
		f.fetched[node] = true
		f.wait.Go(func() { f.fetch(node) })
	}
}

// fetch fetches a host's list until what it said last is known here, or there is an
// error: it will say so again.
func (f *lists) fetch(node string) {
	for {
		f.mu.Lock()
		is, news := f.heard[node]
		delete(f.heard, node)
		if !news {
			delete(f.fetched, node)
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()
		if f.m.catalog.Outdated(node, is.Number, is.Stored) {
			if err := f.fetchOnce(node); err != nil {
				f.m.log.Debug("a host's list of its containers could not be fetched", "node", node, "error", err)
			}
		}
		select {
		case <-f.ctx.Done():
		case <-time.After(listPause):
		}
	}
}

func (f *lists) fetchOnce(node string) error {
	ctx, cancel := context.WithTimeout(f.ctx, listTime)
	defer cancel()
	if err := f.sem.Acquire(ctx, 1); err != nil {
		return err
	}
	defer f.sem.Release(1)
	addr, ok := f.m.peers()[node]
	if !ok {
		return fmt.Errorf("no host is called %q", node)
	}
	var l catalog.List
	if err := f.m.ask(ctx, http.MethodGet, addr, "/v1/containers", &l); err != nil {
		return err
	}
	if l.Node != node {
		return fmt.Errorf("at %v is host %q", addr, l.Node)
	}
	return f.m.catalog.SetList(l)
}
