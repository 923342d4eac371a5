package lb

import (
	"net/netip"
	"slices"

	"shoal/model"
)

// ServiceStats is what the plane has counted for a service on this host, over all its
// frontends, since they were made: for those of its VIP, and for its published ports.
type ServiceStats struct {
	Service   model.ServiceID
	VIP       netip.Addr // zero: it has none, and is published only
	Stats                // by the VIP
	Published Stats      // not among the others
}

// Stats reads the counters of all services, by service.
func (b *Balancer) Stats() ([]ServiceStats, error) {
	counted, err := b.plane.Stats()
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	sums := map[model.ServiceID]*ServiceStats{}
	for k, s := range counted {
		f := b.applied[k]
		if f == nil || f.Service == dnsPeersID {
			continue
		}
		sum := sums[f.Service]
		if sum == nil {
			sum = &ServiceStats{Service: f.Service}
			sums[f.Service] = sum
		}
		if k.Published() {
			sum.Published = sum.Published.Add(s)
		} else {
			sum.VIP, sum.Stats = k.VIP, sum.Stats.Add(s)
		}
	}
	all := make([]ServiceStats, 0, len(sums))
	for _, s := range sums {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b ServiceStats) int { return a.Service.Compare(b.Service) })
	return all, nil
}

// PublishedPorts counts the published ports that this host takes connections
// for, and those that it does not, as somebody else has them here.
func (b *Balancer) PublishedPorts() (open, withheld int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k := range b.applied {
		if k.Published() {
			open++
		}
	}
	return open, len(b.withheld)
}
