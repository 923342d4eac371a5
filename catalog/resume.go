package catalog

import (
	"context"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// An agent that starts again goes on from where its last run was: it has the records on
// disk, as of a revision of etcd, and watches what came after. So a cluster that starts
// as a whole does not read everything at once from its store.

// resumeTime is how long the watch may take to catch up; then all is listed.
const resumeTime = 10 * time.Second

// spreadPerNode and spreadMost are over how long the hosts of a cluster spread the
// reading of the whole state: those that have one to go by meanwhile.
const (
	spreadPerNode = 5 * time.Millisecond
	spreadMost    = 5 * time.Second
)

// resume makes the state of the last run the records, if etcd may tell what came after
// it; the watch has still to catch up. If not, the error is [errRelist]: where that is
// because etcd was put back meanwhile, they are the records all the same, for
// [Catalog.list] to see what etcd lacks.
func (c *Catalog) resume(ctx context.Context) error {
	c.mu.Lock()
	from := c.from
	c.mu.Unlock()
	if from == (position{}) {
		return errRelist
	}
	// What etcd has of this host now tells how it is to be written.
	self := c.o.Self.Name
	r, err := c.commit(ctx, nil, []clientv3.Op{
		clientv3.OpGet(nodeKey(self)), clientv3.OpGet(agentKey(self)), clientv3.OpGet(taskKey(self, ""), clientv3.WithPrefix()),
	}, nil)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.from = position{}
	restored := !from.before(r.Header)
	if from.Revision == 0 && !restored {
		return errRelist
	}
	if !isClosed(c.known) {
		c.putCached()
	}
	c.cluster = from.Cluster
	c.advanceTo(from.Revision)
	if restored {
		return errRelist
	}
	var own []*mvccpb.KeyValue
	for _, found := range r.Responses {
		own = append(own, found.GetResponseRange().Kvs...)
	}
	c.takeIn(own)
	c.resumed = r.Header.Revision
	if c.seen >= c.resumed {
		c.complete()
	}
	return nil
}

// spread waits before everything is read, where there is a state to go by.
func (c *Catalog) spread(ctx context.Context) {
	if !isClosed(c.known) || isClosed(c.listed) {
		return
	}
	c.mu.Lock()
	within := min(time.Duration(len(c.records.nodes))*spreadPerNode, spreadMost)
	c.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-time.After(rand.N(within + 1)):
	}
}

// cachePosition is where a run that follows can go on from the records as they are. Its
// revision is zero where it cannot, as some of them are not etcd's.
func (c *Catalog) cachePosition() position {
	at, foreign := position{c.seen, c.cluster}, len(c.hostLists)+len(c.lacking)+len(c.unreadable) > 0
	switch {
	case isClosed(c.listed):
	case c.from != position{}:
		at = c.from // the last run's, for as long as etcd did not answer in this one
	default:
		foreign = true
	}
	if foreign {
		at.Revision = 0
	}
	return at
}
