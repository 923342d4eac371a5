package catalog

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// ServiceRecord is what is remembered of a service apart from its tasks.
type ServiceRecord struct {
	VIP       netip.Addr `json:"vip"`
	Created   time.Time  `json:"created"`
	IdleSince time.Time  `json:"idleSince,omitzero"` // since when it has no task; zero while it has
}

// records is the content of etcd, decoded, with this host's containers in
// place of what etcd still says of them.
type records struct {
	Nodes      map[string]Node                 // by name
	Containers map[string]map[string]Container // by node, by ID
	Services   map[ServiceID]ServiceRecord
}

// build makes a Snapshot of the records. It is the only place where tasks
// become services. It keeps no reference to the maps.
func build(revision uint64, self Node, r records, networks []Network) *Snapshot {
	s := &Snapshot{
		Revision: revision,
		Self:     self,
		Networks: slices.Clone(networks),
		services: map[ServiceID]int{},
		askers:   map[netip.Addr]string{},
	}
	for name, n := range r.Nodes {
		if name != self.Name {
			s.Nodes = append(s.Nodes, n)
		}
	}
	s.Nodes = append(s.Nodes, self)
	slices.SortFunc(s.Nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })

	for _, byID := range r.Containers {
		for _, c := range byID {
			s.Containers = append(s.Containers, c)
		}
	}
	slices.SortFunc(s.Containers, func(a, b Container) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID, b.ID))
	})

	// The containers are in order, and so are the tasks of each service.
	tasks := map[ServiceID][]Task{}
	for _, c := range s.Containers {
		for _, a := range c.Addrs {
			s.askers[a] = c.Stack
		}
		for _, t := range c.Tasks {
			tasks[t.Service] = append(tasks[t.Service], t)
		}
	}
	for id, rec := range r.Services {
		if _, live := tasks[id]; !live {
			s.Services = append(s.Services, Service{ID: id, VIP: rec.VIP, IdleSince: rec.IdleSince,
				Spec: Spec{Mode: ModeVIP}})
		}
	}
	for id, ts := range tasks {
		svc := Service{ID: id, Tasks: ts}
		newest := &ts[0]
		for i := range ts {
			if ts[i].newer(newest) {
				newest = &ts[i]
			}
		}
		svc.Spec = newest.Spec
		if svc.Spec.Mode == ModeVIP {
			svc.VIP = r.Services[id].VIP
		}
		s.Services = append(s.Services, svc)
	}
	slices.SortFunc(s.Services, func(a, b Service) int { return a.ID.Compare(b.ID) })
	for i := range s.Services {
		s.services[s.Services[i].ID] = i
	}
	return s
}

// NewSnapshot makes a Snapshot by hand: of this host, its networks, containers
// on any host, and the VIPs of services. It is for tests and measurements of
// the packages that take Snapshots.
func NewSnapshot(revision uint64, self Node, networks []Network, containers []Container, vips map[ServiceID]netip.Addr) *Snapshot {
	r := records{Containers: map[string]map[string]Container{}, Services: map[ServiceID]ServiceRecord{}}
	for _, c := range containers {
		if r.Containers[c.Node] == nil {
			r.Containers[c.Node] = map[string]Container{}
		}
		r.Containers[c.Node][c.ID] = c
	}
	for id, vip := range vips {
		r.Services[id] = ServiceRecord{VIP: vip}
	}
	return build(revision, self, r, networks)
}
