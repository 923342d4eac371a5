package catalog

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"time"

	"shoal/internal/statefile"
	"shoal/model"
)

// cacheFile is the cache as it is written: whole at first, then by lines at the
// end. It is written anew, under another name until it is whole, when that many
// lines were added as there are records, and after an error.
type cacheFile struct {
	path, node string

	f     *os.File // nil: it is to be written anew
	lines int      // in it
	whole int      // of them, when it was written anew
	at    position // as the last header says

	nodes     map[string]model.Node    // as they are in it
	published map[port]model.ServiceID // likewise
}

// leastAdded is how many lines are added before the file is written anew, however few
// records there are.
const leastAdded = 1000

// keepCache writes the cache after Snapshots, not too often, and a last time at
// the end.
func (c *Catalog) keepCache(ctx context.Context) {
	file := &cacheFile{path: c.cachePath(), node: c.o.Self.Name}
	defer file.close()
	write := func() {
		if err := c.writeCache(file); err != nil {
			c.log.Warn("the state could not be saved for a start without etcd", "error", err)
		}
	}
	snapshots := c.Watch(ctx)
	for range snapshots {
		start := time.Now()
		write()
		select {
		case <-ctx.Done():
		case <-time.After(max(cacheEvery, 100*time.Since(start))):
		}
	}
	if c.Snapshot() != nil {
		write()
	}
}

// writeCache writes what changed since it was last called.
func (c *Catalog) writeCache(file *cacheFile) error {
	c.mu.Lock()
	ch := c.records.uncached
	c.records.uncached = newChanges()
	at := c.cachePosition()
	if file.f == nil || file.lines > 2*file.whole+leastAdded {
		all := c.allLines()
		c.mu.Unlock()
		return file.replace(all, at)
	}
	lines := c.changedLines(file, ch)
	c.mu.Unlock()
	return file.append(lines, at)
}

// allLines are the lines of all records.
func (c *Catalog) allLines() (all []cacheLine) {
	for _, n := range c.records.nodes {
		all = append(all, cacheLine{Node: &n})
	}
	for _, byID := range c.records.containers {
		for _, ctr := range byID {
			all = append(all, cacheLine{Container: ctr})
		}
	}
	for id, rec := range c.records.services {
		all = append(all, cacheLine{Service: &cachedService{id, rec, rec.mod}})
	}
	for _, claim := range c.records.claims() {
		all = append(all, cacheLine{Published: &claim})
	}
	networks := c.records.networks
	return append(all, cacheLine{Networks: &networks})
}

// changedLines are those of what changed.
func (c *Catalog) changedLines(file *cacheFile, ch changes) (lines []cacheLine) {
	if ch.nodes {
		for name, n := range c.records.nodes {
			if file.nodes[name] != n {
				lines = append(lines, cacheLine{Node: &n})
			}
		}
		for name := range file.nodes {
			if _, there := c.records.nodes[name]; !there {
				lines = append(lines, cacheLine{Gone: &cachedGone{Node: name}})
			}
		}
	}
	for k := range ch.containers {
		if ctr := c.records.containers[k.Node][k.ID]; ctr != nil {
			lines = append(lines, cacheLine{Container: ctr})
		} else {
			lines = append(lines, cacheLine{Gone: &cachedGone{Container: &cachedContainer{k.Node, k.ID}}})
		}
	}
	for id := range ch.services {
		if rec, there := c.records.services[id]; there {
			lines = append(lines, cacheLine{Service: &cachedService{id, rec, rec.mod}})
		} else {
			lines = append(lines, cacheLine{Gone: &cachedGone{Service: &id}})
		}
	}
	if ch.published {
		for p, id := range c.records.published {
			if holder, held := file.published[p]; !held || holder != id {
				lines = append(lines, cacheLine{Published: &model.PortClaim{Protocol: p.protocol, Port: p.number, Service: id}})
			}
		}
		for p := range file.published {
			if _, there := c.records.published[p]; !there {
				lines = append(lines, cacheLine{Gone: &cachedGone{Published: &model.PortClaim{Protocol: p.protocol, Port: p.number}}})
			}
		}
	}
	if ch.networks {
		networks := c.records.networks
		lines = append(lines, cacheLine{Networks: &networks})
	}
	return lines
}

// replace writes the file anew, with records as of that position.
func (f *cacheFile) replace(all []cacheLine, at position) error {
	f.close()
	file, err := os.OpenFile(f.path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	f.nodes, f.published, f.lines = map[string]model.Node{}, map[port]model.ServiceID{}, 0
	if err = f.write(file, slices.Concat([]cacheLine{f.header(position{})}, all, []cacheLine{f.header(at)})); err == nil {
		err = statefile.Rename(file.Name(), f.path)
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	f.f, f.whole = file, f.lines
	return nil
}

// append adds lines, with which the records are as of that position. After an error
// the file is written anew the next time.
func (f *cacheFile) append(lines []cacheLine, at position) error {
	if len(lines) == 0 && at == f.at {
		return nil
	}
	if err := f.write(f.f, append(lines, f.header(at))); err != nil {
		f.close()
		return err
	}
	return nil
}

func (f *cacheFile) header(at position) cacheLine {
	return cacheLine{Cache: &cacheHeader{Node: f.node, Saved: time.Now().UTC(), position: at}}
}

// write writes lines, and returns once they are on the disk.
func (f *cacheFile) write(to *os.File, lines []cacheLine) error {
	w := bufio.NewWriter(to)
	enc := json.NewEncoder(w)
	for i := range lines {
		if err := enc.Encode(&lines[i]); err != nil {
			return err
		}
		f.note(&lines[i])
	}
	f.lines += len(lines)
	return errors.Join(w.Flush(), to.Sync())
}

// note takes note of what the file says now.
func (f *cacheFile) note(l *cacheLine) {
	switch {
	case l.Cache != nil:
		f.at = l.Cache.position
	case l.Node != nil:
		f.nodes[l.Node.Name] = *l.Node
	case l.Published != nil:
		f.published[port{l.Published.Protocol, l.Published.Port}] = l.Published.Service
	case l.Gone != nil && l.Gone.Published != nil:
		delete(f.published, port{l.Gone.Published.Protocol, l.Gone.Published.Port})
	case l.Gone != nil && l.Gone.Node != "":
		delete(f.nodes, l.Gone.Node)
	}
}

// close closes the file; it is written anew the next time.
func (f *cacheFile) close() {
	if f.f != nil {
		f.f.Close() // what was written was synchronised
		f.f = nil
	}
}
