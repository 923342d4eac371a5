package agent

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"shoal/kernel"
	"shoal/model"
)

// metrics are the agent's own; each part registers its own beside them.
type metrics struct {
	seconds  *prometheus.HistogramVec
	failures *prometheus.GaugeVec
}

func newMetrics(reg *prometheus.Registry, a *Agent) *metrics {
	m := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "shoal_reconcile_seconds",
			Help:    "Time a part took to act on a Snapshot; full: with the kernel read back.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
		}, []string{"part", "full"}),
		failures: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "shoal_reconcile_problems",
			Help: "Objects a part could not bring to what they should be, at its last run.",
		}, []string{"part"}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "shoal_build_info",
		Help:        "1, labelled with the version.",
		ConstLabels: prometheus.Labels{"version": a.version, "go": runtime.Version()},
	})
	info.Set(1)
	reg.MustRegister(m.seconds, m.failures, info, kernel.Writes, &mesh{a: a}, tracking{},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) reconciled(part string, full bool, took time.Duration, problems int) {
	kind := "no"
	if full {
		kind = "yes"
	}
	m.seconds.WithLabelValues(part, kind).Observe(took.Seconds())
	m.failures.WithLabelValues(part).Set(float64(problems))
}

// mesh collects what the newest Snapshot says, when asked.
type mesh struct{ a *Agent }

var (
	tasksDesc = prometheus.NewDesc("shoal_tasks", "Tasks by service and state.",
		[]string{"service", "state"}, nil)
	problemsDesc = prometheus.NewDesc("shoal_problems", "What shoal problems lists; what works, but not exactly as was asked for, is of the kind notice.", []string{"kind"}, nil)
)

func (m *mesh) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{tasksDesc, problemsDesc} {
		ch <- d
	}
}

func (m *mesh) Collect(ch chan<- prometheus.Metric) {
	if s := m.a.catalog.Snapshot(); s != nil {
		for _, svc := range s.Services {
			states := map[model.State]int{}
			for _, t := range svc.Tasks {
				states[t.State]++
			}
			for state, n := range states {
				ch <- prometheus.MustNewConstMetric(tasksDesc, prometheus.GaugeValue, float64(n), svc.ID.String(), string(state))
			}
		}
	}
	kinds := map[string]int{}
	for _, p := range m.a.problems.List() {
		kind := p.Kind
		if p.Notice {
			kind = "notice"
		}
		kinds[kind]++
	}
	for kind, n := range kinds {
		ch <- prometheus.MustNewConstMetric(problemsDesc, prometheus.GaugeValue, float64(n), kind)
	}
}
