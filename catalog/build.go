package catalog

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"shoal/internal/cow"
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
	keys := slices.SortedFunc(maps.Keys(ch.containers), model.ContainerKey.Compare)
	if len(keys) > 0 {
		var differ bool
		s.Containers, differ = prev.Containers.With(keys, func(k model.ContainerKey) *model.Container {
			if c := r.containers[k.Node][k.ID]; c != nil {
				return r.viewContainer(c)
			}
			return nil
		})
		changed = changed || differ
		if differ {
			s.Notable, _ = model.Merge(prev.Notable, keys,
				func(c *model.Container, k model.ContainerKey) int {
					return cmp.Or(strings.Compare(c.Node, k.Node), strings.Compare(c.ID, k.ID))
				},
				func(k model.ContainerKey) *model.Container {
					if c := s.Containers.Find(k.Node, k.ID); c != nil && r.notable(c) {
						return c
					}
					return nil
				}, func(a, b *model.Container) bool { return a == b })
		}
	}
	ids := slices.SortedFunc(maps.Keys(ch.services), model.ServiceID.Compare)
	if len(ids) > 0 {
		var differ bool
		s.Services, differ = model.Merge(prev.Services, ids,
			func(s *model.Service, id model.ServiceID) int { return s.ID.Compare(id) },
			r.service, (*model.Service).Equal)
		changed = changed || differ
	}
	if !changed {
		return prev
	}
	if ch.addrs || ch.reach {
		s.Addrs = r.addrs(prev, &s, keys, ch.reach)
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
	s := &model.Service{ID: id, Tasks: make([]*model.Task, 0, len(containers))}
	for _, c := range containers {
		for i := range c.Tasks {
			if c.Tasks[i].Service == id {
				s.Tasks = append(s.Tasks, r.view(&c.Tasks[i]))
			}
		}
	}
	newest := s.Tasks[0]
	for _, t := range s.Tasks {
		if t.Newer(newest) {
			newest = t
		}
	}
	s.Spec = *newest.Spec
	if s.Spec.Mode == model.ModeVIP {
		s.VIP = rec.VIP
	}
	return s
}

// notable tells whether a container is one of [model.Snapshot.Notable].
func (r *records) notable(c *model.Container) bool {
	return c.Node == r.self || c.Problem != "" || len(c.Notices) > 0
}

// addrs are those of the Snapshot s, which was made of prev by changing these
// containers. An address that several have is looked for among all, and so
// is everything where hosts are reached otherwise than before.
func (r *records) addrs(prev, s *model.Snapshot, keys []model.ContainerKey, all bool) cow.Map[netip.Addr, model.AddrUse] {
	e := prev.Addrs.Edit()
	for _, k := range keys {
		was, is := prev.Containers.Find(k.Node, k.ID), s.Containers.Find(k.Node, k.ID)
		if all || was == is {
			continue
		}
		for _, a := range addrsOf(was) {
			use, _ := e.Get(a)
			all = all || use.Users != 1
			e.Delete(a)
		}
		for _, a := range addrsOf(is) {
			_, taken := e.Get(a)
			all = all || taken
			r.addUse(e, is, a)
		}
	}
	if !all {
		return e.Map()
	}
	e = cow.Map[netip.Addr, model.AddrUse]{}.Edit()
	for c := range s.Containers.All() {
		for _, a := range c.Addrs {
			r.addUse(e, c, a)
		}
	}
	return e.Map()
}

func addrsOf(c *model.Container) []netip.Addr {
	if c == nil {
		return nil
	}
	return c.Addrs
}

// addUse notes that a container has an address. One that only its own host reaches
// may be on several: here it is this host's container.
func (r *records) addUse(e *cow.Editor[netip.Addr, model.AddrUse], c *model.Container, a netip.Addr) {
	use, _ := e.Get(a)
	use.Users++
	if r.reached(c.Node, a) {
		use.Reached++
		use.Stack = c.Stack
	}
	e.Set(a, use)
}
