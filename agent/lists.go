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

	returns chan struct{} // of capacity 1: a host that came back may be taken for what is known of it

	mu      sync.Mutex
	heard   map[string]cluster.Generation // the last of each, to look at
	fetched map[string]bool               // those with somebody at work
	away    map[string]time.Time          // hosts that are dead (zero), or came back at that time and are not known to be as they were
}

// returnTime bounds how long a host that comes back counts as dead, until it is known
// what it has now: while it was cut off, its addresses may have passed to other
// containers. It does not answer where its agent is of an earlier version.
const returnTime = 2 * time.Second

func newLists(ctx context.Context, m *membership) *lists {
	return &lists{m: m, sem: semaphore.NewWeighted(listsAtOne), ctx: ctx, returns: make(chan struct{}, 1),
		heard: map[string]cluster.Generation{}, fetched: map[string]bool{}, away: map[string]time.Time{}}
}

// admit takes in which hosts are alive, and takes those out that are not to count as
// such yet. It returns those that are to be asked what they have.
func (f *lists) admit(alive map[string]bool) (ask map[string]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ask = map[string]bool{}
	for node, up := range alive {
		since, away := f.away[node]
		switch {
		case !up:
			f.away[node] = time.Time{}
		case away && since.IsZero():
			f.away[node] = time.Now()
			ask[node] = true
			time.AfterFunc(returnTime, f.signal)
			alive[node] = false
		case away && time.Since(since) < returnTime:
			alive[node] = false
		default:
			delete(f.away, node)
		}
	}
	return ask
}

// known says that what is known of a host is what it has.
func (f *lists) known(node string) {
	f.mu.Lock()
	since, away := f.away[node]
	if away = away && !since.IsZero(); away {
		delete(f.away, node)
	}
	f.mu.Unlock()
	if away {
		f.signal()
	}
}

func (f *lists) signal() {
	select {
	case f.returns <- struct{}{}:
	default:
	}
}

// serveList gives this host's list to another.
func (m *membership) serveList(w http.ResponseWriter, _ *http.Request) {
	l, err := m.catalog.List()
	api.Reply(w, l, err)
}

// generation is that of this host's list.
func (m *membership) generation() cluster.Generation {
	e := m.catalog.Edition()
	return cluster.Generation{Number: e.Generation, Stored: e.Stored, Cluster: e.Cluster}
}

func edition(g cluster.Generation) catalog.Edition {
	return catalog.Edition{Generation: g.Number, Stored: g.Stored, Cluster: g.Cluster}
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
	if !f.m.catalog.Outdated(node, edition(is)) {
		f.known(node)
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
		if f.m.catalog.Outdated(node, edition(is)) {
			if err := f.fetchOnce(node); err == nil {
				f.known(node)
			} else {
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
