package catalog

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	registerer prometheus.Registerer
	registered []prometheus.Collector
	build      prometheus.Histogram
	errors     prometheus.Counter
	relists    prometheus.Counter
}

func newMetrics(c *Catalog, r prometheus.Registerer) (*metrics, error) {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "shoal", Subsystem: "catalog", Name: name, Help: help}, value)
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "shoal", Subsystem: "catalog", Name: name, Help: help})
	}
	m := &metrics{
		registerer: r,
		build: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "shoal", Subsystem: "catalog", Name: "snapshot_build_seconds",
			Help:    "Time to build a snapshot.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 8),
		}),
		errors:  counter("etcd_errors_total", "Attempts to read from or write to etcd that failed."),
		relists: counter("etcd_relists_total", "Times the records were listed again, since the watch could not go on."),
	}
	if r == nil {
		return m, nil
	}
	for _, col := range []prometheus.Collector{m.build, m.errors, m.relists,
		gauge("snapshot_revision", "Revision of the newest snapshot; 0 before the first.", func() float64 {
			return float64(c.snapshot.Load().Revision)
		}),
		gauge("etcd_connected", "1 while there is a connection to etcd.", func() float64 {
			if c.client.Connected() {
				return 1
			}
			return 0
		}),
		gauge("unreadable_records", "Records in etcd that are passed over.", func() float64 {
			c.mu.Lock()
			defer c.mu.Unlock()
			return float64(len(c.unreadable))
		}),
	} {
		if err := r.Register(col); err != nil {
			m.unregister()
			return nil, err
		}
		m.registered = append(m.registered, col)
	}
	return m, nil
}

// unregister lets the next catalog of the process have the names. Of nil it
// does nothing.
func (m *metrics) unregister() {
	if m == nil {
		return
	}
	for _, col := range m.registered {
		m.registerer.Unregister(col)
	}
}

func (m *metrics) built(took time.Duration) { m.build.Observe(took.Seconds()) }
func (m *metrics) failed()                  { m.errors.Inc() }
func (m *metrics) relist()                  { m.relists.Inc() }
