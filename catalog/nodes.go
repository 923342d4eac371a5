package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"time"

	"shoal/model"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrNoNode says that nothing is remembered of a host.
var ErrNoNode = errors.New("no such node; run: shoal nodes")

// SetSelf changes what is known of this host: its address, its subnet. The next
// Snapshot has it, and etcd as soon as that is possible. Name and Alive stay as
// they are. It is done at once, under a lock: update must not call the catalog.
func (c *Catalog) SetSelf(update func(*model.Node)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.self
	update(&n)
	n.Name, n.Alive = c.self.Name, true
	c.setSelf(n)
}

func (c *Catalog) setSelf(n model.Node) {
	c.self = n
	c.records.putNode(n)
	c.want[nodeKey(n.Name)] = fingerprint(encode(n))
	wake(c.changed)
	wake(c.unsaved)
}

// adopt takes of an earlier record of this host what it was not yet told in
// this run: until its subnet is claimed anew, the other hosts go on routing it
// here.
func (c *Catalog) adopt(old model.Node) {
	n := c.self
	if !n.Subnet.IsValid() {
		n.Subnet, n.Number, n.Probe = old.Subnet, old.Number, old.Probe
	}
	if n.MAC == (model.MAC{}) {
		n.MAC = old.MAC
	}
	if n != c.self {
		c.setSelf(n)
	}
}

// SetAlive tells which hosts live, by name; one that is not among them counts
// as alive, as does this one. The tasks of a dead host are [model.Lost] in Snapshots
// until it lives again; in etcd and in memory they stay what they are.
func (c *Catalog) SetAlive(alive map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	told := make(map[string]bool, len(alive))
	for name, up := range alive {
		told[name] = up || name == c.o.Self.Name
	}
	c.records.setAlive(told, time.Now().UTC().Truncate(time.Second))
	wake(c.changed)
}

// RemoveNode forgets a host: first its vote in the store, by
// [Options].RemoveServer, then its record, its tasks and its subnet. It is refused while the host is alive,
// unless its agent is known to be stopped: one that runs would write all of it
// again. If nothing is remembered of it, the error is [ErrNoNode].
func (c *Catalog) RemoveNode(ctx context.Context, name string, agentStopped bool) error {
	if err := c.removeNode(ctx, name, agentStopped); err != nil {
		return fmt.Errorf("remove node %s: %w", name, err)
	}
	return nil
}

func (c *Catalog) removeNode(ctx context.Context, name string, agentStopped bool) error {
	if name == c.o.Self.Name {
		return errors.New("it is this host; stop its agent, and remove it on another")
	}
	if !isClosed(c.listed) {
		return errors.New("etcd was not reached yet; see: shoal status")
	}
	c.mu.Lock()
	kept, known := c.records.nodes[name]
	_, dead := c.records.dead[name]
	c.mu.Unlock()
	if known && !dead && !agentStopped {
		return errors.New("it is alive; stop its agent first (shoal agent, or its container or unit), and wait some seconds")
	}
	if c.o.RemoveServer != nil {
		if err := c.o.RemoveServer(ctx, name, kept.Addr); err != nil {
			return err
		}
	}
	held, err := c.heldSubnets(ctx)
	if err != nil {
		return err
	}
	r, err := c.commit(ctx, nil, []clientv3.Op{clientv3.OpGet(nodeKey(name))}, nil)
	if err != nil {
		return err
	}
	node := first(r, 0)
	if node == nil && !known {
		return ErrNoNode
	}
	ops := []clientv3.Op{
		clientv3.OpDelete(nodeKey(name)),
		clientv3.OpDelete(agentKey(name)),
		clientv3.OpDelete(taskKey(name, ""), clientv3.WithPrefix()),
	}
	for p, rec := range held {
		if rec.Node == name {
			ops = append(ops, clientv3.OpDelete(subnetKey(p)))
		}
	}
	if r, err = c.commit(ctx, nil, ops, nil); err != nil {
		return err
	}
	return c.await(ctx, r.Header.Revision)
}

// subnetRecord says which host a subnet is.
type subnetRecord struct {
	Node   string `json:"node"`
	Number uint16 `json:"number"`
}

// ClaimSubnet makes a subnet of the pool, of so many bits, this host's for good,
// in one transaction: one that no other host has and that overlaps none
// of avoid, the lowest unless others claim theirs at the same time. It returns the one the host has, if it has one, whatever is in
// avoid, and the host's number: the subnet's place in the pool, from 1. Every
// host has to be given the same pool; one that is given another gets a new
// subnet there, and its old one is free.
//
// While etcd is away, it is the subnet the host had when last it ran, if there
// is one.
func (c *Catalog) ClaimSubnet(ctx context.Context, pool model.Pools, bits int, avoid []netip.Prefix) (netip.Prefix, uint16, error) {
	p, number, err := c.claimSubnet(ctx, pool, bits, avoid)
	if err != nil {
		return netip.Prefix{}, 0, fmt.Errorf("claim a subnet of %s for this host: %w", pool, err)
	}
	return p, number, nil
}

func (c *Catalog) claimSubnet(ctx context.Context, pool model.Pools, bits int, avoid []netip.Prefix) (netip.Prefix, uint16, error) {
	last, number, has := c.lastSubnet(pool, bits)
	fallback := func(err error) (netip.Prefix, uint16, error) {
		if !has {
			return netip.Prefix{}, 0, err
		}
		c.log.Warn("etcd could not be asked for this host's subnet; it keeps the one it had", "subnet", last, "error", err)
		return last, number, nil
	}
	if has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.o.cacheAfter)
		defer cancel()
	}
	for attempt := range claimAttempts {
		held, err := c.heldSubnets(ctx)
		if err != nil {
			return fallback(err)
		}
		c.addUnclaimed(held)
		pick, err := pickSubnet(c.o.Self.Name, attempt, pool, bits, avoid, held)
		if err != nil {
			return netip.Prefix{}, 0, err
		}
		var free []clientv3.Cmp
		ops := make([]clientv3.Op, 0, 1+len(pick.release))
		for _, p := range pick.release {
			ops = append(ops, clientv3.OpDelete(subnetKey(p)))
		}
		if !pick.held {
			key := subnetKey(pick.subnet)
			free = append(free, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
			ops = append(ops, clientv3.OpPut(key, encode(subnetRecord{c.o.Self.Name, pick.number})))
		}
		if len(ops) == 0 {
			return pick.subnet, pick.number, nil
		}
		r, err := c.commit(ctx, free, ops, nil)
		if err != nil {
			return fallback(err)
		}
		if r.Succeeded {
			return pick.subnet, pick.number, nil
		}
	}
	return netip.Prefix{}, 0, fmt.Errorf("other hosts were first %d times; try again", claimAttempts)
}

// addUnclaimed adds the subnets that other hosts say they have: etcd may have been put
// back to a state from before they claimed them.
func (c *Catalog) addUnclaimed(held map[netip.Prefix]subnetRecord) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, n := range c.records.nodes {
		if _, claimed := held[n.Subnet]; !claimed && n.Subnet.IsValid() && name != c.o.Self.Name {
			held[n.Subnet] = subnetRecord{name, n.Number}
		}
	}
}

// lastSubnet is what this host is known to have, if that is of the pool.
func (c *Catalog) lastSubnet(pool model.Pools, bits int) (p netip.Prefix, number uint16, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p = c.self.Subnet
	return p, c.self.Number, p.IsValid() && p.Bits() == bits && pool.Has(p)
}

// heldSubnets are the subnets of all hosts.
func (c *Catalog) heldSubnets(ctx context.Context) (map[netip.Prefix]subnetRecord, error) {
	r, err := c.commit(ctx, nil, []clientv3.Op{clientv3.OpGet(subnetsRoot, clientv3.WithPrefix())}, nil)
	if err != nil {
		return nil, err
	}
	held := map[netip.Prefix]subnetRecord{}
	for _, kv := range r.Responses[0].GetResponseRange().Kvs {
		p, err := netip.ParsePrefix(string(kv.Key[len(subnetsRoot):]))
		var rec subnetRecord
		if err == nil {
			err = json.Unmarshal(kv.Value, &rec)
		}
		if err != nil {
			return nil, fmt.Errorf("the record %s cannot be read: %w; delete it with etcdctl if no host has that subnet", kv.Key, err)
		}
		held[p] = rec
	}
	return held, nil
}

// subnetPick is what is done to give a host its subnet.
type subnetPick struct {
	subnet  netip.Prefix
	number  uint16
	held    bool           // by the host itself, already
	release []netip.Prefix // of the host, which are not of the pool
}

// maxNumber is the highest number of a host.
const maxNumber = 1<<16 - 1

// pickSubnet chooses a host's subnet: the lowest free one at its first attempt.
// Hosts that start together all choose that one, so further attempts search from
// a place that differs from host to host.
func pickSubnet(node string, attempt int, pool model.Pools, bits int, avoid []netip.Prefix, held map[netip.Prefix]subnetRecord) (pick subnetPick, err error) {
	if err := pool.Check(bits); err != nil {
		return pick, err
	}
	taken := append([]netip.Prefix(nil), avoid...)
	numbers := map[uint16]bool{}
	for p, rec := range held {
		switch {
		case rec.Node != node:
			taken = append(taken, p)
			numbers[rec.Number] = true
		case p.Bits() == bits && pool.Has(p) && (!pick.held || p.Addr().Less(pick.subnet.Addr())):
			if pick.held {
				pick.release = append(pick.release, pick.subnet)
			}
			pick.subnet, pick.number, pick.held = p, rec.Number, true
		default:
			pick.release = append(pick.release, p)
		}
	}
	if pick.held {
		return pick, nil
	}
	total := pool.Count(bits, maxNumber)
	var start uint64
	if attempt > 0 {
		h := fnv.New64a()
		fmt.Fprintf(h, "%d/%s", attempt, node)
		start = h.Sum64() % total
	}
	for i := range total {
		i = (start + i) % total
		p := pool.Subnet(bits, i)
		if !overlapsAny(p, taken) && !numbers[uint16(i+1)] {
			pick.subnet, pick.number = p, uint16(i+1)
			return pick, nil
		}
	}
	return pick, fmt.Errorf("all %d of its subnets of %d bits are other hosts' or in use by this one; "+
		"remove hosts that are gone (shoal node rm NAME), or add a pool at the end of --subnet-pool, on every host", total, bits)
}

func overlapsAny(p netip.Prefix, others []netip.Prefix) bool {
	for _, o := range others {
		if p.Overlaps(o) {
			return true
		}
	}
	return false
}
