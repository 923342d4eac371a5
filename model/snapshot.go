package model

import (
	"cmp"
	"net/netip"
	"slices"
	"sort"
	"time"

	"shoal/internal/cow"
)

// Snapshot is the cluster at one moment, as this host sees it. It is
// immutable: whoever is handed one may keep it, share it and never write to it.
type Snapshot struct {
	Revision   uint64     // grows with every Snapshot of this process
	Self       Node       // this host
	Nodes      []Node     // by name, Self among them
	Services   []*Service // by ID
	Containers Containers
	Networks   []Network   // of this host, by name
	Published  []PortClaim // by protocol, then port

	// Notable are those of Containers that are this host's, or have a problem or a
	// notice.
	Notable []*Container

	// Addrs says whose the addresses of containers are.
	Addrs cow.Map[netip.Addr, AddrUse]

	// Resting are addresses that tasks of this host had until just now, in order.
	// Other hosts may not know yet that they left, and send to whoever has the
	// address next.
	Resting []netip.Addr

	steps []step // up to this Snapshot, which is the last one's; none: nothing is known
}

// Service is a name, its tasks and how they are reached.
type Service struct {
	ID        ServiceID  `json:"id"`
	VIP       netip.Addr `json:"vip,omitzero"` // zero: none yet, or ModeDNSRR
	Spec      Spec       `json:"spec"`         // the newest task's; without tasks only its Mode, ModeVIP
	Tasks     []*Task    `json:"tasks"`        // by node, then container
	IdleSince time.Time  `json:"idleSince,omitzero"`
}

// Service finds a service by its ID.
func (s *Snapshot) Service(id ServiceID) (*Service, bool) {
	i := sort.Search(len(s.Services), func(i int) bool { return s.Services[i].ID.Compare(id) >= 0 })
	if i == len(s.Services) || s.Services[i].ID != id {
		return nil, false
	}
	return s.Services[i], true
}

// AddrUse says whose an address is.
type AddrUse struct {
	Stack   string // of the container that has it; this host's, where several hosts have one
	Users   int32  // containers that have it
	Reached int32  // those of them that this host reaches by it
}

// StackOf tells the stack of the container with that address, and whether
// there is one. Containers of DefaultStack may be unknown.
func (s *Snapshot) StackOf(a netip.Addr) (string, bool) {
	use, ok := s.Addrs.Get(a)
	return use.Stack, ok && use.Reached > 0
}

// HasContainer tells whether a container has that address, reached or not.
func (s *Snapshot) HasContainer(a netip.Addr) bool {
	_, ok := s.Addrs.Get(a)
	return ok
}

// InRotation are the tasks that are given new connections.
func (s *Service) InRotation() []*Task {
	return slices.DeleteFunc(slices.Clone(s.Tasks), func(t *Task) bool { return !t.InRotation() })
}

// Ports are the ports of the service's VIP: those that any of its tasks
// names, by protocol and port. Where tasks name one differently, the newest
// says. Target is the newest task's; each task has its own ([Task.Target]).
func (s *Service) Ports() []Port {
	type key struct {
		p    Protocol
		port uint16
	}
	found := map[key]Port{}
	for _, t := range s.oldestFirst() {
		for _, p := range t.Spec.Ports {
			found[key{p.Protocol, p.Port}] = p
		}
	}
	ports := make([]Port, 0, len(found))
	for _, p := range found {
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	return ports
}

func (s *Service) oldestFirst() []*Task {
	tasks := slices.Clone(s.Tasks)
	slices.SortFunc(tasks, func(a, b *Task) int {
		if b.Newer(a) {
			return -1
		}
		return 1
	})
	return tasks
}

// AllPorts tells whether the task serves every port of the VIP, unchanged.
func (t *Task) AllPorts() bool { return len(t.Spec.Ports) == 0 }

// Target is the task's port behind a port of the VIP, and whether it has one.
func (t *Task) Target(p Protocol, port uint16) (uint16, bool) {
	if t.AllPorts() {
		return port, true
	}
	for _, m := range t.Spec.Ports {
		if m.Protocol == p && m.Port == port {
			return m.Target, true
		}
	}
	return 0, false
}
