package lb

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"shoal/catalog"
	"shoal/kernel/ipvs"
)

// front is what of a VIP is balanced together: one port, or all ports that are
// not named.
type front struct {
	vip   netip.Addr
	proto catalog.Protocol // of all ports: TCP, which is SCTP too, or UDP
	port  uint16           // 0: all
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

// virtual is how a front is balanced.
type virtual struct {
	front     front
	scheduler string
	affinity  uint32 // seconds; 0: none
	dests     []dest // by address
}

// dest is a task behind a front.
type dest struct {
	addr   netip.AddrPort // port 0: the packet's own
	weight int            // 0: keeps the connections it holds, and is not added where it is not
	until  time.Time      // of a draining task: out when idle, at the latest then
	local  bool           // a task of this host
}

// live tells whether the front takes new connections.
func (v *virtual) live() bool {
	return slices.ContainsFunc(v.dests, func(d dest) bool { return d.weight > 0 })
}

// virtuals are the fronts of a service, in order, and how each is balanced on
// that host.
func virtuals(s *catalog.Service, self string) []virtual {
	if !s.VIP.Is4() || s.Spec.Mode != catalog.ModeVIP {
		return nil
	}
	var vs []virtual
	add := func(proto catalog.Protocol, port uint16, target func(*catalog.Task) (uint16, bool)) {
		v := virtual{front: front{s.VIP, proto, port}, scheduler: cmp.Or(s.Spec.Scheduler, "rr"), affinity: seconds(s.Spec.Affinity)}
		for i := range s.Tasks {
			t := &s.Tasks[i]
			if port, ok := target(t); ok && t.Addr.Is4() {
				v.add(t, port, t.Node == self)
			}
		}
		if slices.ContainsFunc(v.dests, func(d dest) bool { return d.addr.Port() != 0 && d.addr.Port() != port }) {
			v.scheduler, v.affinity = ipvs.Mapped(v.scheduler, v.affinity)
		}
		v.settle(s.Spec.PreferLocal)
		if len(v.dests) > 0 {
			vs = append(vs, v)
		}
	}
	all := func(t *catalog.Task) (uint16, bool) { return 0, t.AllPorts() }
	add(catalog.TCP, 0, all)
	add(catalog.UDP, 0, all)
	for _, p := range s.Ports() {
		add(p.Protocol, p.Port, func(t *catalog.Task) (uint16, bool) { return t.Target(p.Protocol, p.Port) })
	}
	slices.SortFunc(vs, func(a, b virtual) int { return a.front.compare(b.front) })
	return vs
}

// add puts a task behind the front.
func (v *virtual) add(t *catalog.Task, port uint16, local bool) {
	d := dest{addr: netip.AddrPortFrom(t.Addr, port), local: local}
	if t.InRotation() {
		// IPVS takes up to 2³¹, but sums weights in an int (wlc, sh, mh).
		d.weight = min(max(t.Weight, 0), 65535)
	}
	if t.State == catalog.Draining {
		d.until = t.DrainDeadline()
	}
	// Containers that share an address share the destination: the one that
	// serves longest counts.
	for i, o := range v.dests {
		if o.addr == d.addr {
			if d.weight > o.weight || o.weight == 0 && !o.until.IsZero() && (d.until.IsZero() || d.until.After(o.until)) {
				v.dests[i] = d
			}
			return
		}
	}
	v.dests = append(v.dests, d)
}

// settle ends the making of a virtual, when all its tasks are there. If local
// tasks are preferred, the others keep what they hold and are given no more
// while there is a local one.
func (v *virtual) settle(preferLocal bool) {
	if preferLocal && slices.ContainsFunc(v.dests, func(d dest) bool { return d.local && d.weight > 0 }) {
		for i := range v.dests {
			if !v.dests[i].local {
				v.dests[i].weight = 0
			}
		}
	}
	// A UDP flow never ends by itself, so weight 0 would hold it for ever. And
	// dh, which hashes the VIP, has nowhere else to go: one destination of weight
	// 0 would refuse everybody.
	if v.front.proto == catalog.UDP || v.scheduler == "dh" {
		v.dests = slices.DeleteFunc(v.dests, func(d dest) bool { return d.weight == 0 })
	}
	slices.SortFunc(v.dests, func(a, b dest) int { return a.addr.Compare(b.addr) })
}

// seconds rounds up: an affinity of less than a second is one.
func seconds(d time.Duration) uint32 {
	return uint32((d + time.Second - 1) / time.Second)
}
