package catalog

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"shoal/model"
	"shoal/reconcile"
)

// When etcd is put back to an older state, as by a restored backup, it lacks what came
// after that, and each host has to write again what is its own. Until then nothing is
// lost here: what the other hosts are known to have stays in use, and services keep
// their VIPs and ports, which hosts with tasks of them claim again.

// lackingTime is how long that is kept which etcd has no more, for who has to write it
// again. After that etcd is right.
const lackingTime = 10 * time.Second

// holdLists keeps the containers that other hosts are known to have, until those say
// what they have now: etcd may know of containers that are long gone, and whose
// addresses others have.
func (c *Catalog) holdLists() {
	for node := range c.records.nodes {
		if _, dead := c.records.dead[node]; dead || node == c.o.Self.Name || c.hostLists[node] != nil {
			continue
		}
		held := &hostList{records: map[string]*model.Container{}}
		for id, ctr := range c.records.containers[node] {
			held.records[id] = ctr
		}
		c.hostLists[node] = held
		c.held = time.Now()
	}
}

// keepLacking tells whether a record that etcd has no more is kept for now. Of the
// containers of others [Catalog.holdLists] takes care.
func (c *Catalog) keepLacking(key string, restored bool) bool {
	if _, kept := c.lacking[key]; kept {
		return true
	}
	if !restored || c.own(key) {
		return false
	}
	keep := false
	if name, ok := strings.CutPrefix(key, nodesRoot); ok {
		_, dead := c.records.dead[name]
		keep = !dead
	} else if id, _, ok := c.claimed(key); ok {
		keep = len(c.records.tasks[id]) > 0
	}
	if keep {
		c.lacking[key] = time.Now()
	}
	return keep
}

// claimed is the service that holds what the record of a VIP or a published port
// says, with that port.
func (c *Catalog) claimed(key string) (id model.ServiceID, p port, ok bool) {
	if rest, cut := strings.CutPrefix(key, servicesRoot); cut {
		id, err := model.ParseServiceID(rest)
		return id, p, err == nil
	}
	if rest, cut := strings.CutPrefix(key, publishRoot); cut {
		p, err := parsePort(rest)
		id, held := c.records.published[p]
		return id, p, err == nil && held
	}
	return id, p, false
}

// reclaim claims again what services had and etcd lacks, and lets go of what was
// lacking for too long. For a service those hosts do it that have tasks of it, and any
// other one if they have not after idlePatience. Again is when there is more to do; 0: nothing is lacking.
func (c *Catalog) reclaim(ctx context.Context) (again time.Duration, err error) {
	for _, l := range c.takeLacking() {
		if l.port == (port{}) {
			_, err = c.claimVIP(ctx, l.service, l.record.VIP, l.record.Created)
		} else {
			err = c.ClaimPort(ctx, model.PortClaim{Protocol: l.port.protocol, Port: l.port.number, Service: l.service})
		}
		taken := errors.As(err, new(*model.TakenError)) || errors.As(err, new(*model.RestingError)) || errors.As(err, new(*model.PortTakenError))
		if err != nil && !taken {
			return 0, err
		}
		c.mu.Lock()
		delete(c.lacking, l.key)
		if taken {
			c.deleted(l.key)
			wake(c.changed)
		}
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for node, l := range c.hostLists {
		if l.generation != 0 {
			continue
		}
		if left := lackingTime - time.Since(c.held); left > 0 {
			again = reconcile.Sooner(again, left)
		} else {
			c.useRecords(node)
		}
	}
	if len(c.lacking) > 0 {
		again = reconcile.Sooner(again, time.Second)
	}
	return again, nil
}

// hasTask tells whether this host has a task of a service.
func (c *Catalog) hasTask(id model.ServiceID) bool {
	return slices.ContainsFunc(c.records.tasks[id], func(ctr *model.Container) bool { return ctr.Node == c.o.Self.Name })
}

// lackingClaim is a VIP or a port that etcd lacks.
type lackingClaim struct {
	key     string
	service model.ServiceID
	record  ServiceRecord
	port    port // zero: it is the VIP
}

// takeLacking are those that this host is to claim again. What was lacking for too
// long is gone.
func (c *Catalog) takeLacking() (claims []lackingClaim) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, since := range c.lacking {
		id, p, claimed := c.claimed(key)
		switch {
		case time.Since(since) > lackingTime:
			c.deleted(key)
			wake(c.changed)
		case claimed && (c.hasTask(id) || time.Since(since) > idlePatience):
			claims = append(claims, lackingClaim{key, id, c.records.services[id], p})
		}
	}
	return claims
}
