package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"shoal/model"
	"shoal/store/etcd"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const listPage = 2000 // records a request

var errRelist = errors.New("the records may have been replaced")

// relistRest is how soon after a list another one waits first.
const relistRest = time.Second

// read keeps the records as etcd has them: it goes on from the state of the last run
// or lists them once, and watches from there on, through lost connections. It lists
// again when what it missed is compacted, or when etcd may hold an older state: a
// backup that was restored, or a lost lease.
func (c *Catalog) read(ctx context.Context) {
	var retry etcd.Backoff
	var l listing
	started := false // the records are at a revision to watch from
	var relisted time.Time
	for ctx.Err() == nil {
		var err error
		if !started {
			if err = c.resume(ctx); errors.Is(err, errRelist) {
				err = c.list(ctx, &l)
			}
		}
		if err == nil {
			started = true
			err = c.watch(ctx, retry.Reset)
		}
		switch {
		case errors.Is(err, errRelist), errors.Is(err, rpctypes.ErrCompacted):
			started, l = false, listing{}
			c.metrics.relist()
			if time.Since(relisted) < relistRest { // endpoints of two stores, say, which answer in turn
				retry.Wait(ctx)
			}
			relisted = time.Now()
		case ctx.Err() == nil:
			c.failed(fmt.Errorf("read the catalog from etcd: %w", err))
			retry.Wait(ctx)
		}
	}
}

// listing is a list of all records that is being read.
type listing struct {
	kvs      []*mvccpb.KeyValue
	revision int64 // of all of them; 0: there are none yet
	cluster  uint64
	whole    bool
}

// next reads one more page, of the same state as those before. After an error it is
// tried again. If that state is not to be had any more, the error is [errRelist].
func (l *listing) next(ctx context.Context, client *etcd.Client) error {
	ctx, cancel := context.WithTimeout(ctx, etcd.RequestTimeout)
	defer cancel()
	from := root
	if n := len(l.kvs); n > 0 {
		from = string(l.kvs[n-1].Key) + "\x00"
	}
	r, err := client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(root)), clientv3.WithLimit(listPage), clientv3.WithRev(l.revision))
	switch {
	case errors.Is(err, rpctypes.ErrFutureRev):
		return errRelist
	case err != nil:
		return err
	case l.revision == 0:
		l.revision, l.cluster = r.Header.Revision, r.Header.ClusterId
	case l.cluster != r.Header.ClusterId:
		return errRelist
	}
	l.kvs, l.whole = append(l.kvs, r.Kvs...), !r.More
	return nil
}

// list reads all records as of one revision, and brings the own ones in line. What
// was read before an error stays in l, and is not read again.
func (c *Catalog) list(ctx context.Context, l *listing) error {
	c.spread(ctx)
	for !l.whole {
		if err := l.next(ctx, c.client); err != nil {
			return err
		}
	}
	kvs, rev, cluster := l.kvs, l.revision, l.cluster
	*l = listing{}

	c.mu.Lock()
	defer c.mu.Unlock()
	restored := c.cluster != 0 && (rev < c.seen || cluster != c.cluster)
	if restored {
		c.log.Warn("etcd holds another state than it did; all records are taken from it anew",
			"revision", rev, "before", c.seen, "cluster", fmt.Sprintf("%x", cluster))
		c.holdLists()
	}
	present := make(map[string]bool, len(kvs))
	for _, kv := range kvs {
		present[string(kv.Key)] = true
	}
	for _, key := range c.keys() {
		if !present[key] && !c.keepLacking(key, restored) {
			c.deleted(key)
		}
	}
	c.takeIn(kvs)
	c.cluster = cluster
	c.advanceTo(rev)
	c.complete()
	return nil
}

// takeIn takes records that were read, those of this host among them, all there
// are.
func (c *Catalog) takeIn(kvs []*mvccpb.KeyValue) {
	named := false
	c.local.revision = 0
	for _, kv := range kvs {
		if string(kv.Key) == agentKey(c.o.Self.Name) {
			named = c.isThisRun(kv)
			continue
		}
		if c.own(string(kv.Key)) {
			c.local.revision = max(c.local.revision, kv.ModRevision)
		}
		c.put(kv)
	}
	if !named && !c.run.Since.IsZero() {
		wake(c.unnamed) // of an older state nothing follows; who objects will write
	}
}

// complete says that the records are the cluster's state, from etcd.
func (c *Catalog) complete() {
	c.resumed, c.from = 0, position{}
	c.subscribers.notifyAll()
	c.lastErr = nil
	if !isClosed(c.listed) {
		close(c.listed)
	}
	if c.o.Settle > 0 && !isClosed(c.known) {
		time.AfterFunc(c.o.Settle, c.settled)
	} else {
		c.setKnown()
	}
	wake(c.unsaved)
}

// settled says that a restored store holds what the cluster is.
func (c *Catalog) settled() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setKnown()
}

func (c *Catalog) setKnown() {
	if !isClosed(c.known) {
		close(c.known)
	}
	wake(c.changed)
}

// keys are those of all records held.
func (c *Catalog) keys() []string {
	var keys []string
	for name := range c.records.nodes {
		keys = append(keys, nodeKey(name))
	}
	for node, byID := range c.records.containers {
		if held := c.hostLists[node]; held == nil {
			for id := range byID {
				keys = append(keys, taskKey(node, id))
			}
		}
	}
	for node, held := range c.hostLists {
		for id := range held.records {
			keys = append(keys, taskKey(node, id))
		}
	}
	for id := range c.records.services {
		keys = append(keys, serviceKey(id))
	}
	for p := range c.records.published {
		keys = append(keys, publishKey(p))
	}
	for key := range c.have {
		keys = append(keys, key)
	}
	for key := range c.unreadable {
		keys = append(keys, key)
	}
	return keys
}

// watch follows the records from the revision they are at. It returns only
// with an error.
func (c *Catalog) watch(ctx context.Context, healthy func()) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	c.mu.Lock()
	from, resuming := c.seen+1, c.resumed != 0
	c.mu.Unlock()
	var late <-chan time.Time
	if resuming {
		late = time.After(resumeTime)
	}
	events := c.client.Watch(ctx, root, clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithCreatedNotify())
	for {
		select {
		case <-ctx.Done(): // the client closes events only once it has a connection
			return ctx.Err()
		case <-c.relist:
			return errRelist
		case <-late:
			if !isClosed(c.listed) {
				return errRelist
			}
		case <-c.client.Dialed():
			// The watch goes on by itself where it was, in whatever history there is.
			if err := c.checkHistory(ctx); err != nil {
				return err
			}
		case r, ok := <-events:
			if !ok {
				return errors.New("the watch was closed")
			}
			if err := r.Err(); err != nil {
				return err
			}
			healthy()
			if r.Created {
				if err := c.checkHistory(ctx); err != nil {
					return err
				}
				if resuming {
					if err := c.client.RequestProgress(ctx); err != nil {
						return err
					}
				}
			}
			c.apply(r)
		}
	}
}

// checkHistory returns errRelist if etcd is not in the history that the records are
// of. An etcd whose backup was restored is at an earlier revision, or is another
// cluster. Its members may lag behind each other, so it is asked by a
// linearizable read.
func (c *Catalog) checkHistory(ctx context.Context) error {
	at := c.position()
	r, err := c.commit(ctx, nil, []clientv3.Op{clientv3.OpGet(nodeKey(c.o.Self.Name), clientv3.WithCountOnly())}, nil)
	if err != nil {
		return err
	}
	if !at.before(r.Header) {
		return errRelist
	}
	return nil
}

// position is a state of etcd's records.
type position struct {
	Revision int64  `json:"revision"`
	Cluster  uint64 `json:"cluster"` // the ID of the etcd cluster
}

// before tells whether etcd was in that state, as far as a later answer of it tells.
func (p position) before(h *etcdserverpb.ResponseHeader) bool {
	return p.Revision <= h.Revision && p.Cluster == h.ClusterId
}

// position is how far etcd's records were followed.
func (c *Catalog) position() position {
	c.mu.Lock()
	defer c.mu.Unlock()
	return position{c.seen, c.cluster}
}

func (c *Catalog) apply(r clientv3.WatchResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastErr = nil
	for _, e := range r.Events {
		c.subscribers.notify(string(e.Kv.Key))
		if c.own(string(e.Kv.Key)) {
			c.local.revision = e.Kv.ModRevision
		}
		if e.Type == clientv3.EventTypeDelete {
			c.deleted(string(e.Kv.Key))
		} else {
			c.put(e.Kv)
		}
	}
	if n := len(r.Events); n > 0 {
		// While the watch catches up, the header has a revision that is further on.
		c.advanceTo(r.Events[n-1].Kv.ModRevision)
		wake(c.changed)
		wake(c.unsaved)
	} else if r.IsProgressNotify() {
		c.advanceTo(r.Header.Revision)
	}
	if c.resumed != 0 && c.seen >= c.resumed {
		c.complete()
	}
}

// advanceTo notes which revision the records are at. It may be an earlier one,
// of an etcd put back to an older state.
func (c *Catalog) advanceTo(rev int64) {
	c.seen = rev
	close(c.advance)
	c.advance = make(chan struct{})
}

// own tells whether a key is this host's to write.
func (c *Catalog) own(key string) bool {
	return key == nodeKey(c.o.Self.Name) || strings.HasPrefix(key, taskKey(c.o.Self.Name, ""))
}

// put takes a record from etcd. Of this host's own, what etcd says is compared
// and never used, except to restore them. One that cannot be read leaves what
// was known before it.
func (c *Catalog) put(kv *mvccpb.KeyValue) {
	key := string(kv.Key)
	delete(c.lacking, key)
	if key == agentKey(c.o.Self.Name) {
		c.named(kv)
		return
	}
	own := c.own(key)
	if own {
		c.have[key] = keptRecord{fingerprint(string(kv.Value)), clientv3.LeaseID(kv.Lease)}
		if c.localKnown && key != nodeKey(c.o.Self.Name) {
			return
		}
	}
	e, err := decode(key, kv.Value)
	if err != nil {
		if c.unreadable[key] == 0 {
			c.log.Error("a record in etcd is passed over: it cannot be read", "key", key, "error", err)
		}
		c.unreadable[key] = kv.ModRevision
		return
	}
	delete(c.unreadable, key)
	switch {
	case own && e.container != nil:
		c.inEtcd[key] = *e.container
	case own && e.node != nil:
		c.adopt(*e.node)
	case e.node != nil:
		c.records.putNode(*e.node)
	case e.container != nil:
		c.putContainer(e.container)
	case e.service != nil:
		e.service.mod = kv.ModRevision
		c.records.putService(e.id, *e.service)
	case e.published != nil:
		c.records.putPublished(*e.published)
	}
}

// deleted takes note that a record is gone from etcd.
func (c *Catalog) deleted(key string) {
	delete(c.unreadable, key)
	delete(c.lacking, key)
	if c.own(key) {
		delete(c.have, key)
		delete(c.inEtcd, key)
		return
	}
	if name, ok := strings.CutPrefix(key, nodesRoot); ok {
		c.useRecords(name)
		c.records.deleteNode(name)
	}
	if rest, ok := strings.CutPrefix(key, tasksRoot); ok {
		node, id, _ := strings.Cut(rest, "/")
		c.deleteContainer(node, id)
	}
	if rest, ok := strings.CutPrefix(key, servicesRoot); ok {
		if id, err := model.ParseServiceID(rest); err == nil {
			c.records.deleteService(id)
		}
	}
	if rest, ok := strings.CutPrefix(key, publishRoot); ok {
		if p, err := parsePort(rest); err == nil {
			c.records.deletePublished(p)
		}
	}
}

// failed notes, and logs when it is news, what is wrong with etcd.
func (c *Catalog) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lastErr == nil {
		c.log.Warn("trouble with etcd; the last state stays in use, and attempts go on", "error", err)
	}
	c.lastErr = err
	c.metrics.failed()
}
