package agent

import (
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"shoal/kernel"
)

// metrics are those of the loops. The parts register their own beside them;
// what is of the whole host is in the collectors that newMetrics registers.
type metrics struct {
	seconds *prometheus.HistogramVec
	failing *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer, a *Agent) *metrics {
	m := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "shoal_reconcile_duration_seconds",
			Help:    "Time that a part took to act on a Snapshot; full is true where it read the kernel back.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
		}, []string{"part", "full"}),
		failing: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "shoal_reconcile_failing_objects",
			Help: "Objects that a part could not bring to what they should be, at its last pass.",
		}, []string{"part"}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "shoal_build_info",
		Help:        "1, labelled with the version of shoal and of Go.",
		ConstLabels: prometheus.Labels{"version": a.version, "goversion": runtime.Version()},
	})
	info.Set(1)
	reg.MustRegister(m.seconds, m.failing, info, kernel.Writes,
		&serviceMetrics{a: a, bound: newSeriesBound(maxServiceSeries)}, &clusterMetrics{a}, &hostMetrics{a})
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) reconciled(part string, full bool, took time.Duration, problems int) {
	m.seconds.WithLabelValues(part, strconv.FormatBool(full)).Observe(took.Seconds())
	m.failing.WithLabelValues(part).Set(float64(problems))
}

// gaugeOf sends a gauge's value.
func gaugeOf[V ~int | ~int64 | ~uint64 | ~float64](ch chan<- prometheus.Metric, d *prometheus.Desc, v V, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
}

// oneIf is 1 or 0.
func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
