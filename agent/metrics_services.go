package agent

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"shoal/lb"
	"shoal/model"
)

var (
	servicesDesc = prometheus.NewDesc("shoal_services", "Services of the cluster, by state: serving (a task is in rotation), down (it has tasks, and none is) or idle (it has none).",
		[]string{"state"}, nil)
	tasksDesc = prometheus.NewDesc("shoal_tasks", "Tasks on this host, by service and state.",
		[]string{"stack", "service", "state"}, nil)
	allTasksDesc = prometheus.NewDesc("shoal_service_tasks", "Tasks of the whole cluster, in whatever state, by service.",
		serviceLabels, nil)
	rotationDesc = prometheus.NewDesc("shoal_service_tasks_in_rotation", "Tasks of the whole cluster to which this host gives new connections, by service.",
		serviceLabels, nil)
	connectionsDesc = prometheus.NewDesc("shoal_service_connections_total", "Connections that were made to a service's VIP on this host, by what chose the task: connect (led in connect()) or plane (the data plane).",
		[]string{"stack", "service", "via"}, nil)
	publishedDesc = prometheus.NewDesc("shoal_service_published_connections_total", "Connections that were made to a service's published ports on this host.",
		serviceLabels, nil)
	bytesInDesc = prometheus.NewDesc("shoal_service_received_bytes_total", "Bytes that clients sent to a service by its VIP and the data plane; only IPVS counts them.",
		serviceLabels, nil)
	bytesOutDesc = prometheus.NewDesc("shoal_service_sent_bytes_total", "Bytes that a service sent to clients by its VIP and the data plane; only IPVS counts them.",
		serviceLabels, nil)
	portsDesc = prometheus.NewDesc("shoal_published_ports", "Published ports, by state: open on this host, or withheld from it as somebody else has them here.",
		[]string{"state"}, nil)

	serviceLabels = []string{"stack", "service"}
)

// serviceMetrics are what is counted by service. No more than bound has series
// of their own.
type serviceMetrics struct {
	a     *Agent
	bound *seriesBound
}

func (*serviceMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{servicesDesc, tasksDesc, allTasksDesc, rotationDesc, connectionsDesc, publishedDesc, bytesInDesc, bytesOutDesc, portsDesc} {
		ch <- d
	}
}

func (m *serviceMetrics) Collect(ch chan<- prometheus.Metric) {
	open, withheld := m.a.balancer.PublishedPorts()
	gaugeOf(ch, portsDesc, open, "open")
	gaugeOf(ch, portsDesc, withheld, "withheld")
	m.bound.mu.Lock()
	defer m.bound.mu.Unlock()
	if s := m.a.catalog.Snapshot(); s != nil {
		m.bound.admit(s.Services)
		m.collectTasks(ch, s)
	}
	stats, err := m.a.balancer.Stats()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(connectionsDesc, err)
		return
	}
	m.collectTraffic(ch, stats, m.a.plane.led != nil)
}

// collectTasks tells how many tasks each service has.
func (m *serviceMetrics) collectTasks(ch chan<- prometheus.Metric, s *model.Snapshot) {
	type key struct {
		service model.ServiceID
		state   model.State
	}
	own, all, rotation := map[key]int{}, map[model.ServiceID]int{}, map[model.ServiceID]int{}
	states := map[string]int{"serving": 0, "down": 0, "idle": 0}
	for _, svc := range s.Services {
		id, in := m.bound.name(svc.ID), 0
		for _, t := range svc.Tasks {
			if t.InRotation() {
				in++
			}
			if t.Node == s.Self.Name {
				own[key{id, t.State}]++
			}
		}
		switch {
		case in > 0:
			states["serving"]++
		case len(svc.Tasks) > 0:
			states["down"]++
		default:
			states["idle"]++
		}
		all[id] += len(svc.Tasks)
		rotation[id] += in
	}
	for state, n := range states {
		gaugeOf(ch, servicesDesc, n, state)
	}
	for k, n := range own {
		gaugeOf(ch, tasksDesc, n, k.service.Stack, k.service.Name, string(k.state))
	}
	for id, n := range all {
		gaugeOf(ch, allTasksDesc, n, id.Stack, id.Name)
		gaugeOf(ch, rotationDesc, rotation[id], id.Stack, id.Name)
	}
}

// collectTraffic tells what was counted of each service. Where nothing is led in connect(), there are
// no series of that.
func (m *serviceMetrics) collectTraffic(ch chan<- prometheus.Metric, stats []lb.ServiceStats, leads bool) {
	bytes := slices.ContainsFunc(stats, func(s lb.ServiceStats) bool { return s.BytesIn+s.BytesOut > 0 })
	for _, counter := range []struct {
		counter
		is    bool
		value func(*lb.ServiceStats) uint64
	}{
		{counter{connectionsDesc, "connect"}, leads, func(s *lb.ServiceStats) uint64 { return s.Led }},
		{counter{connectionsDesc, "plane"}, true, func(s *lb.ServiceStats) uint64 { return s.Connections - s.Led }},
		{counter{publishedDesc, ""}, true, func(s *lb.ServiceStats) uint64 { return s.Published.Connections }},
		{counter{bytesInDesc, ""}, bytes, func(s *lb.ServiceStats) uint64 { return s.BytesIn }},
		{counter{bytesOutDesc, ""}, bytes, func(s *lb.ServiceStats) uint64 { return s.BytesOut }},
	} {
		if !counter.is {
			continue
		}
		counts := func(yield func(model.ServiceID, uint64) bool) {
			for i := range stats {
				if !yield(stats[i].Service, counter.value(&stats[i])) {
					return
				}
			}
		}
		for id, n := range m.bound.sum(counter.counter, counts) {
			labels := []string{id.Stack, id.Name}
			if counter.via != "" {
				labels = append(labels, counter.via)
			}
			ch <- prometheus.MustNewConstMetric(counter.desc, prometheus.CounterValue, float64(n), labels...)
		}
	}
}
