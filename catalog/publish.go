package catalog

import (
	"context"
	"net/netip"
	"time"

	"shoal/model"
)

// While changes keep coming, building is given a tenth of the time, and no
// change waits longer than this for it.
const publishPause = 250 * time.Millisecond

// stuckAfter is how long the building of a Snapshot may take.
const stuckAfter = 2 * time.Minute

// publish builds a Snapshot whenever the records changed: at once after a quiet
// time, and in a burst with pauses that grow with what building costs, so that
// a burst becomes a few Snapshots.
func (c *Catalog) publish(ctx context.Context) {
	heart := c.o.Health.Watch("catalog", stuckAfter)
	defer heart.Stop()
	beat, stop := heart.Tick()
	defer stop()
	fallback := time.After(c.o.cacheAfter)
	for {
		heart.Beat()
		select {
		case <-ctx.Done():
			return
		case <-beat:
			continue
		case <-fallback:
			c.useCache()
		case <-c.storeLost:
			c.useCache()
		case <-c.changed:
		}
		start := time.Now()
		c.publishOnce()
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(9*time.Since(start), publishPause)):
		}
	}
}

func (c *Catalog) publishOnce() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.localKnown || !isClosed(c.known) {
		return
	}
	start := time.Now()
	prev := c.snapshot.Load()
	s := build(prev, c.self, c.records, c.records.takeChanges())
	c.cached = nil
	c.noteBuilt(s.Revision)
	if s == prev {
		return
	}
	c.metrics.built(time.Since(start))
	c.published.Store(&start)
	c.snapshot.Store(s)
	for m := range c.mailboxes {
		deliver(m, s)
	}
}

// Snapshot returns the newest Snapshot. It is nil until both the cluster's
// state and this host's containers are known.
func (c *Catalog) Snapshot() *model.Snapshot {
	if s := c.snapshot.Load(); s.Revision > 0 {
		return s
	}
	return nil
}

// Peers are the addresses of the other hosts, by name: of the newest Snapshot or,
// while there is none, as the last run knew them. So it can be looked which of them live
// while etcd is waited for.
func (c *Catalog) Peers() map[string]netip.Addr {
	all := map[string]netip.Addr{}
	if s := c.Snapshot(); s != nil {
		for _, n := range s.Nodes {
			all[n.Name] = n.Addr
		}
	} else {
		c.mu.Lock()
		if c.cached != nil {
			for _, n := range c.cached.nodes {
				all[n.Name] = n.Addr
			}
		}
		c.mu.Unlock()
	}
	delete(all, c.o.Self.Name)
	return all
}

// Watch delivers Snapshots, the current one first, until the context ends or
// the catalog is closed; then it closes the channel. Who reads slowly misses
// those in between and gets the newest.
func (c *Catalog) Watch(ctx context.Context) <-chan *model.Snapshot {
	m := make(chan *model.Snapshot, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mailboxes == nil {
		close(m)
		return m
	}
	c.mailboxes[m] = struct{}{}
	if s := c.Snapshot(); s != nil {
		m <- s
	}
	context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if _, ok := c.mailboxes[m]; ok {
			delete(c.mailboxes, m)
			close(m)
		}
	})
	return m
}

func (c *Catalog) closeMailboxes() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for m := range c.mailboxes {
		close(m)
	}
	c.mailboxes = nil
}

// deliver puts a Snapshot into a mailbox in place of one not read. Nobody else
// puts meanwhile: the caller holds the lock.
func deliver(m chan *model.Snapshot, s *model.Snapshot) {
	select {
	case <-m:
	default:
	}
	m <- s
}

func isClosed(ch chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
