package dockerwatch

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	events    *prometheus.CounterVec // by type and action
	exits     prometheus.Counter
	lists     prometheus.Counter
	connected prometheus.Gauge
	problems  prometheus.Gauge
}

// newMetrics registers the metrics with reg, or with nobody if it is nil.
func newMetrics(reg prometheus.Registerer) metrics {
	f := promauto.With(reg)
	return metrics{
		events: f.NewCounterVec(prometheus.CounterOpts{
			Name: "shoal_docker_events_total",
			Help: "Events of the Docker engine that were followed, by type and action.",
		}, []string{"type", "action"}),
		exits: f.NewCounter(prometheus.CounterOpts{
			Name: "shoal_docker_exits_total",
			Help: "Ends of containers with tasks that the kernel reported before the Docker engine did.",
		}),
		lists: f.NewCounter(prometheus.CounterOpts{
			Name: "shoal_docker_lists_total",
			Help: "Lists made of all containers and networks: one on each connection to the Docker engine, and one each resync.",
		}),
		connected: f.NewGauge(prometheus.GaugeOpts{
			Name: "shoal_docker_connected",
			Help: "1 while the Docker engine's events are followed, 0 while the engine is unreachable.",
		}),
		problems: f.NewGauge(prometheus.GaugeOpts{
			Name: "shoal_docker_problem_containers",
			Help: "Running containers whose labels were refused or whose address is unknown.",
		}),
	}
}
