package agent

import (
	"cmp"
	"errors"
	"net/http"
	"net/netip"
	"os"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"shoal/api"
	"shoal/catalog"
	"shoal/diagnose"
	"shoal/model"
	"shoal/store"
)

// backend is what the API serves.
func (a *Agent) backend() api.Backend {
	return api.Backend{
		Status: a.status, Services: a.services, Tasks: a.tasks, Problems: a.problems.List,
		Explain: a.inspect.Explain, Lookup: a.inspect.Lookup, Trace: a.inspect.Trace,
		Nodes: a.member.nodes, RemoveNode: a.member.removeNode, SetRole: a.member.setRole,
		Tokens: a.member.tokens, CreateToken: a.member.createToken, RemoveToken: a.member.reg.RemoveToken,
		Stop: a.stop, RemoveService: a.catalog.RemoveService,
		Backup: a.backup, Metrics: a.metricsHandler(),
	}
}

func (a *Agent) metricsHandler() http.Handler {
	return promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{})
}

// inspector is what explains and traces, out of the agent's parts.
func (a *Agent) inspector() *diagnose.Inspector {
	return &diagnose.Inspector{
		Zone: a.config.Zone, DNS: netip.AddrPortFrom(a.config.DNS, 53),
		Snapshot: a.snapshot, Problems: a.problems.List, Firewall: a.firewallProblems, Engine: a.engineError,
		Names: a.dns, Plane: a.plane, Ports: a.balancer, Mesh: a.ingress, Routes: a.fabric,
		Peer: a.member.part,
	}
}

// engineError is why the engine does not answer; nil if it does.
func (a *Agent) engineError() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.engine
}

// errNoSnapshot is the answer while nothing is known yet.
var errNoSnapshot = errors.New("the agent knows nothing yet: it waits for its store and the engine; see shoal status")

func (a *Agent) snapshot() (*model.Snapshot, error) {
	if s := a.catalog.Snapshot(); s != nil {
		return s, nil
	}
	return nil, errNoSnapshot
}

func (a *Agent) status() api.Status {
	st := api.Status{
		Version: a.version, Node: a.config.Node, Addr: a.config.Advertise, Pid: os.Getpid(), Started: a.started,
		Kernel: kernelRelease(), Plane: a.plane.Name(), PlaneWhy: a.plane.why, SocketGroup: a.plane.socketGroup, SocketWhy: a.plane.socketWhy, Pool: a.config.Pool, DNS: a.config.DNS, Zone: a.config.Zone,
		Engine: "connected", Store: storeStatus(a.store.Health(), a.catalog.Status()),
	}
	for _, p := range a.problems.List() {
		if p.Notice {
			st.Notices++
		} else {
			st.Problems++
		}
	}
	if err := a.engineError(); err != nil {
		st.Engine = err.Error()
	}
	if s := a.catalog.Snapshot(); s != nil {
		st.Nodes, st.Services = s.Nodes, len(s.Services)
		for i := range s.Services {
			st.Tasks += len(s.Services[i].Tasks)
			st.Rotation += len(s.Services[i].InRotation())
		}
	}
	return st
}

func (a *Agent) services() ([]api.ServiceView, error) {
	s, err := a.snapshot()
	if err != nil {
		return nil, err
	}
	views := []api.ServiceView{}
	for _, svc := range s.Services {
		views = append(views, api.ServiceView{
			ID: svc.ID.String(), Mode: svc.Spec.Mode, VIP: svc.VIP, Scheduler: svc.Spec.Scheduler, Ports: svc.Ports(),
			Tasks: len(svc.Tasks), InRotation: len(svc.InRotation()), IdleSince: svc.IdleSince,
		})
	}
	return views, nil
}

func (a *Agent) tasks() ([]model.Task, error) {
	s, err := a.snapshot()
	if err != nil {
		return nil, err
	}
	tasks := []model.Task{}
	for i := range s.Services {
		for _, t := range s.Services[i].Tasks {
			tasks = append(tasks, *t)
		}
	}
	return tasks, nil
}

// storeStatus is the store's account of itself, and the catalog's.
func storeStatus(h store.Health, s catalog.Status) api.StoreStatus {
	return api.StoreStatus{
		Endpoints: h.Endpoints, Embedded: h.Embedded, Role: string(h.Role), Connected: h.Connected,
		Leader: h.Leader, Version: h.Version, DBSize: h.DBSize, Revision: s.Revision,
		Lease: s.Lease, Unsaved: s.Unsaved, Unreadable: s.Unreadable, FromCache: s.FromCache, Listed: s.Listed,
		Snapshot: s.Snapshot, SnapshotAge: s.SnapshotAge, Waiting: s.Waiting, LastError: cmp.Or(s.LastError, h.Error),
	}
}
