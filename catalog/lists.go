package catalog

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"shoal/model"
)

// What a host's engine says comes to the other hosts by etcd. While that is not to
// be had, a host's own list is fetched from the host itself, and is used
// instead of its records in etcd until those are as new.

// Edition says which of a host's lists is meant, and where etcd has it.
type Edition struct {
	Generation uint64 `json:"generation"`        // another for each list; 0: there is none to give
	Stored     int64  `json:"stored"`            // etcd's revision that holds it; 0: none does yet
	Cluster    uint64 `json:"cluster,omitempty"` // the ID of the etcd cluster whose revision that is; 0: not told
}

// List is what other hosts have to know of one host's containers, in its own words.
type List struct {
	Node string `json:"node"`
	Edition
	Containers []model.Container `json:"containers"`
}

// ErrNoList says that there is no list yet, or that it is not this host's to give.
var ErrNoList = errors.New("this host has no list of its containers to give")

// ownList is what the other hosts are to know of this one's containers, and how far
// etcd has it.
type ownList struct {
	generation uint64
	changed    chan struct{} // of capacity 1: there is another generation
	revision   int64         // etcd's, of the last change of one of this host's records
}

// next begins a new generation. No two are the same, and none is that of an earlier
// run.
func (o *ownList) next() {
	o.generation = max(o.generation+1, uint64(time.Now().UnixNano()))
	wake(o.changed)
}

// ListChanged receives when this host's list changed. There is one such channel.
func (c *Catalog) ListChanged() <-chan struct{} { return c.local.changed }

// Edition is that of this host's list.
func (c *Catalog) Edition() Edition {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.edition()
}

func (c *Catalog) edition() (e Edition) {
	if !c.localKnown || c.other != nil {
		return Edition{}
	}
	e.Generation = c.local.generation
	if len(c.opening) == 0 && len(c.drift(c.lease)) == 0 && isClosed(c.listed) {
		e.Stored, e.Cluster = c.local.revision, c.cluster
	}
	return e
}

// holds tells whether the records are as new as what another host has in etcd. One that has
// not seen yet that etcd was put back to an older state speaks of other revisions.
func (c *Catalog) holds(e Edition) bool {
	return e.Stored != 0 && isClosed(c.listed) && c.seen >= e.Stored && (e.Cluster == 0 || e.Cluster == c.cluster)
}

// List is this host's list. While a task is to be told later, there is none to give.
func (c *Catalog) List() (List, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := List{Node: c.o.Self.Name, Edition: c.edition()}
	if l.Generation == 0 || len(c.opening) > 0 {
		return l, ErrNoList
	}
	for id, ctr := range c.records.containers[l.Node] {
		if _, wanted := c.want[taskKey(l.Node, id)]; wanted {
			l.Containers = append(l.Containers, *ctr)
		}
	}
	return l, nil
}

// Away tells whether etcd does not answer this host, so that it learns nothing from
// it.
func (c *Catalog) Away() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastErr != nil || !isClosed(c.listed)
}

// HostLists are the hosts whose own lists are in use.
func (c *Catalog) HostLists() map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[string]bool{}
	for node := range c.hostLists {
		all[node] = true
	}
	return all
}

// hostList is a host whose own list is in use.
type hostList struct {
	generation uint64                      // 0: it is what was known of the host before etcd was put back to an older state
	records    map[string]*model.Container // what etcd has of its containers, by ID
}

// Outdated tells whether another host has something newer than what is known
// here, by what it says of its list.
func (c *Catalog) Outdated(node string, e Edition) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.records.nodes[node]; !known || node == c.o.Self.Name {
		return false
	}
	if l := c.hostLists[node]; l != nil {
		return l.generation != e.Generation || c.holds(e)
	}
	return !c.holds(e)
}

// SetList takes in another host's list. It is used from now on, instead of etcd's
// records, which are noted meanwhile; or it is not, if those are as new.
func (c *Catalog) SetList(l List) error {
	containers := make(map[string]*model.Container, len(l.Containers))
	for i := range l.Containers {
		ctr := &l.Containers[i]
		if err := checkContainer(ctr, l.Node+"/"+ctr.ID); err != nil {
			return fmt.Errorf("the list of host %s: container %s: %w", l.Node, ctr.ID, err)
		}
		containers[ctr.ID] = ctr
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.records.nodes[l.Node]; !known || l.Node == c.o.Self.Name {
		return fmt.Errorf("the list of host %s: there is no such other host", l.Node)
	}
	if c.holds(l.Edition) {
		c.useRecords(l.Node)
		return nil
	}
	held := c.hostLists[l.Node]
	if held == nil {
		held = &hostList{records: maps.Clone(c.records.containers[l.Node])}
		c.hostLists[l.Node] = held
		c.log.Info("a host's containers are taken from itself, as etcd does not have its last changes", "node", l.Node)
	}
	held.generation = l.Generation
	c.replaceContainers(l.Node, containers)
	return nil
}

// useRecords goes back to what etcd has of a host.
func (c *Catalog) useRecords(node string) {
	held := c.hostLists[node]
	if held == nil {
		return
	}
	delete(c.hostLists, node)
	c.replaceContainers(node, held.records)
	c.log.Info("a host's containers are taken from etcd again", "node", node)
}

func (c *Catalog) replaceContainers(node string, containers map[string]*model.Container) {
	for id := range maps.Clone(c.records.containers[node]) {
		if containers[id] == nil {
			c.records.deleteContainer(node, id)
		}
	}
	for _, ctr := range containers {
		c.records.putContainer(*ctr)
	}
	wake(c.changed)
}

// putContainer takes another host's container from etcd.
func (c *Catalog) putContainer(ctr *model.Container) {
	if held := c.hostLists[ctr.Node]; held != nil {
		if held.records == nil {
			held.records = map[string]*model.Container{}
		}
		held.records[ctr.ID] = ctr
		return
	}
	c.records.putContainer(*ctr)
}

// deleteContainer takes note that another host's container is gone from etcd.
func (c *Catalog) deleteContainer(node, id string) {
	if held := c.hostLists[node]; held != nil {
		delete(held.records, id)
		return
	}
	c.records.deleteContainer(node, id)
}
