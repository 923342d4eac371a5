package ui

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"shoal/api"
	"shoal/diagnose"
	"shoal/model"
	"shoal/traffic"
)

const testToken = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"

// world is a cluster as the agent would tell of it, that a test changes.
type world struct {
	mu        sync.Mutex
	snapshot  *model.Snapshot
	problems  []model.Problem
	explained *api.Explanation
	opened    uint64
	began     time.Time
	asked     int // for the status
}

var (
	began = time.Date(2026, 5, 4, 9, 30, 0, 0, time.UTC)
	shop  = func(name string) model.ServiceID { return model.ServiceID{Stack: "shop", Name: name} }
)

// task adds a task to a service of a Snapshot, which has it made if it is not there.
func task(s *model.Snapshot, id model.ServiceID, node int, state model.State, spec model.Spec) {
	svc, ok := s.Service(id)
	if !ok {
		n := len(s.Services)
		svc = &model.Service{ID: id, VIP: netip.AddrFrom4([4]byte{10, 96, 0, byte(20 + n)}), Spec: spec}
		at := 0
		for at < n && s.Services[at].ID.Compare(id) < 0 {
			at++
		}
		s.Services = append(s.Services[:at], append([]*model.Service{svc}, s.Services[at:]...)...)
	}
	n := len(svc.Tasks) + 1
	svc.Tasks = append(svc.Tasks, &model.Task{
		Service: id, Node: string(rune('a' + node)), Container: fmt.Sprintf("%x%012x", len(id.Name), n*7919), Name: fmt.Sprintf("%s-%s-%d", id.Stack, id.Name, n),
		Addr:  netip.AddrFrom4([4]byte{10, 244, byte(node + 1), byte(10*len(s.Services) + n)}),
		State: state, Since: began, Started: began, Weight: 1, Spec: &spec,
	})
}

// newWorld is three hosts, of which one is dead, and a shop.
func newWorld() *world {
	s := &model.Snapshot{Revision: 1}
	for i, name := range []string{"a", "b", "c"} {
		s.Nodes = append(s.Nodes, model.Node{Name: name, Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), Number: uint16(i + 1),
			Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i + 1), 0}), 24), Alive: name != "c"})
	}
	s.Self = s.Nodes[0]
	http := model.Spec{Mode: model.ModeVIP, Scheduler: "rr", Ports: []model.Port{{Port: 80, Target: 8000, Protocol: model.TCP}},
		Publish: []model.PublishedPort{{Published: 8080, Target: 8000, Protocol: model.TCP}}}
	inner := model.Spec{Mode: model.ModeVIP, Scheduler: "rr", Ports: []model.Port{{Port: 5432, Target: 5432, Protocol: model.TCP}}}
	for i := range 4 {
		task(s, shop("web"), i%2, model.Running, http)
	}
	for i := range 3 {
		task(s, shop("cart"), i%2, model.Running, inner)
	}
	task(s, shop("db"), 1, model.Running, inner)
	task(s, shop("db"), 2, model.Lost, inner)
	task(s, shop("mail"), 0, model.Unhealthy, inner)
	task(s, shop("queue"), 0, model.Running, inner)
	task(s, model.ServiceID{Stack: "obs", Name: "metrics"}, 0, model.Running, inner)
	s.Published = []model.PortClaim{{Protocol: model.TCP, Port: 8080, Service: shop("web")}}
	w := &world{snapshot: s, began: time.Now()}
	w.problems = []model.Problem{
		{Node: "a", Code: model.LabelsInvalid, Kind: "container", Object: "shop-import-1", Reason: `shoal.publish=80880:80: the port is not in 1-65535`, Since: began},
		{Node: "a", Code: model.SchedulerNearest, Kind: "service", Object: "shop/cart", Reason: "nftables has no scheduler lc: rr is used", Notice: true, Since: began},
	}
	w.explained = &api.Explanation{What: "shop/web", OK: true, Steps: []api.Step{
		{What: "service", OK: true, Evidence: "shop/web: 4 tasks, 4 in rotation"},
		{What: "name", OK: true, Evidence: "web.shop.mesh.internal. is 10.96.0.20, says 10.96.0.10:53 (NOERROR)"},
		{What: "socket", OK: true, Evidence: "connect4 at /sys/fs/cgroup: program 71, link 12"},
		{What: "VIP", OK: true, Evidence: "10.96.0.20 is in the map services: chain web"},
		{What: "balancer", OK: true, Evidence: "nftables carries it, by 1 frontend"},
		{What: "task", OK: true, Evidence: "10.244.1.11, port 8000, weight 1, 3 active and 0 other connections (shop-web-1 on a, running)"},
		{What: "task", OK: true, Evidence: "10.244.2.12, port 8000, weight 1, 2 active and 0 other connections (shop-web-2 on b, running)"},
		{What: "task", OK: true, Evidence: "10.244.1.13, port 8000, weight 1, 4 active and 0 other connections (shop-web-3 on a, running)"},
	}}
	return w
}

// change makes another Snapshot.
func (w *world) change(f func(s *model.Snapshot)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := *w.snapshot
	s.Revision++
	s.Services = nil
	for _, svc := range w.snapshot.Services {
		one := *svc
		one.Tasks = nil
		for _, t := range svc.Tasks {
			copied := *t
			one.Tasks = append(one.Tasks, &copied)
		}
		s.Services = append(s.Services, &one)
	}
	f(&s)
	w.snapshot = &s
}

func (w *world) locked() func() {
	w.mu.Lock()
	return w.mu.Unlock
}

// source is what the agent has of it. The views are as the agent makes them.
func (w *world) source() Source {
	return Source{
		Snapshot: func() *model.Snapshot { defer w.locked()(); return w.snapshot },
		Status: func() api.Status {
			defer w.locked()()
			w.asked++
			st := api.Status{Version: "1.0.0", Node: "a", Addr: w.snapshot.Self.Addr, Plane: "nftables", SocketGroup: "/sys/fs/cgroup", Zone: "mesh.internal",
				Engine: "connected", Store: api.StoreStatus{Connected: true, Role: "server", SnapshotAge: api.Duration(time.Since(w.began))}, Services: len(w.snapshot.Services), Problems: len(w.problems)}
			for _, svc := range w.snapshot.Services {
				st.Tasks += len(svc.Tasks)
				st.Rotation += len(svc.InRotation())
			}
			return st
		},
		Services: func() (views []api.ServiceView, _ error) {
			defer w.locked()()
			for _, s := range w.snapshot.Services {
				views = append(views, api.ServiceView{ID: s.ID.String(), Mode: s.Spec.Mode, VIP: s.VIP, Scheduler: s.Spec.Scheduler, Ports: s.Ports(), Tasks: len(s.Tasks), InRotation: len(s.InRotation())})
			}
			return views, nil
		},
		Tasks: func() (tasks []api.TaskView, _ error) {
			defer w.locked()()
			for _, s := range w.snapshot.Services {
				for _, t := range s.Tasks {
					tasks = append(tasks, api.ViewTask(t))
				}
			}
			return tasks, nil
		},
		Problems: func(context.Context) []model.Problem {
			defer w.locked()()
			all := slices.Clone(w.problems)
			for _, p := range diagnose.StateProblems(w.snapshot, nil) {
				if p.Code == model.HostDead || p.Code == model.ServiceDown {
					all = append(all, p)
				}
			}
			return all
		},
		Nodes: func(context.Context) (all []api.NodeView, _ error) {
			defer w.locked()()
			for i, n := range w.snapshot.Nodes {
				v := api.NodeView{Node: n, Alive: n.Alive, Role: "server", Reason: []string{"this host", "answers", "no answer for 4s"}[i], Tasks: 5 - i, RTT: api.Duration(time.Duration(i) * 800 * time.Microsecond)}
				if i > 0 {
					v.Transport = "vxlan"
				}
				all = append(all, v)
			}
			return all, nil
		},
		Traffic: func(context.Context) (api.Traffic, error) { return w.traffic(), nil },
		Explain: func(_ context.Context, what string) (*api.Explanation, error) {
			defer w.locked()()
			if what == "shop/web" {
				return w.explained, nil
			}
			return nil, fmt.Errorf("%w: no service is called %q", api.ErrNotFound, what)
		},
	}
}

func (w *world) traffic() api.Traffic {
	defer w.locked()()
	at := time.Since(w.began)
	c := traffic.Count{Run: "1", At: at}
	open := 1
	flow := func(from traffic.Client, to string, perSecond float64) {
		open++
		n := uint64(perSecond * at.Seconds())
		c.Flows = append(c.Flows, traffic.Flow{Pair: traffic.Pair{From: from, To: shop(to)}, Opened: n, Open: open})
	}
	svc := func(name string) traffic.Client {
		return traffic.Client{Kind: traffic.KindService, Name: "shop/" + name}
	}
	flow(traffic.Client{Kind: traffic.KindOutside}, "web", 120)
	flow(svc("web"), "cart", 80)
	flow(svc("web"), "db", 12)
	flow(svc("cart"), "db", 33)
	flow(svc("cart"), "queue", 6)
	flow(traffic.Client{Kind: traffic.KindHost, Name: "a"}, "web", 1)
	flow(traffic.Client{Kind: traffic.KindContainer, Name: "nightly-report"}, "db", 0)
	flow(svc("queue"), "mail", 0.4)
	sums := map[model.ServiceID]uint64{}
	for _, f := range c.Flows {
		sums[f.To] += f.Opened
	}
	for id, n := range sums {
		c.Services = append(c.Services, traffic.Service{ID: id, Opened: n})
	}
	return api.Traffic{Hosts: map[string]traffic.Count{"a": c}, Unknown: map[string]string{}}
}

// serve serves the page.
func (w *world) serve(t *testing.T, o Options) *httptest.Server {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	srv := httptest.NewServer(Handler(w.source(), o))
	t.Cleanup(srv.Close)
	return srv
}
