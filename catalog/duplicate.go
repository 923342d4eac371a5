package catalog

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

	"shoal/model"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A cloned machine comes with the name and the state of the one it was cloned
// from. Each agent then takes the other's records for its own, out of date, and
// writes them anew, for ever. So before it writes anything else, an agent writes
// which run of the host it is. One that finds another run's name there, of a
// later time than its own, writes its own again; one that finds an earlier one
// is the later of two, and stops writing. An agent that is started again is the
// same run, and writes nothing; after a reboot nobody objects.

// objection is how long a run that is new waits for another one to object: some
// round trips between agents and etcd.
const objection = 1500 * time.Millisecond

// clockAhead is by how much another run's clock may be ahead of this one's: a record that says more was not written by a run.
const clockAhead = 24 * time.Hour

// agentRecord says which run of a host writes its records.
type agentRecord struct {
	Run   string     `json:"run"`
	Since time.Time  `json:"since"`
	Addr  netip.Addr `json:"addr"` // of the host, for people
}

// before tells whether a record is of the earlier of two runs.
func (r agentRecord) before(o agentRecord) bool {
	if !r.Since.Equal(o.Since) {
		return r.Since.Before(o.Since)
	}
	return r.Run < o.Run
}

// claimName writes which run this is, unless etcd says so already, and waits for
// objections if it said another one.
func (c *Catalog) claimName(ctx context.Context) error {
	if c.o.Run == "" {
		return nil
	}
	key := agentKey(c.o.Self.Name)
	r, err := c.commit(ctx, nil, []clientv3.Op{clientv3.OpGet(key)}, nil)
	if err != nil {
		return err
	}
	found := first(r, 0)
	var old agentRecord
	if found != nil && json.Unmarshal(found.Value, &old) == nil && old.Run == c.o.Run {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.run.Since = old.Since
		return nil
	}
	c.mu.Lock()
	c.run.Since = time.Now().UTC()
	if ahead := old.Since.Sub(c.run.Since); ahead >= 0 && ahead < clockAhead { // by another clock
		c.run.Since = old.Since.Add(time.Millisecond)
	}
	c.mu.Unlock()
	if err := c.writeName(ctx); err != nil {
		return err
	}
	if found == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(objection):
		return c.duplicate()
	}
}

// writeName writes which run of the host this is.
func (c *Catalog) writeName(ctx context.Context) error {
	if c.o.Run == "" {
		return nil
	}
	c.mu.Lock()
	c.run.Addr = c.self.Addr
	value := encode(c.run)
	c.mu.Unlock()
	_, err := c.commit(ctx, nil, []clientv3.Op{clientv3.OpPut(agentKey(c.o.Self.Name), value)}, nil)
	return err
}

// isThisRun tells whether a record names this run.
func (c *Catalog) isThisRun(kv *mvccpb.KeyValue) bool {
	var found agentRecord
	return json.Unmarshal(kv.Value, &found) == nil && found.Run == c.o.Run
}

// named takes in that somebody wrote which run of this host there is.
func (c *Catalog) named(kv *mvccpb.KeyValue) {
	var found agentRecord
	if c.o.Run == "" || c.run.Since.IsZero() || json.Unmarshal(kv.Value, &found) != nil || found.Run == c.o.Run {
		return
	}
	if c.run.before(found) {
		wake(c.unnamed)
		return
	}
	c.other = &found
	wake(c.unsaved)
}

// duplicate is an error once another host is known to be the one that this one
// takes itself for.
func (c *Catalog) duplicate() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.other == nil {
		return nil
	}
	return model.DuplicateNode.Errorf("another host runs as node %s, since %s, at %s: this one writes nothing to the store. "+
		"If it is a clone of that one, stop its agent, remove its state folder, and start it with another --node; if that one is gone, restart this agent",
		c.o.Self.Name, c.other.Since.Format(time.DateTime), c.other.Addr)
}

// stopWriting reports why this host writes nothing any more.
func (c *Catalog) stopWriting(why error) {
	if c.o.Report != nil {
		c.o.Report([]model.Problem{{Code: model.DuplicateNode, Kind: "node", Object: c.o.Self.Name, Reason: why.Error()}})
	}
}
