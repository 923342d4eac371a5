package virtual

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"shoal/kernel/ipvs"
	"shoal/model"
)

// maxWeight is the most a real server is given. IPVS takes up to 2³¹, but sums
// weights in an int (wlc, sh, mh).
const maxWeight = 65535

// Service is a virtual service as it should be. [New] makes it, [Service.Add]
// puts the tasks behind it, [Service.Settle] ends that.
type Service struct {
	ipvs.Service
	Protocol model.Protocol // of all that is balanced together: TCP, which may be SCTP too, or UDP
	Port     uint16         // that clients connect to; 0: any
	Dests    []Dest         // by address

	preferLocal bool
}

// Dest is a task behind a service.
type Dest struct {
	Addr   netip.AddrPort // port 0: the packet's own
	Weight int            // 0: keeps the connections it holds, and is not added where it is not
	Until  time.Time      // of a draining task: out when idle, at the latest then
	Local  bool           // a task of this host
}

// New is a service with nothing behind it yet, balanced as the spec says.
func New(proto model.Protocol, port uint16, spec *model.Spec) Service {
	return Service{
		Service:  ipvs.Service{Scheduler: cmp.Or(spec.Scheduler, "rr"), Affinity: seconds(spec.Affinity)},
		Protocol: proto, Port: port,
		preferLocal: spec.PreferLocal,
	}
}

// seconds rounds up: an affinity of less than a second is one.
func seconds(d time.Duration) uint32 {
	return uint32((d + time.Second - 1) / time.Second)
}

// Live tells whether the service takes new connections.
func (s *Service) Live() bool {
	return slices.ContainsFunc(s.Dests, func(d Dest) bool { return d.Weight > 0 })
}

// Add puts a task behind the service, reached at a port of its own; 0: the
// packet's. One that this host does not reach is left out.
func (s *Service) Add(t *model.Task, port uint16, local bool) {
	if t.State == model.Unreached {
		return
	}
	d := Dest{Addr: netip.AddrPortFrom(t.Addr, port), Local: local}
	if t.InRotation() {
		d.Weight = min(max(t.Weight, 0), maxWeight)
	}
	if t.State == model.Draining {
		d.Until = t.DrainDeadline()
	}
	// Containers that share an address share the destination: the one that
	// serves longest counts.
	for i, o := range s.Dests {
		if o.Addr == d.Addr {
			if d.Weight > o.Weight || o.Weight == 0 && !o.Until.IsZero() && (d.Until.IsZero() || d.Until.After(o.Until)) {
				s.Dests[i] = d
			}
			return
		}
	}
	s.Dests = append(s.Dests, d)
}

// Settle is called when all tasks are there. If local tasks are preferred, the
// others keep what they hold and are given no more while there is a local one.
func (s *Service) Settle() {
	if slices.ContainsFunc(s.Dests, func(d Dest) bool { return d.Addr.Port() != 0 && d.Addr.Port() != s.Port }) {
		s.Scheduler, s.Affinity = ipvs.Mapped(s.Scheduler, s.Affinity)
	}
	if s.preferLocal && slices.ContainsFunc(s.Dests, func(d Dest) bool { return d.Local && d.Weight > 0 }) {
		for i := range s.Dests {
			if !s.Dests[i].Local {
				s.Dests[i].Weight = 0
			}
		}
	}
	// A UDP flow never ends by itself, so weight 0 would hold it for ever. And
	// dh, which hashes the address that is connected to, has nowhere else to go:
	// one destination of weight 0 would refuse everybody.
	if s.Protocol == model.UDP || s.Scheduler == "dh" {
		s.Dests = slices.DeleteFunc(s.Dests, func(d Dest) bool { return d.Weight == 0 })
	}
	slices.SortFunc(s.Dests, func(a, b Dest) int { return a.Addr.Compare(b.Addr) })
}
