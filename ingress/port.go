package ingress

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"shoal/catalog"
	"shoal/kernel/ipset"
	"shoal/kernel/ipvs"
)

// port is one port of the routing mesh.
type port struct {
	proto  catalog.Protocol
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

func portOf(mark uint32) port { return port{catalog.Protocol(mark >> 16), uint16(mark)} }

// mapping is one port of the routing mesh as this host should serve it.
type mapping struct {
	port    port
	service catalog.ServiceID
	addrs   []netip.Addr  // only on these addresses of the host, in order; none: on every one
	virtual virtual       // none of its destinations may be live: then the port refuses
	targets []ipset.Entry // of this host's tasks behind it
}

// mappings are the ports that services hold and their tasks publish, by port,
// and what of them cannot be done.
func mappings(snap *catalog.Snapshot) (ms []mapping, errs map[object]error) {
	errs = map[object]error{}
	dead := map[string]bool{}
	for _, n := range snap.Nodes {
		dead[n.Name] = !n.Alive && n.Name != snap.Self.Name
	}
	for _, c := range snap.Published {
		s, ok := snap.Service(c.Service)
		if !ok {
			continue
		}
		if m, ok := newMapping(s, port{c.Protocol, c.Port}, snap.Self.Name, dead, errs); ok {
			ms = append(ms, m)
		}
	}
	slices.SortFunc(ms, func(a, b mapping) int { return a.port.compare(b.port) })
	return ms, errs
}

// newMapping is a service's port; false if this host does not serve it: no
// task publishes it, or only tasks of other hosts where each host answers for
// its own.
func newMapping(s *catalog.Service, p port, self string, dead map[string]bool, errs map[object]error) (m mapping, ok bool) {
	m = mapping{port: p, service: s.ID}
	m.virtual.Service = ipvs.Service{Mark: p.mark(), Scheduler: cmp.Or(s.Spec.Scheduler, "rr"), Affinity: seconds(s.Spec.Affinity)}
	everywhere := false
	for i := range s.Tasks {
		t := &s.Tasks[i]
		if s.Spec.PublishLocal && t.Node != self {
			continue
		}
		target, addrs, err := published(t, p)
		if err != nil {
			errs[object{kind: "service", name: s.ID.String(), port: p}] = err
		}
		if target == 0 {
			continue
		}
		ok = true
		for _, a := range addrs {
			everywhere = everywhere || a.IsUnspecified()
			if i, found := slices.BinarySearchFunc(m.addrs, a, netip.Addr.Compare); !found {
				m.addrs = slices.Insert(m.addrs, i, a)
			}
		}
		m.virtual.add(t, p, target, dead[t.Node])
		if t.Node == self {
			m.targets = append(m.targets, ipset.AddrPort(t.Addr, uint8(p.proto), target))
		}
	}
	if everywhere {
		m.addrs = nil
	}
	slices.SortFunc(m.virtual.dests, func(a, b dest) int { return a.addr.Compare(b.addr) })
	return m, ok
}

// published is the port of the task behind a port of the mesh, 0 if it has
// none, and the addresses of hosts that it is published on: 0.0.0.0 for every
// one. The error says what of it is left out.
func published(t *catalog.Task, p port) (target uint16, addrs []netip.Addr, err error) {
	for _, pub := range t.Spec.Publish {
		if pub.Protocol != p.proto || pub.Published != p.number {
			continue
		}
		ip := pub.IP
		if !ip.IsValid() || ip == netip.IPv6Unspecified() {
			ip = netip.IPv4Unspecified()
		}
		switch {
		case !ip.Is4():
			err = fmt.Errorf("container %s publishes %s on %s: only IPv4 addresses are served so far", t.Name, p, ip)
		case !t.Addr.Is4():
			err = fmt.Errorf("container %s has the address %s: only IPv4 is served so far", t.Name, t.Addr)
		case target != 0 && pub.Target != target:
			// The address is gone where tasks are chosen.
			err = fmt.Errorf("container %s publishes %s for its ports %d and %d: %[3]d is served; use one for all addresses", t.Name, p, target, pub.Target)
		default:
			target = pub.Target
			addrs = append(addrs, ip)
		}
	}
	return target, addrs, err
}

// seconds rounds up: an affinity of less than a second is one.
func seconds(d time.Duration) uint32 {
	return uint32((d + time.Second - 1) / time.Second)
}
