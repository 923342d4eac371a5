package ui

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"shoal/api"
	"shoal/model"
	"shoal/traffic"
)

// Source is where the page's data comes from: the API's own views. Every field
// must be set.
type Source struct {
	Snapshot func() *model.Snapshot // nil: nothing is known yet
	Status   func() api.Status
	Services func() ([]api.ServiceView, error)
	Tasks    func() ([]api.TaskView, error)
	Problems func(ctx context.Context) []model.Problem // of all hosts
	Nodes    func(ctx context.Context) ([]api.NodeView, error)
	Traffic  func(ctx context.Context) (api.Traffic, error)
	Explain  func(ctx context.Context, what string) (*api.Explanation, error)
}

// Document is all that the page shows, in sections of rows. A stream begins with a
// whole one; what comes later has the rows that changed, null for one that is gone.
type Document struct {
	Cluster  map[string]api.Status   `json:"cluster,omitzero"`  // one row, ""
	Hosts    map[string]api.NodeView `json:"hosts,omitzero"`    // by name
	Services map[string]Service      `json:"services,omitzero"` // by ID
	Tasks    map[string]Task         `json:"tasks,omitzero"`    // by service, host and container
	Ports    map[string]Port         `json:"ports,omitzero"`    // of the routing mesh, by "8080/tcp"
	Problems map[string]Problem      `json:"problems,omitzero"` // by what they are about
	Health   map[string]model.Health `json:"health,omitzero"`   // one row, "": what shoal status says of the cluster
	Rates    map[string]Rate         `json:"rates,omitzero"`    // of services that have counters, by ID
	Flows    map[string]Flow         `json:"flows,omitzero"`    // by client and service
	Missing  map[string]string       `json:"missing,omitzero"`  // hosts whose traffic is not known, and why
}

// Most rows that a section has. The cluster's row has the real numbers.
const (
	mostServices = 10_000
	mostTasks    = 20_000
	mostFlows    = 2_000
)

// Service is a service, as shoal services has it.
type Service struct {
	api.ServiceView
	Published []string `json:"published,omitempty"` // its ports of the routing mesh, "8080/tcp"
}

// Task is a task, as shoal tasks has it, without its labels.
type Task struct {
	Service   string      `json:"service"`
	Node      string      `json:"node"`
	Container string      `json:"container"` // the beginning of its ID
	Name      string      `json:"name"`
	Addr      netip.Addr  `json:"addr"`
	State     model.State `json:"state"`
	Since     time.Time   `json:"since"`
	Weight    int         `json:"weight"`
	Started   time.Time   `json:"started"`
}

// Port is a port of the routing mesh.
type Port struct {
	Port     uint16         `json:"port"`
	Protocol model.Protocol `json:"protocol"`
	Service  string         `json:"service"`
	Targets  []uint16       `json:"targets"` // on the tasks
	IPs      []netip.Addr   `json:"ips,omitempty"`
	Local    bool           `json:"local,omitempty"` // only hosts with a task answer
}

// Problem is one, as shoal problems has it.
type Problem = model.Problem

// Rate is what goes to a service, a second.
type Rate struct {
	Connections float64 `json:"connections"`
	BytesIn     float64 `json:"bytesIn"`
	BytesOut    float64 `json:"bytesOut"`
}

// Flow is what goes from a client to a service.
type Flow struct {
	From        traffic.Client `json:"from"`
	To          string         `json:"to"`
	Connections float64        `json:"connections"` // new ones, a second
	Open        int            `json:"open"`        // established now
}

// fill fills the sections that a Snapshot says.
func (d *Document) fill(s *model.Snapshot, services []api.ServiceView, tasks []api.TaskView) {
	d.Services, d.Tasks, d.Ports = map[string]Service{}, map[string]Task{}, map[string]Port{}
	published := map[string][]string{}
	for _, p := range s.Published {
		key := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		published[p.Service.String()] = append(published[p.Service.String()], key)
		d.Ports[key] = port(s, p)
	}
	for _, v := range services[:min(len(services), mostServices)] {
		d.Services[v.ID] = Service{v, published[v.ID]}
	}
	for _, t := range tasks[:min(len(tasks), mostTasks)] {
		d.Tasks[t.Service+" "+t.Node+" "+t.Container] = Task{
			Service: t.Service, Node: t.Node, Container: t.Container[:min(len(t.Container), 12)], Name: t.Name, Addr: t.Addr,
			State: t.State, Since: t.Since, Weight: t.Weight, Started: t.Started,
		}
	}
}

// port is a claimed port, with what the service's tasks say of it.
func port(s *model.Snapshot, c model.PortClaim) Port {
	p := Port{Port: c.Port, Protocol: c.Protocol, Service: c.Service.String(), Targets: []uint16{}}
	svc, ok := s.Service(c.Service)
	if !ok {
		return p
	}
	for _, t := range svc.Tasks {
		for _, l := range t.Spec.Publish {
			if l.Published != c.Port || l.Protocol != c.Protocol {
				continue
			}
			p.Local = p.Local || t.Spec.PublishLocal
			if !slices.Contains(p.Targets, l.Target) {
				p.Targets = append(p.Targets, l.Target)
			}
			if l.IP.IsValid() && !slices.Contains(p.IPs, l.IP) {
				p.IPs = append(p.IPs, l.IP)
			}
		}
	}
	slices.Sort(p.Targets)
	slices.SortFunc(p.IPs, netip.Addr.Compare)
	return p
}

// cluster is the status without what changes all the time, and the hosts, which are
// a section of their own.
func cluster(st api.Status) map[string]api.Status {
	st.Nodes = nil
	st.Store.Revision, st.Store.Snapshot, st.Store.SnapshotAge, st.Store.DBSize = 0, 0, 0, 0
	return map[string]api.Status{"": st}
}

func hosts(all []api.NodeView) map[string]api.NodeView {
	rows := map[string]api.NodeView{}
	for _, n := range all {
		n.RTT = api.Duration(time.Duration(n.RTT).Round(100 * time.Microsecond)) // a change that nobody sees is no change
		rows[n.Name] = n
	}
	return rows
}

// problemsOf are the problems of all hosts, and what they make of the cluster.
func problemsOf(all []model.Problem) *Document {
	d := &Document{Problems: map[string]Problem{}, Health: map[string]model.Health{"": model.HealthOf(all)}}
	for _, p := range all {
		d.Problems[fmt.Sprintf("%s %s %s %s %s", p.Node, p.Kind, p.Object, p.Code, p.Reason)] = p
	}
	return d
}

// fillTraffic fills the sections of traffic. Of more flows than a section has, it
// has the busiest.
func (d *Document) fillTraffic(p traffic.Picture, unknown map[string]string) {
	d.Rates, d.Flows, d.Missing = map[string]Rate{}, map[string]Flow{}, map[string]string{}
	for _, s := range p.Services {
		d.Rates[s.ID.String()] = Rate{round(s.Connections), round(s.BytesIn), round(s.BytesOut)}
	}
	if len(p.Flows) > mostFlows {
		slices.SortStableFunc(p.Flows, func(a, b traffic.FlowRate) int {
			return cmp.Or(cmp.Compare(b.Connections, a.Connections), cmp.Compare(b.Open, a.Open))
		})
	}
	for _, f := range p.Flows[:min(len(p.Flows), mostFlows)] {
		to := f.To.String()
		d.Flows[f.From.Kind+" "+f.From.Name+" "+to] = Flow{f.From, to, round(f.Connections), f.Open}
	}
	for _, from := range []map[string]string{p.Unknown, unknown} {
		for host, why := range from {
			d.Missing[host] = why
		}
	}
}

// round leaves two digits after the point.
func round(f float64) float64 { return float64(int64(f*100+0.5)) / 100 }
