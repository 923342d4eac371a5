package ingress

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"shoal/catalog"
	"shoal/kernel/ipvs"
)

// virtual is how a port is balanced.
type virtual struct {
	ipvs.Service
	preferLocal bool   // only tasks of this host take new connections while there are any
	dests       []dest // by address
}

// dest is a task behind a port.
type dest struct {
	addr   netip.AddrPort
	weight int       // 0: keeps the connections it holds, and is not added where it is not
	until  time.Time // of a draining task: out when idle, at the latest then
	here   bool      // a task of this host
}

// live tells whether the port takes new connections.
func (v *virtual) live() bool {
	return slices.ContainsFunc(v.dests, func(d dest) bool { return d.weight > 0 })
}

// add puts a task behind the port.
func (v *virtual) add(t *catalog.Task, target uint16, here bool) {
	d := dest{addr: netip.AddrPortFrom(t.Addr, target), here: here}
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

// settle is called when all tasks are there.
func (v *virtual) settle(proto catalog.Protocol) {
	if v.preferLocal && slices.ContainsFunc(v.dests, func(d dest) bool { return d.here && d.weight > 0 }) {
		for i := range v.dests {
			if !v.dests[i].here {
				v.dests[i].weight = 0
			}
		}
	}
	// A UDP flow never ends by itself, so weight 0 would hold it for ever. And
	// dh, which hashes the sandbox's address, has nowhere else to go.
	if proto == catalog.UDP || v.Scheduler == "dh" {
		v.dests = slices.DeleteFunc(v.dests, func(d dest) bool { return d.weight == 0 })
	}
	slices.SortFunc(v.dests, func(a, b dest) int { return a.addr.Compare(b.addr) })
}

// plan is how the kernel comes from the virtual service it has to the one that
// is wanted. Its fields are in the order in which they are done: between raise
// and lower, packets are given the mark, or it is taken from them.
type plan struct {
	put    bool               // make the service, or change it
	raise  []ipvs.Destination // add these, or change their weights
	lower  []netip.AddrPort   // to weight 0
	remove []netip.AddrPort
	delete bool // the service with all it has

	draining bool // one is to be looked at again soon
}

// diff compares a virtual service with the kernel's. A nil want is one that is
// to go; a nil have is none.
func diff(want *virtual, have *ipvs.Virtual, now time.Time) (p plan) {
	there := map[netip.AddrPort]ipvs.Dest{}
	if have != nil {
		there = have.Dests
	}
	keep := map[netip.AddrPort]bool{}
	var dests []dest
	if want != nil {
		dests = want.dests
	}
	for _, d := range dests {
		h, has := there[d.addr]
		switch {
		case d.weight > 0:
			if !has || h.Weight != d.weight {
				p.raise = append(p.raise, ipvs.Destination{Addr: d.addr, Weight: d.weight})
			}
		case !has:
			continue
		case h.Weight > 0:
			// Gone at the next look at the earliest: what is counted now may miss
			// a connection that is just being made.
			p.lower = append(p.lower, d.addr)
			p.draining = p.draining || !d.until.IsZero()
		case !d.until.IsZero() && (h.Active+h.Inactive == 0 || !now.Before(d.until)):
			continue
		default:
			p.draining = p.draining || !d.until.IsZero()
		}
		keep[d.addr] = true
	}
	if len(keep) == 0 {
		return plan{delete: have != nil}
	}
	p.put = have == nil || have.Service != want.Service
	for _, addr := range slices.SortedFunc(maps.Keys(there), netip.AddrPort.Compare) {
		if !keep[addr] {
			p.remove = append(p.remove, addr)
		}
	}
	return p
}

// serves tells whether the kernel's service takes new connections.
func serves(v *ipvs.Virtual) bool {
	if v != nil {
		for _, d := range v.Dests {
			if d.Weight > 0 {
				return true
			}
		}
	}
	return false
}
