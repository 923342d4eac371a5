package ipvs

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"shoal/model"
)

// ServiceStats is what IPVS has counted for a service on this host, over all
// its fronts, since they were made.
type ServiceStats struct {
	Service     model.ServiceID `json:"service"`
	VIP         netip.Addr      `json:"vip"`
	Connections uint64          `json:"connections"`
	PacketsIn   uint64          `json:"packetsIn"`
	PacketsOut  uint64          `json:"packetsOut"`
	BytesIn     uint64          `json:"bytesIn"`
	BytesOut    uint64          `json:"bytesOut"`
}

// Stats reads the counters of all services, by service.
func (b *Balancer) Stats() ([]ServiceStats, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	byMark, err := b.table.IPVS.Stats()
	if err != nil {
		return nil, err
	}
	sums := map[model.ServiceID]*ServiceStats{}
	for f, id := range b.owner {
		s, has := byMark[b.marks.of[f]]
		if !has || id == dnsPeersID {
			continue
		}
		sum := sums[id]
		if sum == nil {
			sum = &ServiceStats{Service: id, VIP: f.vip}
			sums[id] = sum
		}
		sum.Connections += uint64(s.Connections)
		sum.PacketsIn += uint64(s.PacketsIn)
		sum.PacketsOut += uint64(s.PacketsOut)
		sum.BytesIn += s.BytesIn
		sum.BytesOut += s.BytesOut
	}
	all := make([]ServiceStats, 0, len(sums))
	for _, s := range sums {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b ServiceStats) int { return cmp.Or(a.Service.Compare(b.Service)) })
	return all, nil
}

var (
	labels          = []string{"stack", "service"}
	connectionsDesc = prometheus.NewDesc("shoal_service_connections_total", "Connections that IPVS made to a service.", labels, nil)
	bytesInDesc     = prometheus.NewDesc("shoal_service_received_bytes_total", "Bytes that clients sent to a service.", labels, nil)
	bytesOutDesc    = prometheus.NewDesc("shoal_service_sent_bytes_total", "Bytes that a service sent to clients.", labels, nil)
)

// collector gives Prometheus the counters of services.
type collector struct{ b *Balancer }

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- connectionsDesc
	ch <- bytesInDesc
	ch <- bytesOutDesc
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	stats, err := c.b.Stats()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(connectionsDesc, err)
		return
	}
	for _, s := range stats {
		for desc, v := range map[*prometheus.Desc]uint64{connectionsDesc: s.Connections, bytesInDesc: s.BytesIn, bytesOutDesc: s.BytesOut} {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(v), s.Service.Stack, s.Service.Name)
		}
	}
}

// register adds collectors; one that another package has added is as good.
func register(r prometheus.Registerer, cs ...prometheus.Collector) error {
	for _, c := range cs {
		var already prometheus.AlreadyRegisteredError
		if err := r.Register(c); err != nil && !errors.As(err, &already) {
			return err
		}
	}
	return nil
}
