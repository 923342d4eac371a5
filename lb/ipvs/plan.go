package ipvs

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"shoal/kernel/ipvs"
	"shoal/lb"
	"shoal/model"
)

// service is a virtual service as it should be, but for its mark.
type service struct {
	ipvs.Service
	backends []lb.Backend // by address
}

// serviceOf is how IPVS carries a frontend.
func serviceOf(f *lb.Frontend) *service {
	s := &service{backends: f.Backends}
	s.Scheduler, s.Affinity = f.Scheduler, uint32(f.Affinity/time.Second)
	if slices.ContainsFunc(f.Backends, func(b lb.Backend) bool { return b.Addr.Port() != 0 && b.Addr.Port() != f.Port }) {
		s.Scheduler, s.Affinity = ipvs.Mapped(s.Scheduler, s.Affinity)
	}
	// A UDP flow never ends by itself, so weight 0 would hold it for ever. And
	// dh, which hashes the address that is connected to, has nowhere else to go:
	// one destination of weight 0 would refuse everybody.
	if f.Protocol == model.UDP || s.Scheduler == "dh" {
		s.backends = slices.DeleteFunc(slices.Clone(f.Backends), func(b lb.Backend) bool { return b.Weight == 0 })
	}
	return s
}

// plan is how the kernel comes from the virtual service it has to the one that
// is wanted. Its fields are in the order in which they are done: [table.raise]
// does the first, [table.lower] the others. In between, packets are given the
// service's mark, or it is taken from them: so that a service has destinations
// before it is sent anything, and is sent nothing any more before it loses them.
type plan struct {
	put   bool               // make the service, or change it
	raise []ipvs.Destination // add these, or change their weights

	lower  []netip.AddrPort // to weight 0
	remove []netip.AddrPort
	gone   bool // nothing is behind the service: delete it, with all it has

	draining bool // one is to be looked at again soon
}

// writes tells whether there is anything to do about a service that is there.
func (p *plan) writes() bool {
	return p.put || p.gone || len(p.raise)+len(p.lower)+len(p.remove) > 0
}

// diff compares the service that is wanted with the kernel's. A nil want is one
// that is to go; a nil have is none.
func diff(want *service, have *ipvs.Virtual, now time.Time) (p plan) {
	var there map[netip.AddrPort]ipvs.Dest
	if have != nil {
		there = have.Dests
	}
	var backends []lb.Backend
	if want != nil {
		backends = want.backends
	}
	keep := make([]netip.AddrPort, 0, 8)
	for _, d := range backends {
		h, has := there[d.Addr]
		switch {
		case d.Weight > 0:
			if !has || h.Weight != d.Weight {
				p.raise = append(p.raise, ipvs.Destination{Addr: d.Addr, Weight: d.Weight})
			}
		case !has:
			continue
		case h.Weight > 0:
			// Gone at the next look at the earliest: what is counted now may miss
			// a connection that is just being made.
			p.lower = append(p.lower, d.Addr)
			p.draining = p.draining || !d.Until.IsZero()
		case !d.Until.IsZero() && (h.Active+h.Inactive == 0 || !now.Before(d.Until)):
			continue
		default:
			p.draining = p.draining || !d.Until.IsZero()
		}
		keep = append(keep, d.Addr)
	}
	if len(keep) == 0 {
		return plan{gone: true}
	}
	p.put = have == nil || have.Service != want.Service
	for addr := range there {
		if !slices.Contains(keep, addr) {
			p.remove = append(p.remove, addr)
		}
	}
	slices.SortFunc(p.remove, netip.AddrPort.Compare)
	return p
}

// serves tells whether a service of the kernel takes new connections.
func serves(v *ipvs.Virtual) bool {
	if v != nil {
		for d := range maps.Values(v.Dests) {
			if d.Weight > 0 {
				return true
			}
		}
	}
	return false
}
