package traffic

import (
	"net/netip"

	"shoal/kernel/conntrack"
	"shoal/model"
)

// portKey is a port of the routing mesh.
type portKey struct {
	protocol model.Protocol
	port     uint16
}

// book knows whose addresses and ports are which, by a Snapshot.
type book struct {
	self      string
	vips      map[netip.Addr]model.ServiceID
	tasks     map[netip.Addr][]*model.Task
	published map[portKey]model.ServiceID
	own       map[netip.Addr]Client // of this host's containers
	elsewhere map[netip.Addr]Client // of other hosts, and their containers
}

func newBook(s *model.Snapshot) *book {
	b := &book{
		self: s.Self.Name,
		vips: map[netip.Addr]model.ServiceID{}, tasks: map[netip.Addr][]*model.Task{}, published: map[portKey]model.ServiceID{},
		own: map[netip.Addr]Client{}, elsewhere: map[netip.Addr]Client{},
	}
	for _, svc := range s.Services {
		if svc.VIP.IsValid() {
			b.vips[svc.VIP] = svc.ID
		}
		for _, t := range svc.Tasks {
			b.tasks[t.Addr] = append(b.tasks[t.Addr], t)
		}
	}
	for _, p := range s.Published {
		b.published[portKey{p.Protocol, p.Port}] = p.Service
	}
	for c := range s.Containers.All() {
		who := Client{KindContainer, c.Name}
		if len(c.Tasks) > 0 {
			who = Client{KindService, c.Tasks[0].Service.String()}
		}
		book := b.own
		if c.Node != s.Self.Name {
			book = b.elsewhere
		}
		for _, a := range c.Addrs {
			book[a] = who
		}
	}
	for _, n := range s.Nodes { // a container on a host's network has the host's address, and is not told from it
		if n.Name != s.Self.Name {
			b.elsewhere[n.Addr] = Client{KindHost, n.Name}
			delete(b.own, n.Addr)
		}
	}
	return b
}

// pair tells who talks to which service by a connection; false: nobody to any, or
// it is another host's to count. Local are this host's own addresses.
func (b *book) pair(e conntrack.Entry, local map[netip.Addr]bool) (Pair, bool) {
	from, to := e.Client.Addr(), e.Dest
	if id, ok := b.published[portKey{e.Protocol, to.Port()}]; ok && local[to.Addr()] {
		return Pair{b.anyone(from, local), id}, true
	}
	client, ours := b.ours(from, local)
	if !ours {
		return Pair{}, false
	}
	if id, ok := b.vips[to.Addr()]; ok {
		return Pair{client, id}, true
	}
	if id, ok := b.serviceAt(e.Protocol, to); ok {
		return Pair{client, id}, true
	}
	return Pair{}, false
}

// ours is a client of this host.
func (b *book) ours(a netip.Addr, local map[netip.Addr]bool) (Client, bool) {
	if local[a] {
		return Client{KindHost, b.self}, true
	}
	c, ok := b.own[a]
	return c, ok
}

// anyone is any client.
func (b *book) anyone(a netip.Addr, local map[netip.Addr]bool) Client {
	if c, ok := b.ours(a, local); ok {
		return c
	}
	if c, ok := b.elsewhere[a]; ok {
		return c
	}
	return Client{Kind: KindOutside}
}

// serviceAt is the service of the task with an address. A container may be a task
// of several: the one whose port it is.
func (b *book) serviceAt(p model.Protocol, at netip.AddrPort) (model.ServiceID, bool) {
	tasks := b.tasks[at.Addr()]
	for _, t := range tasks {
		for _, port := range t.Spec.Ports {
			if port.Protocol == p && port.Target == at.Port() {
				return t.Service, true
			}
		}
	}
	if len(tasks) == 0 {
		return model.ServiceID{}, false
	}
	return tasks[0].Service, true
}
