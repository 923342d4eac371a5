package lb

import (
	"maps"
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

// Stats reads the counters of all services, by service. It takes little memory however many
// there are, as it is called for each scrape of metrics.
func (b *Balancer) Stats() ([]ServiceStats, error) {
	b.mu.Lock()
	applied, services := maps.Clone(b.applied), len(b.parts) // changes need not wait for the kernel to list its counters
	b.mu.Unlock()
	all := make([]ServiceStats, 0, services)
	at := make(map[model.ServiceID]int, services)
	err := b.plane.Stats(func(k Key, s Stats) {
		f := applied[k]
		if f == nil || f.Service == dnsPeersID {
			return
		}
		i, known := at[f.Service]
		if !known {
			i = len(all)
			all, at[f.Service] = append(all, ServiceStats{Service: f.Service}), i
		}
		if sum := &all[i]; k.Published() {
			sum.Published = sum.Published.Add(s)
		} else {
			sum.VIP, sum.Stats = k.VIP, sum.Stats.Add(s)
		}
	})
	if err != nil {
		return nil, err
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
