package catalog

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"shoal/model"
)

// build makes the Snapshot after prev, of the records and what changed in them
// since prev was built: the rest it shares with prev, so that one change among
// ten thousand services costs a copy of two slices of pointers. It returns prev itself if
// the changes changed nothing. It is the only place where tasks become
// services.
func build(prev *model.Snapshot, self model.Node, r *records, ch changes) *model.Snapshot {
	s := *prev
	s.Revision++
	s.Self = self
	changed := prev.Revision == 0 || prev.Self != self

	if ch.nodes || changed {
		s.Nodes = r.hosts
		changed = changed || !slices.Equal(s.Nodes, prev.Nodes)
	}
	if ch.networks {
		s.Networks = r.networks
		changed = changed || !model.EqualNetworks(s.Networks, prev.Networks)
	}
	if ch.resting {
		s.Resting = r.resting
		changed = changed || !slices.Equal(s.Resting, prev.Resting)
	}
	if ch.published {
		s.Published = r.claims()
		changed = changed || !slices.Equal(s.Published, prev.Published)
	}
	if len(ch.containers) > 0 {
		keys := slices.SortedFunc(maps.Keys(ch.containers), containerKey.compare)
		var differ bool
		s.Containers, differ = merge(prev.Containers, keys,
			func(c *model.Container, k containerKey) int {
				return cmp.Or(strings.Compare(c.Node, k.node), strings.Compare(c.ID, k.id))
			},
			func(k containerKey) *model.Container {
				if c := r.containers[k.node][k.id]; c != nil {
					return r.viewContainer(c)
				}
				return nil
			}, (*model.Container).Equal)
		changed = changed || differ
	}
	ids := slices.SortedFunc(maps.Keys(ch.services), model.ServiceID.Compare)
	if len(ids) > 0 {
		var differ bool
		s.Services, differ = merge(prev.Services, ids,
			func(s *model.Service, id model.ServiceID) int { return s.ID.Compare(id) },
			r.service, (*model.Service).Equal)
		changed = changed || differ
	}
	if !changed {
		return prev
	}
	if ch.addrs || ch.nodes || prev.Stacks == nil {
		s.Stacks = r.stacksByAddr(s.Containers)
	}
	s.Follow(prev, ids)
	return &s
}

// service makes a service of its tasks and what is remembered of it, if there
// is either.
func (r *records) service(id model.ServiceID) *model.Service {
	rec, remembered := r.services[id]
	containers := r.tasks[id]
	switch {
	case len(containers) == 0 && !remembered:
		return nil
	case len(containers) == 0:
		return &model.Service{ID: id, VIP: rec.VIP, IdleSince: rec.IdleSince, Spec: model.Spec{Mode: model.ModeVIP}}
	}
	slices.SortFunc(containers, func(a, b *model.Container) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(a.ID, b.ID))
	})
	s := &model.Service{ID: id, Tasks: make([]model.Task, 0, len(containers))}
	for _, c := range containers {
		for _, t := range c.Tasks {
			if t.Service == id {
				s.Tasks = append(s.Tasks, r.view(t))
			}
		}
	}
	newest := &s.Tasks[0]
	for i := range s.Tasks {
		if s.Tasks[i].Newer(newest) {
			newest = &s.Tasks[i]
		}
	}
	s.Spec = newest.Spec
	if s.Spec.Mode == model.ModeVIP {
		s.VIP = rec.VIP
	}
	return s
}

// stacksByAddr maps the addresses of containers to their stacks. An address that only
// its own host reaches may be on several: here it is this host's container.
func (r *records) stacksByAddr(containers []*model.Container) map[netip.Addr]string {
	m := make(map[netip.Addr]string, len(containers))
	for i := range containers {
		for _, a := range containers[i].Addrs {
			if r.reached(containers[i].Node, a) {
				m[a] = containers[i].Stack
			}
		}
	}
	return m
}

// merge makes a new sorted slice of a sorted one, in which the elements of the
// given keys, sorted too, are what value says they are now, or not there (nil). What
// is equal stays the one it was. It tells whether the two slices differ.
func merge[T, K any](old []*T, keys []K, compare func(*T, K) int, value func(K) *T, equal func(a, b *T) bool) ([]*T, bool) {
	merged := make([]*T, 0, len(old)+len(keys))
	differ := false
	for _, k := range keys {
		i := sort.Search(len(old), func(i int) bool { return compare(old[i], k) >= 0 })
		found := i < len(old) && compare(old[i], k) == 0
		merged = append(merged, old[:i]...)
		old = old[i:]
		v := value(k)
		if found {
			if v != nil && equal(old[0], v) {
				v = old[0]
			}
			differ = differ || v != old[0]
			old = old[1:]
		}
		if v != nil {
			differ = differ || !found
			merged = append(merged, v)
		}
	}
	return append(merged, old...), differ
}

// NewSnapshot makes a Snapshot by hand: of this host, its networks, containers
// on any host, and the VIPs of services. It is for tests and measurements of
// the packages that take Snapshots.
func NewSnapshot(revision uint64, self model.Node, networks []model.Network, containers []model.Container, vips map[model.ServiceID]netip.Addr) *model.Snapshot {
	r := newRecords(self.Name)
	r.putNode(self)
	r.setNetworks(networks)
	for i := range containers {
		r.putContainer(containers[i])
	}
	for id, vip := range vips {
		r.putService(id, ServiceRecord{VIP: vip})
	}
	s := build(new(model.Snapshot), self, r, r.takeChanges())
	s.Revision = revision
	return s
}
