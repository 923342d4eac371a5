package catalog

import (
	"slices"
	"time"

	"shoal/model"
)

// A host refuses what others send to an address of its containers, until its data plane
// knows of a task there. So a task that comes into rotation is told to the other hosts
// once this host's data plane has it, and never before. What leaves is told at once.

// openingLimit is how long tasks are kept from the other hosts where the data plane takes
// in no Snapshot: one that hangs is no reason to hide them for good.
const openingLimit = 10 * time.Second

// opening is a container of this host with a task that the data plane may not have yet.
type opening struct {
	since    time.Time
	revision uint64 // of the first Snapshot with the task; 0: it is to be built
}

// Applied tells that the data plane has what a Snapshot says, by its revision.
func (c *Catalog) Applied(revision uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.applied = max(c.applied, revision)
	c.open(time.Now())
}

// open has the other hosts told of what the data plane has, or was waited for too long.
func (c *Catalog) open(now time.Time) {
	before := len(c.opening)
	for id, o := range c.opening {
		if o.revision != 0 && o.revision <= c.applied || now.Sub(o.since) >= openingLimit {
			delete(c.opening, id)
		}
	}
	if len(c.opening) == before {
		return
	}
	wake(c.unsaved)
	if len(c.opening) == 0 && c.listDue {
		c.listDue = false
		c.local.next()
	}
}

// noteOpening notes that a container of this host is to be told later, if it has a task
// that comes into rotation. Old is what it was; nil: it was not there.
func (c *Catalog) noteOpening(old, is *model.Container) {
	if !c.o.Applies {
		return
	}
	switch {
	case !slices.ContainsFunc(is.Tasks, func(t model.Task) bool { return t.InRotation() }):
		delete(c.opening, is.ID) // nothing waits for a task that is leaving
	case comesIn(old, is):
		c.opening[is.ID] = opening{since: time.Now()}
		time.AfterFunc(openingLimit, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.open(time.Now())
		})
	}
}

// comesIn tells whether one of a container's tasks is in rotation, and was not, or was at
// another address.
func comesIn(old, is *model.Container) bool {
	return slices.ContainsFunc(is.Tasks, func(t model.Task) bool {
		return t.InRotation() && (old == nil || !slices.ContainsFunc(old.Tasks, func(was model.Task) bool {
			return was.InRotation() && was.Service == t.Service && was.Addr == t.Addr
		}))
	})
}

// noteBuilt notes that a Snapshot has all that is known of this host's containers.
func (c *Catalog) noteBuilt(revision uint64) {
	for id, o := range c.opening {
		if o.revision == 0 {
			o.revision = revision
			c.opening[id] = o
		}
	}
	c.open(time.Now())
}

// listChanges begins another list of this host's containers, as soon as there is nothing
// in it that is to be told later.
func (c *Catalog) listChanges() {
	if c.listDue = len(c.opening) > 0; !c.listDue {
		c.local.next()
	}
}
