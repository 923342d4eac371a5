package catalog

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Status is how the catalog fares, for people.
type Status struct {
	Revision    int64         `json:"revision"`             // etcd's, that the records are at
	Lease       string        `json:"lease,omitempty"`      // of this host's records, in hex
	Unsaved     int           `json:"unsaved"`              // records that etcd still has to be told
	Unreadable  []string      `json:"unreadable,omitempty"` // keys of records that are passed over
	FromCache   bool          `json:"fromCache"`            // the state is of the last run, from disk
	Listed      []string      `json:"listed,omitempty"`     // hosts whose own lists are in use
	Snapshot    uint64        `json:"snapshot"`             // revision; 0: none yet
	SnapshotAge time.Duration `json:"snapshotAge"`
	Waiting     string        `json:"waiting,omitempty"`   // what the first Snapshot waits for
	LastError   string        `json:"lastError,omitempty"` // of etcd, "" while all is well
}

// Status tells how the catalog fares. It asks nobody.
func (c *Catalog) Status() Status {
	s := Status{FromCache: isClosed(c.known) && !isClosed(c.listed)}
	if snap := c.Snapshot(); snap != nil {
		s.Snapshot, s.SnapshotAge = snap.Revision, time.Since(*c.published.Load())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Revision = c.seen
	if c.lease != 0 {
		s.Lease = fmt.Sprintf("%x", int64(c.lease))
	}
	s.Unsaved = len(c.drift(c.lease))
	for key := range c.unreadable {
		s.Unreadable = append(s.Unreadable, key)
	}
	slices.Sort(s.Unreadable)
	s.Listed = slices.Sorted(maps.Keys(c.hostLists))
	if c.lastErr != nil {
		s.LastError = c.lastErr.Error()
	}
	s.Waiting = c.waiting()
	return s
}

// Full tells that etcd takes no more of this host's records, as it holds as much as
// it may. It asks nobody.
func (c *Catalog) Full() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Is(c.lastErr, rpctypes.ErrNoSpace)
}

// waiting tells what the first Snapshot waits for.
func (c *Catalog) waiting() string {
	var missing []string
	if !isClosed(c.known) {
		why := "etcd, which was not reached yet"
		if isClosed(c.listed) {
			why = "the other hosts, which write again what the restored store lacks"
		} else if c.cached == nil {
			why += ", and there is no state of an earlier run"
		}
		missing = append(missing, why)
	}
	if !c.localKnown {
		missing = append(missing, "the container engine of this host")
	}
	return strings.Join(missing, "; ")
}
