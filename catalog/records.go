package catalog

import (
	"cmp"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unique"

	"shoal/model"
)

// ServiceRecord is what is remembered of a service apart from its tasks.
type ServiceRecord struct {
	VIP       netip.Addr `json:"vip"`
	Created   time.Time  `json:"created"`
	IdleSince time.Time  `json:"idleSince,omitzero"` // since when it has no task; zero while it has

	mod int64 // etcd's revision of the record, to write it only as it was read
}

// records is the content of etcd, decoded, with this host's containers as the
// engine tells them. What is put is never changed afterwards. It notes
// what changed since a Snapshot was built, so that only that is built anew.
type records struct {
	self       string                                 // this host's name
	nodes      map[string]model.Node                  // by name, this host among them
	containers map[string]map[string]*model.Container // by node, by ID
	services   map[model.ServiceID]ServiceRecord
	published  map[port]model.ServiceID
	networks   []model.Network                        // of this host
	resting    []netip.Addr                           // likewise
	tasks      map[model.ServiceID][]*model.Container // those with a task of the service, in no order
	dead       map[string]time.Time                   // hosts that are considered dead, by name -> since when
	subnets    model.Pools                            // see Options.SubnetPool
	hosts      []model.Node                           // as this host sees them, by name; up to date after takeChanges

	idleUnsure   map[model.ServiceID]struct{}  // services whose record may be wrong about their idleness
	leftToOthers map[model.ServiceID]time.Time // of them, those that another host is to write -> since when

	changes  changes // what a Snapshot does not hold yet
	uncached changes // what the cache on disk does not hold yet: of the records, however they are seen
}

// changes is what changed since somebody looked.
type changes struct {
	nodes      bool
	networks   bool
	resting    bool
	published  bool
	addrs      bool // an address came, left, or changed its stack
	reach      bool // a host with containers is reached otherwise than before
	containers map[model.ContainerKey]struct{}
	services   map[model.ServiceID]struct{}
}

func newRecords(self string) *records {
	return &records{
		self:       self,
		nodes:      map[string]model.Node{},
		containers: map[string]map[string]*model.Container{},
		services:   map[model.ServiceID]ServiceRecord{},
		published:  map[port]model.ServiceID{},
		tasks:      map[model.ServiceID][]*model.Container{},
		dead:       map[string]time.Time{},
		changes:    newChanges(),
		uncached:   newChanges(),
		idleUnsure: map[model.ServiceID]struct{}{},
	}
}

func newChanges() changes {
	return changes{containers: map[model.ContainerKey]struct{}{}, services: map[model.ServiceID]struct{}{}}
}

// takeChanges returns what changed since it was last called.
func (r *records) takeChanges() changes {
	if r.changes.nodes {
		r.refreshHosts()
	}
	ch := r.changes
	r.changes = newChanges()
	return ch
}

func (r *records) putNode(n model.Node) {
	if r.nodes[n.Name] != n {
		r.nodes[n.Name] = n
		r.changes.nodes, r.uncached.nodes = true, true
	}
}

func (r *records) deleteNode(name string) {
	if _, ok := r.nodes[name]; ok {
		delete(r.nodes, name)
		r.changes.nodes, r.uncached.nodes = true, true
	}
}

// refreshHosts makes hosts of the nodes. Where one has another address or subnet,
// its tasks may be seen otherwise: what one host has can cost another its own.
func (r *records) refreshHosts() {
	was := r.hosts
	r.hosts = slices.SortedFunc(maps.Values(r.nodes), func(a, b model.Node) int { return strings.Compare(a.Name, b.Name) })
	for i := range r.hosts {
		_, dead := r.dead[r.hosts[i].Name]
		r.hosts[i].Alive = !dead
	}
	model.CheckSubnets(r.hosts, r.self, r.subnets)
	for _, n := range r.hosts {
		if o := find(was, n.Name); o == nil || o.Addr != n.Addr || o.Subnet != n.Subnet {
			r.markReach(n.Name)
		}
	}
	for _, n := range was {
		if find(r.hosts, n.Name) == nil {
			r.markReach(n.Name)
		}
	}
}

// find finds a node among some that are in order of their names; nil: it is not
// there.
func find(nodes []model.Node, name string) *model.Node {
	i, ok := slices.BinarySearchFunc(nodes, name, func(n model.Node, name string) int { return strings.Compare(n.Name, name) })
	if !ok {
		return nil
	}
	return &nodes[i]
}

// setAlive notes which hosts are dead: those whose value is false.
func (r *records) setAlive(alive map[string]bool, now time.Time) {
	for name := range r.dead {
		if up, told := alive[name]; up || !told {
			delete(r.dead, name)
			r.markNode(name)
		}
	}
	for name, up := range alive {
		if _, known := r.dead[name]; !up && !known {
			r.dead[name] = now
			r.markNode(name)
		}
	}
}

// markNode marks all that is seen otherwise when a host dies or comes back, or has
// another address or subnet.
func (r *records) markNode(node string) {
	r.changes.nodes = true
	for id, c := range r.containers[node] {
		if len(c.Tasks) > 0 {
			r.changes.containers[model.ContainerKey{Node: node, ID: id}] = struct{}{}
		}
		for i := range c.Tasks {
			r.changes.services[c.Tasks[i].Service] = struct{}{}
		}
	}
}

// markReach is markNode for a host that is reached otherwise.
func (r *records) markReach(node string) {
	r.markNode(node)
	r.changes.reach = r.changes.reach || len(r.containers[node]) > 0
}

// view is a task as this host sees it: itself, or another one.
func (r *records) view(t *model.Task) *model.Task {
	state, since := model.Unreached, t.Since
	if died, dead := r.dead[t.Node]; dead {
		state, since = model.Lost, died
	} else if r.reached(t.Node, t.Addr) {
		return t
	}
	seen := *t // here, so that the many that are as they are cost no memory
	seen.State, seen.Since = state, since
	return &seen
}

// reached tells whether this host reaches an address of another's containers.
// Of a host that is not known yet it does.
func (r *records) reached(node string, a netip.Addr) bool {
	n := find(r.hosts, node)
	return node == r.self || n == nil || n.Reached(a)
}

// viewContainer is a container with its tasks as this host sees them.
func (r *records) viewContainer(c *model.Container) *model.Container {
	var seen *model.Container
	for i := range c.Tasks {
		t := r.view(&c.Tasks[i])
		if t == &c.Tasks[i] {
			continue
		}
		if seen == nil {
			copied := *c
			copied.Tasks = slices.Clone(c.Tasks)
			seen = &copied
		}
		seen.Tasks[i] = *t
	}
	return cmp.Or(seen, c)
}

// putContainer puts a copy of a container, and tells whether it was not there, or not like this.
func (r *records) putContainer(ctr model.Container) bool {
	c := r.compact(&ctr)
	old := r.containers[c.Node][c.ID]
	if c.Node != r.self {
		noteDrains(c, old, time.Now().UTC())
	}
	if old != nil {
		if old.Equal(c) {
			return false
		}
		r.unlink(old)
	} else if r.containers[c.Node] == nil {
		r.containers[c.Node] = map[string]*model.Container{}
	}
	r.containers[c.Node][c.ID] = c
	r.changes.containers[model.ContainerKey{Node: c.Node, ID: c.ID}] = struct{}{}
	r.uncached.containers[model.ContainerKey{Node: c.Node, ID: c.ID}] = struct{}{}
	if old == nil || old.Stack != c.Stack || !slices.Equal(old.Addrs, c.Addrs) {
		r.changes.addrs = true
	}
	for i := range c.Tasks {
		id := c.Tasks[i].Service
		if !slices.Contains(r.tasks[id], c) {
			r.tasks[id] = append(r.tasks[id], c)
		}
		r.changes.services[id] = struct{}{}
		r.idleUnsure[id] = struct{}{}
	}
	return true
}

// compact copies a container into as few pieces of memory as there can be: one, and one of its strings, where it has one task
// and one address, as most have. It uses the strings and Specs that others have. A hundred thousand records that are kept as
// they were read would lie between what else reading left, and would hold that memory.
func (r *records) compact(ctr *model.Container) *model.Container {
	room := new(struct {
		container model.Container
		tasks     [1]model.Task
		addrs     [1]netip.Addr
	})
	c := &room.container
	*c = *ctr
	c.Tasks = append(room.tasks[:0:1], ctr.Tasks...)
	c.Addrs = append(room.addrs[:0:1], ctr.Addrs...)
	both := c.ID + c.Name
	c.ID, c.Name = both[:len(c.ID)], both[len(c.ID):]
	intern := func(s *string) { *s = unique.Make(*s).Value() }
	intern(&c.Node)
	intern(&c.Stack)
	for i := range c.Tasks {
		t := &c.Tasks[i]
		t.Node, t.Container = c.Node, c.ID
		if t.Name == c.Name {
			t.Name = c.Name
		}
		t.State = unique.Make(t.State).Value()
		intern(&t.Service.Stack)
		intern(&t.Service.Name)
		t.Spec = r.specLike(t)
	}
	return c
}

// specLike is the Spec of another task of the service if that is the same, else the task's own.
func (r *records) specLike(t *model.Task) *model.Spec {
	if t.Spec == nil { // the record lacks it
		return &model.Spec{}
	}
	if others := r.tasks[t.Service]; len(others) > 0 {
		for i := range others[0].Tasks {
			if o := &others[0].Tasks[i]; o.Service == t.Service && o.Spec.Equal(t.Spec) {
				return o.Spec
			}
		}
	}
	return t.Spec
}

// noteDrains notes when this host came to know that tasks of another one drain, if
// it did not know: that host's clock may be another.
func noteDrains(ctr, old *model.Container, now time.Time) {
	for i := range ctr.Tasks {
		t := &ctr.Tasks[i]
		if t.State != model.Draining {
			continue
		}
		t.Seen = now
		if old == nil {
			continue
		}
		for _, was := range old.Tasks {
			if was.Service == t.Service && was.State == model.Draining && was.Since.Equal(t.Since) {
				t.Seen = was.Seen
			}
		}
	}
}

func (r *records) deleteContainer(node, id string) {
	old := r.containers[node][id]
	if old == nil {
		return
	}
	r.unlink(old)
	delete(r.containers[node], id)
	if len(r.containers[node]) == 0 {
		delete(r.containers, node)
	}
	r.changes.containers[model.ContainerKey{Node: node, ID: id}] = struct{}{}
	r.uncached.containers[model.ContainerKey{Node: node, ID: id}] = struct{}{}
	r.changes.addrs = true
}

// unlink takes a container from the services it has tasks of.
func (r *records) unlink(c *model.Container) {
	for i := range c.Tasks {
		id := c.Tasks[i].Service
		rest := slices.DeleteFunc(r.tasks[id], func(o *model.Container) bool { return o == c })
		if len(rest) > 0 {
			r.tasks[id] = rest
		} else {
			delete(r.tasks, id)
		}
		r.changes.services[id] = struct{}{}
		r.idleUnsure[id] = struct{}{}
	}
}

func (r *records) putService(id model.ServiceID, rec ServiceRecord) {
	r.services[id] = rec
	r.idleUnsure[id] = struct{}{}
	r.changes.services[id] = struct{}{}
	r.uncached.services[id] = struct{}{}
}

func (r *records) deleteService(id model.ServiceID) {
	delete(r.services, id)
	r.changes.services[id] = struct{}{}
	r.uncached.services[id] = struct{}{}
}

func (r *records) putPublished(c model.PortClaim) {
	p := port{c.Protocol, c.Port}
	if holder, held := r.published[p]; !held || holder != c.Service {
		r.published[p] = c.Service
		r.changes.published, r.uncached.published = true, true
	}
}

func (r *records) deletePublished(p port) {
	if _, held := r.published[p]; held {
		delete(r.published, p)
		r.changes.published, r.uncached.published = true, true
	}
}

// claims are the published ports, by protocol and port.
func (r *records) claims() []model.PortClaim {
	claims := make([]model.PortClaim, 0, len(r.published))
	for p, id := range r.published {
		claims = append(claims, model.PortClaim{Protocol: p.protocol, Port: p.number, Service: id})
	}
	slices.SortFunc(claims, func(a, b model.PortClaim) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	return claims
}

func (r *records) setNetworks(n []model.Network) {
	if !model.EqualNetworks(r.networks, n) {
		r.networks = slices.Clone(n)
		r.changes.networks, r.uncached.networks = true, true
	}
}

func (r *records) setResting(addrs []netip.Addr) {
	if !slices.Equal(r.resting, addrs) {
		r.resting = addrs
		r.changes.resting = true
	}
}

// idleDrift are the services whose record says of their idleness something
// else than their tasks do, with the record as it should be: those that this host
// is to write. Every host sees a service's last task leave; one of them writes it,
// and another if it did not within idlePatience. More tells when to look again for
// the sake of such ones; 0: there are none.
func (r *records) idleDrift(now time.Time) (drift map[model.ServiceID]ServiceRecord, more time.Duration) {
	drift = map[model.ServiceID]ServiceRecord{}
	left := map[model.ServiceID]time.Time{}
	for id := range r.idleUnsure {
		rec, there := r.services[id]
		live := len(r.tasks[id]) > 0
		switch {
		case there && live && !rec.IdleSince.IsZero():
			rec.IdleSince = time.Time{}
		case there && !live && rec.IdleSince.IsZero():
			rec.IdleSince = now
		default:
			delete(r.idleUnsure, id)
			continue
		}
		if r.idleWriter(id) != r.self {
			since, seen := r.leftToOthers[id]
			if !seen {
				since = now
			}
			if wait := idlePatience - now.Sub(since); wait > 0 {
				left[id] = since
				if more == 0 || wait < more {
					more = wait
				}
				continue
			}
		}
		drift[id] = rec
	}
	r.leftToOthers = left
	return drift, more
}

// idlePatience is how long a host leaves it to another to write that a service has
// no task any more, or has some again.
const idlePatience = 5 * time.Second

// idleWriter is the host that writes it: one of the live ones, by a hash, another
// for each service.
func (r *records) idleWriter(id model.ServiceID) (writer string) {
	weight := func(name string) uint64 {
		h := fnv.New64a()
		h.Write([]byte(name + "/" + id.String()))
		sum := h.Sum64()
		sum = (sum ^ sum>>33) * 0xff51afd7ed558ccd // names are much alike, and so are their hashes
		return sum ^ sum>>33
	}
	writer = r.self
	most := weight(writer)
	for name := range r.nodes {
		if _, dead := r.dead[name]; dead {
			continue
		}
		if w := weight(name); w > most || w == most && name < writer {
			writer, most = name, w
		}
	}
	return writer
}
