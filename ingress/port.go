package ingress

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"shoal/kernel/ipset"
	"shoal/model"
	"shoal/virtual"
)

// port is one port of the routing mesh.
type port struct {
	proto  model.Protocol
	number uint16
}

func (p port) String() string { return fmt.Sprintf("%d/%s", p.number, p.proto) }

func (p port) compare(o port) int {
	return cmp.Or(cmp.Compare(p.proto, o.proto), cmp.Compare(p.number, o.number))
}

// mark is what packets to the port carry in the sandbox, and its virtual
// service has. It is made of the port alone, so that nothing has to be
// remembered; and ports that follow each other spread evenly over the kernel's
// table of services, which is hashed by the low eight bits.
func (p port) mark() uint32 { return uint32(p.proto)<<16 | uint32(p.number) }

func portOf(mark uint32) port { return port{model.Protocol(mark >> 16), uint16(mark)} }

// mapping is one port of the routing mesh as this host should serve it.
type mapping struct {
	port    port
	service model.ServiceID
	addrs   []netip.Addr    // only on these addresses of the host, in order; none: on every one
	virtual virtual.Service // none of its destinations may be live: then the port refuses
	targets []ipset.Entry   // of this host's tasks behind it
}

// mappings are the ports that services hold and their tasks publish, by port,
// and what of them cannot be done.
func mappings(snap *model.Snapshot) (ms []mapping, errs map[object]error) {
	w := newWishes(snap)
	for i := range snap.Services {
		s := &snap.Services[i]
		for j := range s.Tasks {
			w.add(s, &s.Tasks[j])
		}
	}
	for _, m := range w.found {
		m.settle()
		ms = append(ms, *m)
	}
	slices.SortFunc(ms, func(a, b mapping) int { return a.port.compare(b.port) })
	return ms, w.errs
}

// wishes gather what tasks publish.
type wishes struct {
	self    string
	hosts   map[string]*model.Node
	holders map[port]model.ServiceID
	found   map[port]*mapping
	errs    map[object]error
}

func newWishes(snap *model.Snapshot) *wishes {
	w := &wishes{
		self: snap.Self.Name, hosts: map[string]*model.Node{}, holders: holders(snap),
		found: map[port]*mapping{}, errs: map[object]error{},
	}
	for i := range snap.Nodes {
		w.hosts[snap.Nodes[i].Name] = &snap.Nodes[i]
	}
	return w
}

// holders are the services that have claimed a port.
func holders(snap *model.Snapshot) map[port]model.ServiceID {
	held := make(map[port]model.ServiceID, len(snap.Published))
	for _, c := range snap.Published {
		held[port{c.Protocol, c.Port}] = c.Service
	}
	return held
}

// add takes in a task, for the ports that its service holds. Another host's
// is none of ours where each host answers for its own, nor if it has an address
// that is reached on its host alone: here that may be somebody else's.
func (w *wishes) add(s *model.Service, t *model.Task) {
	here := t.Node == w.self
	host := w.hosts[t.Node]
	shared := !s.Spec.PublishLocal && host != nil && host.Reached(t.Addr)
	if !here && !shared {
		return
	}
	for p, pub := range published(t) {
		if w.holders[p] != s.ID {
			continue
		}
		err := pub.err
		if pub.target != 0 {
			w.mapping(s, p).add(t, pub, here)
			if err == nil && !shared && !s.Spec.PublishLocal && len(w.hosts) > 1 {
				err = fmt.Errorf("container %s has the address %s, which other hosts do not reach: they publish %s without it; start it on the network between hosts", t.Name, t.Addr, p)
			}
		}
		if err != nil {
			w.errs[object{kind: "service", name: s.ID.String(), port: p}] = err
		}
	}
}

// mapping is that of a port, made for its service if there is none yet.
func (w *wishes) mapping(s *model.Service, p port) *mapping {
	m := w.found[p]
	if m == nil {
		m = &mapping{port: p, service: s.ID, virtual: virtual.New(p.proto, p.number, &s.Spec)}
		m.virtual.Mark = p.mark()
		w.found[p] = m
	}
	return m
}

func (m *mapping) add(t *model.Task, pub publication, here bool) {
	m.addrs = append(m.addrs, pub.addrs...)
	m.virtual.Add(t, pub.target, here)
	if here {
		m.targets = append(m.targets, ipset.AddrPort(t.Addr, uint8(m.port.proto), pub.target))
	}
}

// settle is called when all tasks are there.
func (m *mapping) settle() {
	m.virtual.Settle()
	slices.SortFunc(m.addrs, netip.Addr.Compare)
	m.addrs = slices.Compact(m.addrs)
	if slices.Contains(m.addrs, netip.IPv4Unspecified()) {
		m.addrs = nil
	}
}

// publication is what a task says of one port of the mesh.
type publication struct {
	target uint16       // the port of the task; 0: none that could be served
	addrs  []netip.Addr // of hosts, where it is published; 0.0.0.0 for every one
	err    error        // what of it is left out
}

// published are the ports that a task publishes.
func published(t *model.Task) map[port]publication {
	pubs := map[port]publication{}
	for _, pub := range t.Spec.Publish {
		p := port{pub.Protocol, pub.Published}
		ip := pub.IP
		if !ip.IsValid() || ip == netip.IPv6Unspecified() {
			ip = netip.IPv4Unspecified()
		}
		got := pubs[p]
		switch {
		case !ip.Is4():
			got.err = fmt.Errorf("container %s publishes %s on %s: only IPv4 addresses are served so far", t.Name, p, ip)
		case !t.Addr.Is4():
			got.err = fmt.Errorf("container %s has the address %s: only IPv4 is served so far", t.Name, t.Addr)
		case got.target != 0 && pub.Target != got.target:
			// The address is gone where tasks are chosen.
			got.err = fmt.Errorf("container %s publishes %s for its ports %d and %d: %[3]d is served; use one for all addresses", t.Name, p, got.target, pub.Target)
		default:
			got.target = pub.Target
			got.addrs = append(got.addrs, ip)
		}
		pubs[p] = got
	}
	return pubs
}
