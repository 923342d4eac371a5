package catalog

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"shoal/model"
)

// The cache is the last state on disk, for a start at which etcd is away: a
// line a record, the first says whose it is. It is replaced as a whole, so
// it is never seen half written.

// cacheEvery is the least time between two writes of the cache. One that takes
// long is written less often still, for a hundredth of the time at the most.
const cacheEvery = 500 * time.Millisecond

// cacheLine is one line of the cache. One of its fields is set.
type cacheLine struct {
	Cache     *cacheHeader     `json:"cache,omitempty"`
	Node      *model.Node      `json:"node,omitempty"`
	Container *model.Container `json:"container,omitempty"`
	Service   *cachedService   `json:"service,omitempty"`
	Published *model.PortClaim `json:"published,omitempty"`
	Network   *model.Network   `json:"network,omitempty"`
}

type cacheHeader struct {
	Node  string    `json:"node"` // the host that wrote it
	Saved time.Time `json:"saved"`
}

type cachedService struct {
	model.ServiceID
	ServiceRecord
}

// cache is what it held.
type cache struct {
	header     cacheHeader
	nodes      []model.Node
	containers []model.Container
	services   []cachedService
	published  []model.PortClaim
	networks   []model.Network
}

// node is the record of the host itself, if it is in the cache.
func (c *cache) node(name string) model.Node {
	for _, n := range c.nodes {
		if n.Name == name {
			return n
		}
	}
	return model.Node{}
}

// local is the part of the host itself.
func (c *cache) local(node string) model.Local {
	l := model.Local{Networks: c.networks}
	for _, ctr := range c.containers {
		if ctr.Node == node {
			l.Containers = append(l.Containers, ctr)
		}
	}
	return l
}

func cachePath(stateDir string) string { return filepath.Join(stateDir, "cache.jsonl") }

func (c *Catalog) cachePath() string { return cachePath(c.o.StateDir) }

// readCache reads the cache of a host. One that holds anything it should not is
// of no use at all.
func readCache(path, node string) (*cache, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c := new(cache)
	for dec := json.NewDecoder(bufio.NewReader(f)); ; {
		var l cacheLine
		if err := dec.Decode(&l); err == io.EOF {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		switch {
		case l.Cache != nil:
			c.header = *l.Cache
		case l.Node != nil:
			l.Node.Alive = true
			c.nodes = append(c.nodes, *l.Node)
		case l.Container != nil:
			if err := checkContainer(l.Container, l.Container.Node+"/"+l.Container.ID); err != nil {
				return nil, fmt.Errorf("read %s: container %s: %w", path, l.Container.ID, err)
			}
			c.containers = append(c.containers, *l.Container)
		case l.Service != nil:
			c.services = append(c.services, *l.Service)
		case l.Published != nil:
			c.published = append(c.published, *l.Published)
		case l.Network != nil:
			c.networks = append(c.networks, *l.Network)
		}
	}
	if c.header.Node != node {
		return nil, fmt.Errorf("read %s: it was written by a host named %q, this one is %q", path, c.header.Node, node)
	}
	return c, nil
}

// useCache takes the state of the last run for the cluster's, if etcd was not
// reached by now. This host's containers are left to RestoreLocal.
func (c *Catalog) useCache() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cached == nil || isClosed(c.known) {
		return
	}
	self := c.o.Self.Name
	for _, n := range c.cached.nodes {
		if n.Name != self {
			c.records.putNode(n)
		}
	}
	for i := range c.cached.containers {
		if ctr := c.cached.containers[i]; ctr.Node != self {
			c.records.putContainer(ctr)
		}
	}
	for _, s := range c.cached.services {
		c.records.putService(s.ServiceID, s.ServiceRecord)
	}
	for _, p := range c.cached.published {
		c.records.putPublished(p)
	}
	close(c.known)
	c.log.Warn("etcd was not reached; going by the state of the last run until it is", "saved", c.cached.header.Saved)
}

// keepCache writes the cache after Snapshots, not too often, and a last time at
// the end.
func (c *Catalog) keepCache(ctx context.Context) {
	snapshots := c.Watch(ctx)
	for range snapshots {
		start := time.Now()
		if err := c.writeCache(); err != nil {
			c.log.Warn("the state could not be saved for a start without etcd", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(max(cacheEvery, 100*time.Since(start))):
		}
	}
	if c.Snapshot() != nil {
		if err := c.writeCache(); err != nil {
			c.log.Warn("the state could not be saved for a start without etcd", "error", err)
		}
	}
}

func (c *Catalog) writeCache() (err error) {
	c.mu.Lock()
	nodes := slices.Collect(maps.Values(c.records.nodes))
	services := maps.Clone(c.records.services)
	published := c.records.claims()
	networks := c.records.networks
	var containers []*model.Container
	for _, byID := range c.records.containers {
		containers = slices.AppendSeq(containers, maps.Values(byID))
	}
	c.mu.Unlock()

	f, err := os.OpenFile(c.cachePath()+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	write := func(l cacheLine) { err = errors.Join(err, enc.Encode(l)) }
	write(cacheLine{Cache: &cacheHeader{Node: c.o.Self.Name, Saved: time.Now().UTC()}})
	for i := range nodes {
		write(cacheLine{Node: &nodes[i]})
	}
	for _, ctr := range containers {
		write(cacheLine{Container: ctr})
	}
	for id, rec := range services {
		write(cacheLine{Service: &cachedService{id, rec}})
	}
	for i := range published {
		write(cacheLine{Published: &published[i]})
	}
	for i := range networks {
		write(cacheLine{Network: &networks[i]})
	}
	if err = errors.Join(err, w.Flush(), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), c.cachePath())
}
