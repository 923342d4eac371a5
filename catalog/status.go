package catalog

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"
)

// Status is how the catalog fares, for people.
type Status struct {
	Endpoints   []string      `json:"endpoints"` // of etcd
	Embedded    bool          `json:"embedded"`  // etcd runs in this process
	Role        Role          `json:"role"`
	Connected   bool          `json:"connected"`            // etcd answers
	Leader      string        `json:"leader,omitempty"`     // raft's ID of the leader, in hex
	Version     string        `json:"version,omitempty"`    // etcd's
	DBSize      int64         `json:"dbSize"`               // bytes on etcd's disk
	Revision    int64         `json:"revision"`             // etcd's, that the records are at
	Lease       string        `json:"lease,omitempty"`      // of this host's records, in hex
	Unsaved     int           `json:"unsaved"`              // records that etcd still has to be told
	Unreadable  []string      `json:"unreadable,omitempty"` // keys of records that are passed over
	FromCache   bool          `json:"fromCache"`            // the state is of the last run, from disk
	Snapshot    uint64        `json:"snapshot"`             // revision; 0: none yet
	SnapshotAge time.Duration `json:"snapshotAge"`
	Waiting     string        `json:"waiting,omitempty"`   // what the first Snapshot waits for
	LastError   string        `json:"lastError,omitempty"` // of etcd, "" while all is well
}

// statusTimeout is how long etcd may take to say how it is.
const statusTimeout = time.Second

// Role is this host's part in keeping the store. It asks nobody.
func (c *Catalog) Role() Role {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.place.Role
}

// Status tells how the catalog fares. It asks etcd, for a second at the most.
func (c *Catalog) Status() Status {
	s := Status{
		Endpoints: c.client.Endpoints(),
		FromCache: isClosed(c.known) && !isClosed(c.listed),
	}
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	for _, endpoint := range s.Endpoints {
		r, err := c.ask(ctx, endpoint)
		if err != nil {
			s.LastError = fmt.Sprintf("%s: %v", endpoint, err)
			continue
		}
		s.Connected = r.Leader != 0
		s.Version, s.DBSize = r.Version, r.DbSize
		if s.Connected {
			s.Leader, s.LastError = fmt.Sprintf("%x", r.Leader), ""
			break
		}
		s.LastError = endpoint + ": it has no leader"
	}
	if snap := c.Snapshot(); snap != nil {
		s.Snapshot, s.SnapshotAge = snap.Revision, time.Since(*c.published.Load())
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	s.Embedded, s.Role = c.server != nil, c.place.Role
	s.Revision = c.seen
	if c.lease != 0 {
		s.Lease = fmt.Sprintf("%x", int64(c.lease))
	}
	s.Unsaved = len(c.drift(c.lease))
	for key := range c.unreadable {
		s.Unreadable = append(s.Unreadable, key)
	}
	slices.Sort(s.Unreadable)
	if c.lastErr != nil {
		s.LastError = c.lastErr.Error()
	}
	s.Waiting = c.waiting()
	return s
}

// ask asks one endpoint how it is. It takes a client of its own for that: one
// whose endpoints change meanwhile does not bear it.
func (c *Catalog) ask(ctx context.Context, endpoint string) (*clientv3.StatusResponse, error) {
	cl, err := c.dial([]string{endpoint}, new(conns))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	return cl.Status(ctx, endpoint)
}

// waiting tells what the first Snapshot waits for.
func (c *Catalog) waiting() string {
	var missing []string
	if !isClosed(c.known) {
		why := "etcd, which was not reached yet"
		if c.cached == nil {
			why += ", and there is no state of an earlier run"
		}
		missing = append(missing, why)
	}
	if !c.localKnown {
		missing = append(missing, "the container engine of this host")
	}
	return strings.Join(missing, "; ")
}

// Connected tells whether there is a connection to etcd, without asking it.
func (c *Catalog) Connected() bool {
	return c.client.ActiveConnection().GetState() == connectivity.Ready
}
