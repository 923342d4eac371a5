package catalog

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"shoal/model"
)

// The cache is the last state on disk, for a start at which etcd is away: a
// line a record, the first says whose it is. A change is a line at the end,
// see cacheFile; a later line about the same thing counts.

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
	Network   *model.Network   `json:"network,omitempty"`  // before there were changes: one of Networks
	Networks  *[]model.Network `json:"networks,omitempty"` // all
	Gone      *cachedGone      `json:"gone,omitempty"`
}

// cachedGone is something that is not there any more. One of its fields is set.
type cachedGone struct {
	Node      string           `json:"node,omitempty"`
	Container *cachedContainer `json:"container,omitempty"`
	Service   *model.ServiceID `json:"service,omitempty"`
	Published *model.PortClaim `json:"published,omitempty"` // without its service
}

type cachedContainer struct {
	Node string `json:"node"`
	ID   string `json:"id"`
}

type cacheHeader struct {
	Node     string    `json:"node"` // the host that wrote it
	Saved    time.Time `json:"saved"`
	position           // of etcd, that has all lines up to this one; its revision is zero where some are not etcd's
}

type cachedService struct {
	model.ServiceID
	ServiceRecord
	Mod int64 `json:"mod,omitzero"` // etcd's revision of the record
}

// cache is what it held.
type cache struct {
	header     cacheHeader
	nodes      map[string]model.Node
	containers map[model.ContainerKey]model.Container
	services   map[model.ServiceID]ServiceRecord
	published  map[port]model.PortClaim
	networks   []model.Network
}

// node is the record of the host itself, if it is in the cache.
func (c *cache) node(name string) model.Node { return c.nodes[name] }

// local is the part of the host itself.
func (c *cache) local(node string) model.Local {
	l := model.Local{Networks: c.networks}
	for k, ctr := range c.containers {
		if k.Node == node {
			l.Containers = append(l.Containers, ctr)
		}
	}
	return l
}

func cachePath(stateDir string) string { return filepath.Join(stateDir, "cache.jsonl") }

func (c *Catalog) cachePath() string { return cachePath(c.o.StateDir) }

// readCache reads the cache of a host. One that holds anything it should not is
// of no use at all; that its last line was not written whole does no harm.
func readCache(path, node string) (*cache, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c := &cache{
		nodes: map[string]model.Node{}, containers: map[model.ContainerKey]model.Container{},
		services: map[model.ServiceID]ServiceRecord{}, published: map[port]model.PortClaim{},
	}
	for in := bufio.NewReader(f); ; {
		line, err := in.ReadBytes('\n')
		if err == io.EOF {
			break
		}
		var l cacheLine
		if err == nil {
			err = json.Unmarshal(line, &l)
		}
		if err == nil {
			err = c.apply(&l)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
	}
	if c.header.Node != node {
		return nil, fmt.Errorf("read %s: it was written by a host named %q, this one is %q", path, c.header.Node, node)
	}
	return c, nil
}

// apply takes in a line.
func (c *cache) apply(l *cacheLine) error {
	switch {
	case l.Cache != nil:
		c.header = *l.Cache
	case l.Node != nil:
		l.Node.Alive = true
		c.nodes[l.Node.Name] = *l.Node
	case l.Container != nil:
		if err := checkContainer(l.Container, l.Container.Node+"/"+l.Container.ID); err != nil {
			return fmt.Errorf("container %s: %w", l.Container.ID, err)
		}
		c.containers[model.ContainerKey{Node: l.Container.Node, ID: l.Container.ID}] = *l.Container
	case l.Service != nil:
		l.Service.ServiceRecord.mod = l.Service.Mod
		c.services[l.Service.ServiceID] = l.Service.ServiceRecord
	case l.Published != nil:
		c.published[port{l.Published.Protocol, l.Published.Port}] = *l.Published
	case l.Network != nil:
		c.networks = append(c.networks, *l.Network)
	case l.Networks != nil:
		c.networks = *l.Networks
	case l.Gone == nil:
	case l.Gone.Container != nil:
		delete(c.containers, model.ContainerKey{Node: l.Gone.Container.Node, ID: l.Gone.Container.ID})
	case l.Gone.Service != nil:
		delete(c.services, *l.Gone.Service)
	case l.Gone.Published != nil:
		delete(c.published, port{l.Gone.Published.Protocol, l.Gone.Published.Port})
	default:
		delete(c.nodes, l.Gone.Node)
	}
	return nil
}

// useCache takes the state of the last run for the cluster's, if etcd was not
// reached by now. This host's containers are left to RestoreLocal.
func (c *Catalog) useCache() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cached == nil || isClosed(c.known) {
		return
	}
	c.putCached()
	c.setKnown()
	c.log.Warn("etcd was not reached; going by the state of the last run until it is", "saved", c.cached.header.Saved)
}

// putCached makes the state of the last run the records, but for this host's.
func (c *Catalog) putCached() {
	self := c.o.Self.Name
	for _, n := range c.cached.nodes {
		if n.Name != self {
			c.records.putNode(n)
		}
	}
	for k, ctr := range c.cached.containers {
		if k.Node != self {
			c.records.putContainer(ctr)
		}
	}
	for id, rec := range c.cached.services {
		c.records.putService(id, rec)
	}
	for _, p := range c.cached.published {
		c.records.putPublished(p)
	}
}
