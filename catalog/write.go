package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"shoal/model"
	"shoal/reconcile"
	"shoal/store/etcd"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	batchOps   = 100     // of one transaction; etcd's default limit is 128
	batchBytes = 1 << 20 // of one transaction; etcd refuses requests of 1.5 MiB
)

// leaseTTL is how long a host's tasks are remembered without it: longer than any
// absence from which a host comes back as it was. A host that is dead is known
// by its not answering others, within seconds; this is only so that one nobody
// removes is forgotten in the end.
const leaseTTL = 7 * 24 * time.Hour

// renewEvery is how soon it is noticed that a lease is gone, though it would
// last for long: then etcd may have been put back to an older state.
const renewEvery = 10 * time.Second

// gatherTime is the least time between two rounds of writes: what changes within it
// is one transaction. After a quiet time nothing waits.
const gatherTime = 15 * time.Millisecond

var (
	errLeaseLost = errors.New("the lease of this host's records has run out")
	errWentBack  = errors.New("etcd was put back to an older state")
)

// write keeps this host's records in etcd as they should be, under a lease.
func (c *Catalog) write(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-c.listed: // now it is known what is there, and under which lease
	}
	var retry etcd.Backoff
	for ctx.Err() == nil {
		err := c.claimName(ctx)
		if err == nil {
			err = c.holdLease(ctx, retry.Reset)
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errLeaseLost) || errors.Is(err, errWentBack) {
			// Perhaps the lease alone is lost, perhaps etcd was put back to
			// an older state.
			wake(c.relist)
		}
		c.failed(fmt.Errorf("write this host's records to etcd: %w", err))
		if model.CodeOf(err, "") == model.DuplicateNode {
			c.stopWriting(err)
			return
		}
		retry.Wait(ctx)
	}
}

// holdLease keeps a lease alive, and the records under it in line. It returns
// only with an error.
func (c *Catalog) holdLease(ctx context.Context, healthy func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lease, err := c.acquireLease(ctx)
	if err != nil {
		return err
	}
	renew := time.NewTicker(min(renewEvery, c.o.LeaseTTL/3))
	defer renew.Stop()
	for {
		again, err := c.sync(ctx, lease)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return errLeaseLost
		} else if err != nil {
			return err
		}
		healthy()
		c.recovered()
		gathered := time.After(gatherTime)
		var later <-chan time.Time
		if again > 0 {
			later = time.After(again)
		}
	idle:
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-c.unsaved:
				select { // right after other writes: what comes in a burst is written together
				case <-gathered:
				case <-ctx.Done():
				}
				break idle
			case <-later:
				break idle
			case <-c.unnamed:
				if err := c.writeName(ctx); err != nil {
					return err
				}
			case <-renew.C:
				r, err := c.renew(ctx, lease)
				if errors.Is(err, rpctypes.ErrLeaseNotFound) {
					return errLeaseLost
				} else if err != nil {
					return err
				}
				// The member that answered may only lag behind.
				if !c.position().before(r.ResponseHeader) {
					if err := c.checkHistory(ctx); errors.Is(err, errRelist) {
						return errWentBack
					} else if err != nil {
						return err
					}
				}
			}
		}
	}
}

// acquireLease takes up the lease this host's records are under, so that a
// restart writes nothing, or has a new one granted if that has run out.
func (c *Catalog) acquireLease(ctx context.Context) (clientv3.LeaseID, error) {
	ctx, cancel := context.WithTimeout(ctx, etcd.RequestTimeout)
	defer cancel()
	c.mu.Lock()
	lease := c.lease
	for _, h := range c.have {
		if lease != 0 {
			break
		}
		lease = h.lease
	}
	c.mu.Unlock()
	ttl := int64(max(c.o.LeaseTTL/time.Second, 1))
	if lease != 0 {
		r, err := c.renew(ctx, lease)
		if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return 0, err
		}
		if err == nil && r.TTL == ttl {
			c.setLease(lease)
			return lease, nil
		}
	}
	r, err := c.client.Grant(ctx, ttl)
	if err != nil {
		return 0, err
	}
	c.setLease(r.ID)
	return r.ID, nil
}

func (c *Catalog) renew(ctx context.Context, lease clientv3.LeaseID) (*clientv3.LeaseKeepAliveResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, etcd.RequestTimeout)
	defer cancel()
	r, err := c.client.KeepAliveOnce(ctx, lease)
	return r, etcd.Unreachable(err)
}

func (c *Catalog) setLease(id clientv3.LeaseID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lease = id
}

func (c *Catalog) recovered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastErr = nil
}

// sync writes until there is nothing to write. Each round starts from what the
// watch has seen of the one before, so nothing is written twice. Again is when to
// look once more though nothing changes here; 0: not at all.
func (c *Catalog) sync(ctx context.Context, lease clientv3.LeaseID) (again time.Duration, err error) {
	for {
		if err := c.duplicate(); err != nil {
			return 0, err
		}
		c.mu.Lock()
		seen := c.seen
		ops := c.drift(lease)
		var idle map[model.ServiceID]ServiceRecord
		if c.localKnown {
			idle, again = c.records.idleDrift(time.Now().UTC().Truncate(time.Second))
		}
		c.mu.Unlock()
		if len(ops) == 0 && len(idle) == 0 {
			later, err := c.reclaim(ctx)
			return reconcile.Sooner(again, later), err
		}
		var rev int64
		for _, batch := range batches(ops) {
			r, err := c.commit(ctx, nil, batch, nil)
			if err != nil {
				return 0, err
			}
			rev = r.Header.Revision
		}
		if rev != 0 && rev <= seen {
			return 0, errWentBack // the watch waits for later revisions, and would see none of this
		}
		idleRev, lost, err := c.writeIdle(ctx, idle)
		if err != nil {
			return 0, err
		}
		if err := c.await(ctx, max(rev, idleRev)); err != nil {
			return 0, err
		}
		if lost {
			// Another host was first. Its write is on its way, and is the
			// signal to look again.
			return again, nil
		}
	}
}

// drift is what has to be written for etcd to hold what it should of this host by now.
func (c *Catalog) drift(lease clientv3.LeaseID) []clientv3.Op {
	var ops []clientv3.Op
	for key, sum := range c.want {
		want := keptRecord{sum: sum}
		if strings.HasPrefix(key, tasksRoot) {
			want.lease = lease
		}
		if _, later := c.opening[strings.TrimPrefix(key, taskKey(c.o.Self.Name, ""))]; !later && c.have[key] != want {
			ops = append(ops, clientv3.OpPut(key, c.value(key), clientv3.WithLease(want.lease)))
		}
	}
	for key := range c.have {
		if _, ok := c.want[key]; !ok && c.localKnown {
			ops = append(ops, clientv3.OpDelete(key))
		}
	}
	return ops
}

// value is what etcd should hold under one of this host's keys.
func (c *Catalog) value(key string) string {
	if id, ok := strings.CutPrefix(key, taskKey(c.o.Self.Name, "")); ok {
		return encode(c.records.containers[c.o.Self.Name][id])
	}
	return encode(c.self)
}

// batches splits operations into transactions that etcd accepts.
func batches(ops []clientv3.Op) [][]clientv3.Op {
	var all [][]clientv3.Op
	start, size := 0, 0
	for i, op := range ops {
		n := len(op.KeyBytes()) + len(op.ValueBytes())
		if i > start && (i-start == batchOps || size+n > batchBytes) {
			all = append(all, ops[start:i])
			start, size = i, 0
		}
		size += n
	}
	if start < len(ops) {
		all = append(all, ops[start:])
	}
	return all
}

// writeIdle writes since when services are idle, each batch only if all its
// records are still as they were read. It tells whether another host was first.
func (c *Catalog) writeIdle(ctx context.Context, idle map[model.ServiceID]ServiceRecord) (rev int64, lost bool, err error) {
	for ids := range slices.Chunk(slices.Collect(maps.Keys(idle)), batchOps) {
		var conds []clientv3.Cmp
		var ops []clientv3.Op
		for _, id := range ids {
			key := serviceKey(id)
			conds = append(conds, clientv3.Compare(clientv3.ModRevision(key), "=", idle[id].mod))
			ops = append(ops, clientv3.OpPut(key, encode(idle[id])))
		}
		r, err := c.commit(ctx, conds, ops, nil)
		if err != nil {
			return 0, false, err
		}
		if r.Succeeded {
			rev = r.Header.Revision
		}
		lost = lost || !r.Succeeded
	}
	return rev, lost, nil
}

// commit runs one transaction. One that writes is refused where this host is not
// the one that it takes itself for.
func (c *Catalog) commit(ctx context.Context, conds []clientv3.Cmp, then, otherwise []clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, etcd.RequestTimeout)
	defer cancel()
	if slices.ContainsFunc(then, func(op clientv3.Op) bool { return !op.IsGet() }) {
		if err := c.duplicate(); err != nil {
			return nil, err
		}
	}
	r, err := c.client.Txn(ctx).If(conds...).Then(then...).Else(otherwise...).Commit()
	return r, etcd.Unreachable(err)
}

// await waits until the records are at a revision of etcd that holds one of
// ours.
func (c *Catalog) await(ctx context.Context, rev int64) error {
	timeout := time.After(etcd.RequestTimeout)
	for {
		c.mu.Lock()
		seen, advance := c.seen, c.advance
		c.mu.Unlock()
		if seen >= rev {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout:
			return fmt.Errorf("what was written in revision %d is not seen, the watch is at %d", rev, seen)
		case <-advance:
		}
	}
}
