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
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &metrics{
		registerer: r,
		build: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "shoal_snapshot_build_duration_seconds",
			Help:    "Time to build a Snapshot, which is what the parts of the agent act on.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 8),
		}),
		errors:  counter("shoal_store_errors_total", "Attempts to read from or write to etcd that failed."),
		relists: counter("shoal_store_relists_total", "Times the records were listed again, since the watch could not go on."),
	}
	if r == nil {
		return m, nil
	}
	for _, col := range []prometheus.Collector{m.build, m.errors, m.relists,
		gauge("shoal_snapshot_revision", "Revision of the newest Snapshot of this run of the agent; 0 before the first.", func() float64 {
			return float64(c.snapshot.Load().Revision)
		}),
		gauge("shoal_store_connected", "1 while there is a connection to etcd, else 0.", func() float64 {
			if c.client.Connected() {
				return 1
			}
			return 0
		}),
		gauge("shoal_store_unreadable_records", "Records in etcd that this host cannot read, and skips.", func() float64 {
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
