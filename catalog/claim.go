package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"shoal/model"
	"shoal/store/etcd"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// vipRecord is who holds an address as its VIP, or held it until not long ago.
type vipRecord struct {
	model.ServiceID
	RestsUntil time.Time `json:"restsUntil,omitzero"` // it was given back, and is for nobody else until then; zero: it is held
}

// claimAttempts bounds how often a claim is read and tried again: each failure
// means that another host wrote in between.
const claimAttempts = 8

// ClaimVIP makes addr the VIP of a service for good, in one transaction, so
// that two hosts never give out one address. It returns the VIP the service
// has: an earlier one, if there is one. If the address is another service's,
// the error is a [*model.TakenError]; if it was until not long ago, a
// [*model.RestingError].
func (c *Catalog) ClaimVIP(ctx context.Context, id model.ServiceID, addr netip.Addr) (netip.Addr, error) {
	vip, err := c.claimVIP(ctx, id, addr, time.Now())
	if err != nil && !errors.As(err, new(*model.TakenError)) && !errors.As(err, new(*model.RestingError)) {
		err = fmt.Errorf("claim VIP %s for %s: %w", addr, id, err)
	}
	return vip, err
}

func (c *Catalog) claimVIP(ctx context.Context, id model.ServiceID, addr netip.Addr, created time.Time) (netip.Addr, error) {
	skey, vkey := serviceKey(id), vipKey(addr)
	rec := ServiceRecord{Created: created.UTC().Truncate(time.Second)}
	var smod, vmod int64 // revisions the transaction expects; 0: not there
	for range claimAttempts {
		rec.VIP = addr
		r, err := c.commit(ctx,
			[]clientv3.Cmp{
				clientv3.Compare(clientv3.ModRevision(skey), "=", smod),
				clientv3.Compare(clientv3.ModRevision(vkey), "=", vmod),
			},
			[]clientv3.Op{clientv3.OpPut(skey, encode(rec)), clientv3.OpPut(vkey, encode(vipRecord{ServiceID: id}))},
			[]clientv3.Op{clientv3.OpGet(skey), clientv3.OpGet(vkey)})
		if err != nil {
			return netip.Addr{}, err
		}
		if r.Succeeded {
			return addr, nil
		}
		smod, vmod = 0, 0
		if kv := first(r, 0); kv != nil {
			if err := json.Unmarshal(kv.Value, &rec); err != nil {
				return netip.Addr{}, fmt.Errorf("the service's record %s cannot be read: %w; shoal service rm %s removes it", skey, err, id)
			}
			if rec.VIP.IsValid() {
				return rec.VIP, nil
			}
			smod = kv.ModRevision
		}
		if kv := first(r, 1); kv != nil {
			var holder vipRecord
			if err := json.Unmarshal(kv.Value, &holder); err != nil {
				return netip.Addr{}, fmt.Errorf("the record %s cannot be read: %w; delete it with etcdctl if nobody uses the address", vkey, err)
			}
			switch {
			case holder.ServiceID == id:
			case holder.RestsUntil.IsZero():
				return netip.Addr{}, &model.TakenError{Addr: addr, Holder: holder.ServiceID}
			case time.Now().Before(holder.RestsUntil):
				return netip.Addr{}, c.resting(ctx, addr, holder.RestsUntil)
			}
			vmod = kv.ModRevision
		}
	}
	return netip.Addr{}, fmt.Errorf("its record was changed %d times meanwhile", claimAttempts)
}

// resting says that an address rests, and which others do, so that who looks for
// one need not try them all.
func (c *Catalog) resting(ctx context.Context, addr netip.Addr, until time.Time) error {
	e := &model.RestingError{Addr: addr, Resting: map[netip.Addr]time.Time{addr: until}}
	r, err := c.commit(ctx, nil, []clientv3.Op{clientv3.OpGet(vipsRoot, clientv3.WithPrefix())}, nil)
	if err != nil {
		return err
	}
	for _, kv := range r.Responses[0].GetResponseRange().Kvs {
		var holder vipRecord
		a, err := netip.ParseAddr(strings.TrimPrefix(string(kv.Key), vipsRoot))
		if err == nil && json.Unmarshal(kv.Value, &holder) == nil && !holder.RestsUntil.IsZero() {
			e.Resting[a] = holder.RestsUntil
		}
	}
	return e
}

// first is what the i-th read of a transaction found, or nil.
func first(r *clientv3.TxnResponse, i int) *mvccpb.KeyValue {
	if kvs := r.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
		return kvs[0]
	}
	return nil
}

// RemoveService forgets a service and gives its VIP and ports back. The VIP is for
// nobody else until the service was without tasks for [Options.Rest]. It is refused
// while the service has tasks. If nothing is remembered of it, the error is
// [model.ErrNoService].
func (c *Catalog) RemoveService(ctx context.Context, id model.ServiceID) error {
	if err := c.removeService(ctx, id); err != nil {
		return fmt.Errorf("remove service %s: %w", id, err)
	}
	return nil
}

func (c *Catalog) removeService(ctx context.Context, id model.ServiceID) error {
	if !isClosed(c.listed) {
		return errors.New("etcd was not reached yet, so it is not known whether it has tasks; see: shoal status")
	}
	if names := c.taskNames(id); len(names) > 0 {
		return fmt.Errorf("it has tasks, stop them first: %s", strings.Join(names, ", "))
	}
	released, err := c.releasePorts(ctx, id, publishRoot, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	r, err := c.commit(ctx, nil, []clientv3.Op{
		clientv3.OpGet(serviceKey(id)),
		clientv3.OpGet(vipsRoot, clientv3.WithPrefix()),
	}, nil)
	if err != nil {
		return err
	}
	kv := first(r, 0)
	switch {
	case kv == nil && released > 0: // without a VIP it has no record
		return nil
	case kv == nil:
		return model.ErrNoService
	}
	// Its VIP is found by who holds what, so that a record that cannot be read
	// can be removed as well.
	var rec ServiceRecord
	_ = json.Unmarshal(kv.Value, &rec) // what cannot be read is taken for one that just became idle
	rest := c.rest(rec.IdleSince, time.Now())
	var put []clientv3.OpOption
	if rest > 0 {
		grant, cancel := context.WithTimeout(ctx, etcd.RequestTimeout)
		l, err := c.client.Grant(grant, int64(rest/time.Second)+1)
		cancel()
		if err != nil {
			return etcd.Unreachable(err)
		}
		put = append(put, clientv3.WithLease(l.ID))
	}
	conds := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(serviceKey(id)), "=", kv.ModRevision)}
	ops := []clientv3.Op{clientv3.OpDelete(serviceKey(id))}
	for _, kv := range r.Responses[1].GetResponseRange().Kvs {
		var holder vipRecord
		if json.Unmarshal(kv.Value, &holder) != nil || holder.ServiceID != id || !holder.RestsUntil.IsZero() {
			continue
		}
		conds = append(conds, clientv3.Compare(clientv3.ModRevision(string(kv.Key)), "=", kv.ModRevision))
		if rest == 0 {
			ops = append(ops, clientv3.OpDelete(string(kv.Key)))
			continue
		}
		holder.RestsUntil = time.Now().UTC().Add(rest)
		ops = append(ops, clientv3.OpPut(string(kv.Key), encode(holder), put...))
	}
	if r, err = c.commit(ctx, conds, ops, nil); err != nil {
		return err
	}
	if !r.Succeeded {
		return errors.New("it was changed meanwhile; try again")
	}
	return c.await(ctx, r.Header.Revision)
}

// rest is how long the VIP of a service that is given back is for nobody else.
func (c *Catalog) rest(idleSince, now time.Time) time.Duration {
	if idleSince.IsZero() {
		idleSince = now
	}
	return max(c.o.Rest-max(now.Sub(idleSince), 0), 0)
}

// taskNames are the containers that make up a service, with their hosts.
func (c *Catalog) taskNames(id model.ServiceID) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for _, ctr := range c.records.tasks[id] {
		names = append(names, ctr.Name+" on "+ctr.Node)
	}
	return names
}
