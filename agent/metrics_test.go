package agent

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"shoal/cluster"
	"shoal/dnsd"
	"shoal/dockerwatch"
	"shoal/lb"
	"shoal/lb/socket"
	"shoal/model"
)

var update = flag.Bool("update", false, "write the tables of docs/metrics.md")

func id(name string) model.ServiceID { return model.ServiceID{Stack: "s", Name: name} }

func services(names ...string) (all []*model.Service) {
	for _, name := range names {
		all = append(all, &model.Service{ID: id(name)})
	}
	return all
}

func TestTheNumberOfSeriesIsBounded(t *testing.T) {
	b := newSeriesBound(2)
	d := counter{prometheus.NewDesc("x", "x", nil, nil), ""}
	other := otherServices
	for _, step := range []struct {
		what   string
		there  []*model.Service
		counts map[model.ServiceID]uint64
		want   map[model.ServiceID]uint64
	}{
		{"few", services("b", "c"), map[model.ServiceID]uint64{id("b"): 1, id("c"): 2}, map[model.ServiceID]uint64{id("b"): 1, id("c"): 2}},
		{"more come, one of them first in order", services("a", "b", "c", "d"),
			map[model.ServiceID]uint64{id("a"): 10, id("b"): 1, id("c"): 2, id("d"): 20}, map[model.ServiceID]uint64{id("b"): 1, id("c"): 2, other: 30}},
		{"an other one goes", services("a", "b", "c"),
			map[model.ServiceID]uint64{id("a"): 11, id("b"): 1, id("c"): 2}, map[model.ServiceID]uint64{id("b"): 1, id("c"): 2, other: 31}},
		{"an other one is made anew", services("a", "b", "c"),
			map[model.ServiceID]uint64{id("a"): 3, id("b"): 1, id("c"): 2}, map[model.ServiceID]uint64{id("b"): 1, id("c"): 2, other: 34}},
		{"there is room again", services("a", "c"),
			map[model.ServiceID]uint64{id("a"): 3, id("c"): 2}, map[model.ServiceID]uint64{id("a"): 3, id("c"): 2, other: 34}},
	} {
		b.admit(step.there)
		if diff := gocmp.Diff(step.want, b.sum(d, maps.All(step.counts))); diff != "" {
			t.Errorf("%s: %s", step.what, diff)
		}
	}
	if err := model.CheckLabel(other.Name); err == nil {
		t.Error("a service can have the name of the others")
	}
}

// collected are what a collector sends, in order.
func collected(t *testing.T, collect func(chan<- prometheus.Metric)) (lines []string) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(collectorFunc(collect))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := ""
			for _, l := range m.GetLabel() {
				labels += " " + l.GetName() + "=" + l.GetValue()
			}
			lines = append(lines, fmt.Sprintf("%s%s %g", f.GetName(), labels, m.GetGauge().GetValue()+m.GetCounter().GetValue()))
		}
	}
	return lines
}

type collectorFunc func(chan<- prometheus.Metric)

func (collectorFunc) Describe(chan<- *prometheus.Desc)      {}
func (f collectorFunc) Collect(ch chan<- prometheus.Metric) { f(ch) }

func TestTasksAreCountedByServiceAndState(t *testing.T) {
	task := func(node string, s model.State) *model.Task { return &model.Task{Node: node, State: s} }
	s := &model.Snapshot{Self: model.Node{Name: "me"}, Services: []*model.Service{
		{ID: id("a"), Tasks: []*model.Task{task("me", model.Running), task("me", model.Running), task("other", model.Running), task("me", model.Draining)}},
		{ID: id("b"), Tasks: []*model.Task{task("other", model.Lost)}},
		{ID: id("c")},
		{ID: id("d"), Tasks: []*model.Task{task("me", model.Running)}}, // has no series of its own
	}}
	m := &serviceMetrics{bound: newSeriesBound(3)}
	m.bound.admit(s.Services)
	got := collected(t, func(ch chan<- prometheus.Metric) { m.collectTasks(ch, s) })
	want := []string{
		"shoal_service_tasks service=_other stack=_other 1",
		"shoal_service_tasks service=a stack=s 4",
		"shoal_service_tasks service=b stack=s 1",
		"shoal_service_tasks service=c stack=s 0",
		"shoal_service_tasks_in_rotation service=_other stack=_other 1",
		"shoal_service_tasks_in_rotation service=a stack=s 3",
		"shoal_service_tasks_in_rotation service=b stack=s 0",
		"shoal_service_tasks_in_rotation service=c stack=s 0",
		"shoal_services state=down 1",
		"shoal_services state=idle 1",
		"shoal_services state=serving 2",
		"shoal_tasks service=_other stack=_other state=running 1",
		"shoal_tasks service=a stack=s state=draining 1",
		"shoal_tasks service=a stack=s state=running 2",
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestConnectionsAreCountedByWhatChoseTheTask(t *testing.T) {
	made := func(name string, connections, led, published uint64) lb.ServiceStats {
		return lb.ServiceStats{Service: id(name), Stats: lb.Stats{Connections: connections, Led: led}, Published: lb.Stats{Connections: published}}
	}
	m := &serviceMetrics{bound: newSeriesBound(1)}
	m.bound.admit(services("a", "b", "c"))
	for _, tt := range []struct {
		what  string
		leads bool
		stats []lb.ServiceStats
		want  []string
	}{
		{"led in connect(), some", true, []lb.ServiceStats{made("a", 10, 7, 2), made("b", 5, 5, 0), made("c", 3, 1, 0)}, []string{
			"shoal_service_connections_total service=_other stack=_other via=connect 6",
			"shoal_service_connections_total service=_other stack=_other via=plane 2",
			"shoal_service_connections_total service=a stack=s via=connect 7",
			"shoal_service_connections_total service=a stack=s via=plane 3",
			"shoal_service_published_connections_total service=_other stack=_other 0",
			"shoal_service_published_connections_total service=a stack=s 2",
		}},
		{"not one service of the others is there", true, []lb.ServiceStats{made("a", 11, 7, 2)}, []string{
			"shoal_service_connections_total service=_other stack=_other via=connect 6",
			"shoal_service_connections_total service=_other stack=_other via=plane 2",
			"shoal_service_connections_total service=a stack=s via=connect 7",
			"shoal_service_connections_total service=a stack=s via=plane 4",
			"shoal_service_published_connections_total service=a stack=s 2",
		}},
		{"nothing is led", false, []lb.ServiceStats{made("a", 12, 0, 2)}, []string{
			"shoal_service_connections_total service=_other stack=_other via=plane 2",
			"shoal_service_connections_total service=a stack=s via=plane 12",
			"shoal_service_published_connections_total service=a stack=s 2",
		}},
	} {
		got := collected(t, func(ch chan<- prometheus.Metric) { m.collectTraffic(ch, tt.stats, tt.leads) })
		if diff := gocmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", tt.what, diff)
		}
	}
}

func TestDeadHostsAreAmongThoseThatHaveSeries(t *testing.T) {
	var peers []cluster.PeerState
	for n := range maxNodeSeries + 50 {
		peers = append(peers, cluster.PeerState{Node: fmt.Sprintf("n%03d", n), Alive: true, RTT: time.Millisecond})
	}
	peers[maxNodeSeries+49].Alive = false
	got := collected(t, func(ch chan<- prometheus.Metric) { collectNodes(ch, peers) })
	if n := len(got); n != maxNodeSeries+maxNodeSeries-1+2 {
		t.Errorf("%d series", n)
	}
	for _, want := range []string{"shoal_node_up node=n149 0", "shoal_node_up node=n000 1", "shoal_nodes state=alive 150", "shoal_nodes state=dead 1"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing", want)
		}
	}
}

func TestTheSizesOfMapsAreTold(t *testing.T) {
	got := collected(t, func(ch chan<- prometheus.Metric) {
		collectSocketMaps(ch, []socket.Size{{Map: "services", Entries: 3, Limit: 100}, {Map: "peers", Entries: 0, Limit: 1000}})
	})
	want := []string{
		"shoal_socket_map_entries map=peers 0", "shoal_socket_map_entries map=services 3",
		"shoal_socket_map_entries_limit map=peers 1000", "shoal_socket_map_entries_limit map=services 100",
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAHostCountsItsOwnProblems(t *testing.T) {
	p := func(node string, code model.Code, notice bool) model.Problem {
		return model.Problem{Node: node, Code: code, Notice: notice}
	}
	got := countProblems([]model.Problem{p("me", model.PortTaken, false), p("me", model.PortTaken, false), p("me", model.NamePublic, true), p("other", model.PortTaken, false)}, "me")
	want := map[problemClass]int{{model.PortTaken, "problem"}: 2, {model.NamePublic, "notice"}: 1}
	if !maps.Equal(got, want) {
		t.Errorf("counts %v, want %v", got, want)
	}
}

// allMetrics are shoal's own metrics, as table rows by name: what an agent's parts register.
func allMetrics(t *testing.T) map[string]string {
	t.Helper()
	reg := prometheus.NewRegistry()
	log := slog.New(slog.NewTextHandler(io.Writer(t.Output()), nil))
	pool := netip.MustParsePrefix("10.96.0.0/16")
	newMetrics(reg, new(Agent))
	_, err := dockerwatch.New(dockerwatch.Options{Node: "n", Pool: pool, Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	names, err := dnsd.New(dnsd.Options{Zone: "mesh.internal", Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, Log: log, Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	names.Shutdown()
	h := newMember(t, 9)
	a := &Agent{config: h.c, log: log, registry: reg}
	if err := a.openCatalog(t.Context(), nil, func(string, ...any) {}); err != nil {
		t.Fatal(err)
	}
	descs := make(chan *prometheus.Desc)
	go func() { reg.Describe(descs); close(descs) }()
	parse := regexp.MustCompile(`^Desc\{fqName: "(\w+)", help: "(.*?)"(?:, unit: ".*")?, constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)
	label := regexp.MustCompile(`(\w+)=`)
	rows := map[string]string{}
	for desc := range descs {
		m := parse.FindStringSubmatch(desc.String())
		if m == nil {
			t.Fatalf("%q is not understood", desc.String())
		}
		if !strings.HasPrefix(m[1], "shoal_") {
			continue // of Go and of the process
		}
		labels := slices.DeleteFunc(strings.Split(m[4], ","), func(l string) bool { return l == "" })
		for _, l := range label.FindAllStringSubmatch(m[3], -1) {
			labels = append(labels, l[1])
		}
		if rows[m[1]] != "" {
			t.Errorf("%s is there twice", m[1])
		}
		rows[m[1]] = fmt.Sprintf("| `%s` | %s | %s | %s |", m[1], metricType(m[1]), cmp.Or(strings.Join(labels, ", "), "–"), strings.ReplaceAll(m[2], `\"`, `"`))
	}
	if err := a.closeStore(); err != nil {
		t.Error(err)
	}
	return rows
}

// metricType is a metric's type by its name; an end-to-end test finds it to be so.
func metricType(name string) string {
	switch {
	case strings.HasSuffix(name, "_total"):
		return "counter"
	case strings.HasSuffix(name, "_duration_seconds"):
		return "histogram"
	}
	return "gauge"
}

// TestTheMetricsAreDocumented: docs/metrics.md has a table in each section, for the metrics whose names begin as a comment says.
// go test ./agent -run Documented -update writes them.
func TestTheMetricsAreDocumented(t *testing.T) {
	const file = "../docs/metrics.md"
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rows := allMetrics(t)
	table := regexp.MustCompile(`(?s)(<!-- metrics: ([\w ]+) -->\n).*?(<!-- end -->)`)
	now := table.ReplaceAllFunc(doc, func(old []byte) []byte {
		m := table.FindSubmatch(old)
		lines := []string{"| metric | type | labels | meaning |", "|---|---|---|---|"}
		for _, name := range slices.Sorted(maps.Keys(rows)) {
			if slices.ContainsFunc(strings.Fields(string(m[2])), func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
				lines = append(lines, rows[name])
				delete(rows, name)
			}
		}
		return fmt.Appendf(nil, "%s%s\n%s", m[1], strings.Join(lines, "\n"), m[3])
	})
	for name := range rows {
		t.Errorf("%s has no section in docs/metrics.md", name)
	}
	if *update {
		err = os.WriteFile(file, now, 0o644)
	} else if diff := gocmp.Diff(strings.Split(string(doc), "\n"), strings.Split(string(now), "\n")); diff != "" {
		t.Errorf("docs/metrics.md is out of date: go test ./agent -run Documented -update writes it anew\n%s", diff)
	}
	if err != nil {
		t.Fatal(err)
	}
}
