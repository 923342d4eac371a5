package lb

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"shoal/model"
)

// ServiceStats is what the plane has counted for a service's VIP on this host,
// over all its frontends, since they were made.
type ServiceStats struct {
	Service model.ServiceID `json:"service"`
	VIP     netip.Addr      `json:"vip"`
	Stats
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
		if f == nil || k.Published() || f.Service == dnsPeersID {
			continue
		}
		sum := sums[f.Service]
		if sum == nil {
			sum = &ServiceStats{Service: f.Service, VIP: k.VIP}
			sums[f.Service] = sum
		}
		sum.Connections += s.Connections
		sum.PacketsIn += s.PacketsIn
		sum.PacketsOut += s.PacketsOut
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
	connectionsDesc = prometheus.NewDesc("shoal_service_connections_total", "Connections that this host made to a service.", labels, nil)
	bytesInDesc     = prometheus.NewDesc("shoal_service_received_bytes_total", "Bytes that clients sent to a service; only the data plane ipvs counts them.", labels, nil)
	bytesOutDesc    = prometheus.NewDesc("shoal_service_sent_bytes_total", "Bytes that a service sent to clients; only the data plane ipvs counts them.", labels, nil)
	planeDesc       = prometheus.NewDesc("shoal_data_plane_info", "1, labelled with the data plane that balances.", []string{"plane"}, nil)
)

// collector gives Prometheus the counters of services.
type collector struct{ b *Balancer }

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{connectionsDesc, bytesInDesc, bytesOutDesc, planeDesc} {
		ch <- d
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(planeDesc, prometheus.GaugeValue, 1, c.b.plane.Name())
	stats, err := c.b.Stats()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(connectionsDesc, err)
		return
	}
	for _, s := range stats {
		put := func(d *prometheus.Desc, v uint64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), s.Service.Stack, s.Service.Name)
		}
		put(connectionsDesc, s.Connections)
		if s.BytesIn+s.BytesOut > 0 {
			put(bytesInDesc, s.BytesIn)
			put(bytesOutDesc, s.BytesOut)
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
