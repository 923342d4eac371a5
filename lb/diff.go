package lb

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"shoal/kernel/ipvs"
)

// kind is what a step does. Steps are taken in the order of their kinds: a
// service has its destinations before its mark appears in a set, and loses
// its mark before it loses them.
type kind int

const (
	putService kind = iota
	putDest
	setMark // add the front's entry, or change its mark
	delMark
	lowerDest // to weight 0
	delDest
	delService
)

// step is one write to the kernel for one front.
type step struct {
	kind    kind
	front   front // zero for a service whose front is not known
	mark    uint32
	service ipvs.Service     // putService
	dest    ipvs.Destination // putDest, lowerDest, delDest
}

// found is what the kernel has of a front.
type found struct {
	entry   uint32        // the mark in its set, with parked; 0: no entry
	service *ipvs.Virtual // nil: none
}

// diff is how the kernel comes from what it has of a front to what is wanted.
// A nil want is a front that is to go. Draining tells that a destination is to
// be looked at again soon.
func diff(f front, want *virtual, mark uint32, have found, now time.Time) (steps []step, draining bool) {
	var there map[netip.AddrPort]ipvs.Dest
	if have.service != nil {
		there = have.service.Dests
	}
	do := func(k kind, addr netip.AddrPort, weight int) {
		steps = append(steps, step{kind: k, front: f, mark: mark, dest: ipvs.Destination{Addr: addr, Weight: weight}})
	}
	keep := make([]netip.AddrPort, 0, 8)
	live := false
	if want != nil {
		for _, d := range want.dests {
			h, has := there[d.addr]
			switch {
			case d.weight > 0:
				live = true
				if !has || h.Weight != d.weight {
					do(putDest, d.addr, d.weight)
				}
			case !has:
				continue
			case h.Weight > 0:
				// Gone at the next look at the earliest: what is counted now may miss
				// a connection that is just being made.
				do(lowerDest, d.addr, 0)
				draining = draining || !d.until.IsZero()
			case !d.until.IsZero() && (h.Active+h.Inactive == 0 || !now.Before(d.until)):
				continue
			default:
				draining = draining || !d.until.IsZero()
			}
			keep = append(keep, d.addr)
		}
	}

	if len(keep) == 0 {
		steps = nil
		if have.entry != 0 {
			steps = append(steps, step{kind: delMark, front: f})
		}
		if have.service != nil {
			steps = append(steps, step{kind: delService, front: f, mark: mark})
		}
		return steps, false
	}
	for addr := range there {
		if !slices.Contains(keep, addr) {
			do(delDest, addr, 0)
		}
	}
	s := ipvs.Service{Mark: mark, Scheduler: want.scheduler, Affinity: want.affinity}
	if have.service == nil || have.service.Service != s {
		steps = append(steps, step{kind: putService, front: f, mark: mark, service: s})
	}
	entry := mark
	if !live {
		entry |= parked
	}
	if have.entry != entry {
		steps = append(steps, step{kind: setMark, front: f, mark: entry})
	}
	slices.SortFunc(steps, func(a, b step) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), a.dest.Addr.Compare(b.dest.Addr))
	})
	return steps, draining
}
