package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"shoal/api"
	"shoal/catalog"
	"shoal/diagnose"
	"shoal/kernel/cgroups"
	"shoal/model"
	"shoal/store"
)

// backend is what the API serves.
func (a *Agent) backend() api.Backend {
	return api.Backend{
		Status: a.status, Settings: a.settings, Services: a.services, Tasks: a.tasks, Problems: a.ownProblems, ClusterProblems: a.clusterProblems,
		Explain: a.inspect.Explain, Lookup: a.inspect.Lookup, Trace: a.inspect.Trace,
		Events: a.events.Read, Traffic: a.traffic, UI: a.ui,
		Nodes: a.member.nodes, RemoveNode: a.member.removeNode, SetRole: a.member.setRole,
		Tokens: a.member.tokens, CreateToken: a.member.createToken, RemoveToken: a.member.removeToken,
		Stop: a.stop, RemoveService: a.removeService, FindService: a.inspect.Service,
		Backup: a.backup, Metrics: a.metricsHandler(), Alive: a.alive, Ready: a.ready,
	}
}

// inspector is what explains and traces, out of the agent's parts.
func (a *Agent) inspector() *diagnose.Inspector {
	in := &diagnose.Inspector{
		Zone: a.config.Zone, DNS: netip.AddrPortFrom(a.config.DNS, 53),
		Snapshot: a.snapshot, Problems: a.problems.List, Firewall: a.firewallProblems, Engine: a.engineError,
		Names: a.dns, Plane: a.plane, Ports: a.balancer, Mesh: a.ingress, Routes: a.fabric,
		MeshNetwork: a.config.Network,
		Drops:       droppedBy, Carries: a.carries,
		Look:    a.watcher.Look,
		Outside: func(pid int) (bool, error) { return cgroups.Outside(pid, a.plane.socketGroup) },
		Peer:    a.member.part, PeerSight: a.member.sight,
	}
	if a.plane != nil {
		in.SocketGroup, in.SocketWhy = a.plane.socketGroup, a.plane.socketWhy
	}
	return in
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
	for _, p := range a.ownProblems() {
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
		for _, n := range s.Nodes {
			if !n.Alive && n.Name != s.Self.Name {
				st.Dead = append(st.Dead, n.Name)
			}
		}
		for i := range s.Services {
			st.Tasks += len(s.Services[i].Tasks)
			st.Rotation += len(s.Services[i].InRotation())
		}
	}
	return st
}

// settings are those that the agent runs with. The address is the one it found where
// none was set.
func (a *Agent) settings() []api.Setting {
	all := slices.Clone(a.config.Effective)
	for i := range all {
		if s := &all[i]; s.Name == "advertise" && s.Value == "" {
			s.Value = a.config.Advertise.String()
		}
	}
	return all
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

// removeService forgets the service that a word means. One of which no snapshot has
// anything may have a record that cannot be read: it is meant by stack/name.
func (a *Agent) removeService(ctx context.Context, word string) (model.ServiceID, error) {
	id, err := a.inspect.Service(word)
	if errors.Is(err, api.ErrNotFound) {
		if unseen, bad := model.ParseServiceID(word); bad == nil {
			id, err = unseen, nil
		}
	}
	if err != nil {
		return id, err
	}
	return id, asNotFound(a.catalog.RemoveService(ctx, id), model.ErrNoService)
}

// asNotFound has an error that is such a one be an [api.ErrNotFound].
func asNotFound(err, such error) error {
	if errors.Is(err, such) {
		return fmt.Errorf("%w: %w", api.ErrNotFound, err)
	}
	return err
}

func (a *Agent) tasks() ([]api.TaskView, error) {
	s, err := a.snapshot()
	if err != nil {
		return nil, err
	}
	tasks := []api.TaskView{}
	for i := range s.Services {
		for _, t := range s.Services[i].Tasks {
			tasks = append(tasks, api.ViewTask(t))
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
		Snapshot: s.Snapshot, SnapshotAge: api.Duration(s.SnapshotAge), Waiting: s.Waiting, LastError: cmp.Or(s.LastError, h.Error),
	}
}
