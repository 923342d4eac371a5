package virtual

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"shoal/kernel/ipvs"
)

// Plan is how the kernel comes from the virtual service it has to the one that
// is wanted. Its fields are in the order in which they are done: [Table.Raise]
// does the first, [Table.Lower] the others. In between, packets are given the
// service's mark, or it is taken from them: so that a service has real servers
// before it is sent anything, and is sent nothing any more before it loses them.
type Plan struct {
	Put   bool               // make the service, or change it
	Raise []ipvs.Destination // add these, or change their weights

	Lower  []netip.AddrPort // to weight 0
	Remove []netip.AddrPort
	Gone   bool // nothing is behind the service: delete it, with all it has

	Draining bool // one is to be looked at again soon
}

// Writes tells whether there is anything to do about a service that is there.
func (p *Plan) Writes() bool {
	return p.Put || p.Gone || len(p.Raise)+len(p.Lower)+len(p.Remove) > 0
}

// Diff compares the service that is wanted with the kernel's. A nil want is one
// that is to go; a nil have is none.
func Diff(want *Service, have *ipvs.Virtual, now time.Time) (p Plan) {
	var there map[netip.AddrPort]ipvs.Dest
	if have != nil {
		there = have.Dests
	}
	var dests []Dest
	if want != nil {
		dests = want.Dests
	}
	keep := make([]netip.AddrPort, 0, 8)
	for _, d := range dests {
		h, has := there[d.Addr]
		switch {
		case d.Weight > 0:
			if !has || h.Weight != d.Weight {
				p.Raise = append(p.Raise, ipvs.Destination{Addr: d.Addr, Weight: d.Weight})
			}
		case !has:
			continue
		case h.Weight > 0:
			// Gone at the next look at the earliest: what is counted now may miss
			// a connection that is just being made.
			p.Lower = append(p.Lower, d.Addr)
			p.Draining = p.Draining || !d.Until.IsZero()
		case !d.Until.IsZero() && (h.Active+h.Inactive == 0 || !now.Before(d.Until)):
			continue
		default:
			p.Draining = p.Draining || !d.Until.IsZero()
		}
		keep = append(keep, d.Addr)
	}
	if len(keep) == 0 {
		return Plan{Gone: true}
	}
	p.Put = have == nil || have.Service != want.Service
	for addr := range there {
		if !slices.Contains(keep, addr) {
			p.Remove = append(p.Remove, addr)
		}
	}
	slices.SortFunc(p.Remove, netip.AddrPort.Compare)
	return p
}

// Serves tells whether a service of the kernel takes new connections.
func Serves(v *ipvs.Virtual) bool {
	if v != nil {
		for d := range maps.Values(v.Dests) {
			if d.Weight > 0 {
				return true
			}
		}
	}
	return false
}
