package ipvs

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"shoal/model"
	"shoal/virtual"
)

// front is what of a VIP is balanced together: one port, or all ports that are
// not named.
type front struct {
	vip   netip.Addr
	proto model.Protocol // of all ports: TCP, which is SCTP too, or UDP
	port  uint16         // 0: all
}

func (f front) compare(o front) int {
	return cmp.Or(f.vip.Compare(o.vip), cmp.Compare(f.proto, o.proto), cmp.Compare(f.port, o.port))
}

// String is "10.96.0.1 tcp" or "10.96.0.1:80/tcp".
func (f front) String() string {
	if f.port == 0 {
		return fmt.Sprintf("%s %s", f.vip, f.proto)
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(f.vip, f.port), f.proto)
}

// balanced is a front and how it is balanced; its mark is not in it.
type balanced struct {
	front front
	virtual.Service
}

func (b balanced) compare(f front) int { return b.front.compare(f) }

// fronts are those of a service, in order, and how each is balanced on that
// host.
func fronts(s *model.Service, self string) (all []balanced) {
	if !s.VIP.Is4() || s.Spec.Mode != model.ModeVIP {
		return nil
	}
	add := func(proto model.Protocol, port uint16, target func(*model.Task) (uint16, bool)) {
		b := balanced{front{s.VIP, proto, port}, virtual.New(proto, port, &s.Spec)}
		for i := range s.Tasks {
			t := &s.Tasks[i]
			if port, ok := target(t); ok && t.Addr.Is4() {
				b.Add(t, port, t.Node == self)
			}
		}
		if b.Settle(); len(b.Dests) > 0 {
			all = append(all, b)
		}
	}
	unchanged := func(t *model.Task) (uint16, bool) { return 0, t.AllPorts() }
	add(model.TCP, 0, unchanged)
	add(model.UDP, 0, unchanged)
	for _, p := range s.Ports() {
		add(p.Protocol, p.Port, func(t *model.Task) (uint16, bool) { return t.Target(p.Protocol, p.Port) })
	}
	slices.SortFunc(all, func(a, b balanced) int { return a.compare(b.front) })
	return all
}
