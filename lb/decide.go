package lb

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"shoal/model"
)

// part is what one service asks of the data plane.
type part struct {
	frontends []*Frontend     // by key
	endpoints []partEndpoint  // by address, which each has once
	problems  []model.Problem // of what is left out
}

// partEndpoint is what an address is by one service.
type partEndpoint struct {
	addr netip.Addr
	Endpoint
}

// surroundings is what beside a service itself decides about it. They are of the
// Snapshot in which they last changed ([sameSurroundings]).
type surroundings struct {
	self    model.Node
	alone   bool                    // no other host is in the cluster
	hosts   map[string]*model.Node  // whether one lives does not matter
	holders map[Key]model.ServiceID // who has claimed a published port
}

func surroundingsOf(s *model.Snapshot) *surroundings {
	w := &surroundings{self: s.Self, alone: len(s.Nodes) < 2, hosts: map[string]*model.Node{}, holders: map[Key]model.ServiceID{}}
	for i := range s.Nodes {
		w.hosts[s.Nodes[i].Name] = &s.Nodes[i]
	}
	for _, c := range s.Published {
		w.holders[Key{Protocol: c.Protocol, Port: c.Port}] = c.Service
	}
	return w
}

// decide is what a service asks for on the host self.
func decide(s *model.Service, w *surroundings) *part {
	p := &part{endpoints: make([]partEndpoint, 0, len(s.Tasks))}
	p.frontends = append(p.frontends, published(s, w, p)...)
	p.frontends = append(p.frontends, virtual(s, w.self.Name)...)
	slices.SortFunc(p.frontends, func(a, b *Frontend) int { return a.Key.Compare(b.Key) })
	for _, t := range s.Tasks {
		if !t.Addr.Is4() || t.State == model.Unreached {
			continue
		}
		p.endpoints = append(p.endpoints, partEndpoint{t.Addr, Endpoint{Local: t.Node == w.self.Name, Host: t.Addr == w.self.Addr}})
	}
	p.endpoints = merged(p.endpoints)
	return p
}

// merged has each address once, in order.
func merged(es []partEndpoint) []partEndpoint {
	slices.SortFunc(es, func(a, b partEndpoint) int { return a.addr.Compare(b.addr) })
	n := 0
	for i, e := range es {
		if i > 0 && es[n-1].addr == e.addr {
			es[n-1].Local = es[n-1].Local || e.Local
			continue
		}
		es[n] = e
		n++
	}
	return es[:n]
}

// virtual are the frontends of a service's VIP. UDP stands apart from the other
// ports' TCP, as it must move at once when a task drains, while connections
// may finish.
func virtual(s *model.Service, self string) (all []*Frontend) {
	if !s.VIP.Is4() || s.Spec.Mode != model.ModeVIP {
		return nil
	}
	add := func(proto model.Protocol, port uint16, target func(*model.Task) (uint16, bool)) {
		b := newBuilder(Key{s.VIP, proto, port}, s)
		for _, t := range s.Tasks {
			if port, ok := target(t); ok && t.Addr.Is4() {
				b.add(t, port, t.Node == self)
			}
		}
		if f := b.frontend(); len(f.Backends) > 0 {
			if len(all) > 0 && slices.Equal(all[0].Backends, f.Backends) {
				f.Backends = all[0].Backends // nobody changes them: one is enough
			}
			all = append(all, f)
		}
	}
	unchanged := func(t *model.Task) (uint16, bool) { return 0, t.AllPorts() }
	add(model.TCP, 0, unchanged)
	add(model.UDP, 0, unchanged)
	for _, p := range s.Ports() {
		add(p.Protocol, p.Port, func(t *model.Task) (uint16, bool) { return t.Target(p.Protocol, p.Port) })
	}
	return all
}

// published are the frontends of the ports that a service holds and its tasks
// publish. None of the backends may be live: then the port refuses.
func published(s *model.Service, w *surroundings, p *part) []*Frontend {
	found := map[Key]*builder{}
	for _, t := range s.Tasks {
		here := t.Node == w.self.Name
		host := w.hosts[t.Node]
		// Another host's task is left out where each host answers for its own, and
		// where its address is reached on its host alone: here that may be
		// somebody else's.
		shared := !s.Spec.PublishLocal && host != nil && host.Reached(t.Addr)
		if !here && !shared {
			continue
		}
		for k, pub := range publications(t) {
			if w.holders[k] != s.ID {
				continue
			}
			err := pub.err
			if pub.target != 0 {
				b := found[k]
				if b == nil {
					b = newBuilder(k, s)
					found[k] = b
				}
				b.f.On = append(b.f.On, pub.on...)
				b.add(t, pub.target, here)
				if err == nil && !shared && !s.Spec.PublishLocal && !w.alone {
					err = model.TaskUnreached.Errorf("container %s has the address %s, which other hosts do not reach: they publish %s without it; start it on the network between hosts", t.Name, t.Addr, k)
				}
			}
			if err != nil {
				p.problems = append(p.problems, model.Problem{Node: w.self.Name, Code: model.CodeOf(err, model.PublishUnsupported), Kind: "service", Object: s.ID.String(), Reason: err.Error()})
			}
		}
	}
	var all []*Frontend
	for _, b := range found {
		slices.SortFunc(b.f.On, netip.Addr.Compare)
		b.f.On = slices.Compact(b.f.On)
		if slices.Contains(b.f.On, netip.IPv4Unspecified()) {
			b.f.On = nil
		}
		all = append(all, b.frontend())
	}
	slices.SortFunc(p.problems, func(a, b model.Problem) int { return strings.Compare(a.Reason, b.Reason) })
	return all
}

// publication is what a task says of one port of the mesh.
type publication struct {
	target uint16       // the port of the task; 0: none that could be served
	on     []netip.Addr // addresses of hosts; 0.0.0.0 for every one
	err    error        // what of it is left out
}

// publications are the ports that a task publishes.
func publications(t *model.Task) map[Key]publication {
	pubs := map[Key]publication{}
	for _, pub := range t.Spec.Publish {
		k := Key{Protocol: pub.Protocol, Port: pub.Published}
		ip := pub.IP
		if !ip.IsValid() || ip == netip.IPv6Unspecified() {
			ip = netip.IPv4Unspecified()
		}
		got := pubs[k]
		switch {
		case !ip.Is4():
			got.err = fmt.Errorf("container %s publishes %s on %s: only IPv4 addresses are served so far", t.Name, k, ip)
		case !t.Addr.Is4():
			got.err = fmt.Errorf("container %s has the address %s: only IPv4 is served so far", t.Name, t.Addr)
		case got.target != 0 && pub.Target != got.target:
			// The address is gone where tasks are chosen.
			got.err = fmt.Errorf("container %s publishes %s for its ports %d and %d: %[3]d is served; use one for all addresses", t.Name, k, got.target, pub.Target)
		default:
			got.target = pub.Target
			got.on = append(got.on, ip)
		}
		pubs[k] = got
	}
	return pubs
}

// builder gathers the backends of a frontend.
type builder struct {
	f           Frontend
	preferLocal bool
	most        int // backends there can be
}

func newBuilder(k Key, s *model.Service) *builder {
	scheduler := s.Spec.Scheduler
	if scheduler == "" {
		scheduler = "rr"
	}
	return &builder{
		f:           Frontend{Key: k, Service: s.ID, Scheduler: scheduler, Affinity: wholeSeconds(s.Spec.Affinity)},
		preferLocal: s.Spec.PreferLocal,
		most:        len(s.Tasks),
	}
}

// wholeSeconds rounds up: an affinity of less than a second is one.
func wholeSeconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// add puts a task behind the frontend, reached at a port of its own; 0: the
// packet's. One that this host does not reach is left out.
func (b *builder) add(t *model.Task, port uint16, local bool) {
	if t.State == model.Unreached {
		return
	}
	n := Backend{Addr: netip.AddrPortFrom(t.Addr, port), Local: local}
	if t.InRotation() {
		n.Weight = min(max(t.Weight, 0), MaxWeight)
	}
	if t.State == model.Draining {
		n.Until = t.DrainDeadline()
	}
	if t.State == model.Lost {
		n.Lost, n.Until = true, t.Since.Add(LostGrace)
	}
	// Containers that share an address share the backend: the one that serves
	// longest counts.
	for i, o := range b.f.Backends {
		if o.Addr == n.Addr {
			if n.Weight > o.Weight || o.Weight == 0 && !o.Until.IsZero() && (n.Until.IsZero() || n.Until.After(o.Until)) {
				b.f.Backends[i] = n
			}
			return
		}
	}
	if b.f.Backends == nil { // most of those that are begun have none
		b.f.Backends = make([]Backend, 0, b.most)
	}
	b.f.Backends = append(b.f.Backends, n)
}

// frontend is called when all tasks are there. If local tasks are preferred, the
// others keep what they hold and are given no more while there is a local one.
func (b *builder) frontend() *Frontend {
	f := &b.f
	if b.preferLocal && slices.ContainsFunc(f.Backends, func(b Backend) bool { return b.Local && b.Weight > 0 }) {
		for i := range f.Backends {
			if !f.Backends[i].Local {
				f.Backends[i].Weight = 0
			}
		}
	}
	// A UDP flow never ends by itself: what takes no new ones must lose those it
	// has. Of a published port this host's tasks are named all the same: other hosts
	// that have not heard yet go on sending to them.
	if f.Protocol == model.UDP {
		f.Backends = slices.DeleteFunc(f.Backends, func(b Backend) bool { return b.Weight == 0 && !(b.Local && f.Published()) })
	}
	slices.SortFunc(f.Backends, func(a, b Backend) int { return a.Addr.Compare(b.Addr) })
	return f
}

// equal tells whether nothing differs. It looks at every field, so that a new
// one counts without anybody's remembering it.
func (f *Frontend) equal(o *Frontend) bool { return reflect.DeepEqual(f, o) }

// changed calls visit for each service that is not the same in two Snapshots; one
// of the two is nil where it is new or gone. Where the newer one does not know what
// it changed, all are compared, side by side.
func changed(old, new *model.Snapshot, visit func(old, new *model.Service)) {
	if ids, known := new.ServicesSince(old); known {
		for _, id := range ids {
			was, _ := old.Service(id)
			is, _ := new.Service(id)
			if was == is || was != nil && is != nil && was.Equal(is) {
				continue
			}
			visit(was, is)
		}
		return
	}
	var a []*model.Service
	if old != nil {
		a = old.Services
	}
	b := new.Services
	for len(a) > 0 || len(b) > 0 {
		order := 0
		switch {
		case len(a) == 0:
			order = 1
		case len(b) == 0:
			order = -1
		default:
			order = a[0].ID.Compare(b[0].ID)
		}
		switch {
		case order < 0:
			visit(a[0], nil)
			a = a[1:]
		case order > 0:
			visit(nil, b[0])
			b = b[1:]
		default:
			if !a[0].Equal(b[0]) {
				visit(a[0], b[0])
			}
			a, b = a[1:], b[1:]
		}
	}
}

// sorted are the keys of a map of frontends, in order.
func sorted[V any](m map[Key]V) []Key { return slices.SortedFunc(maps.Keys(m), Key.Compare) }
