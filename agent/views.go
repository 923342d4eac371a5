package agent

import (
	"cmp"
	"errors"
	"os"

	"shoal/model"
)

// errNoSnapshot is the answer while nothing is known yet.
var errNoSnapshot = errors.New("the agent knows nothing yet: it waits for its store and the engine; see shoal status")

func (a *Agent) snapshot() (*model.Snapshot, error) {
	if s := a.catalog.Snapshot(); s != nil {
		return s, nil
	}
	return nil, errNoSnapshot
}

func (a *Agent) status() Status {
	st := Status{
		Version: a.version, Node: a.config.Node, Addr: a.config.Advertise, Pid: os.Getpid(), Started: a.started,
		Kernel: kernelRelease(), Pool: a.config.Pool, DNS: a.config.DNS, Zone: a.config.Zone,
		Engine: "connected", Store: a.storeStatus(), Problems: len(a.problems.list()),
	}
	a.mu.Lock()
	if a.engine != nil {
		st.Engine = a.engine.Error()
	}
	a.mu.Unlock()
	if s := a.catalog.Snapshot(); s != nil {
		st.Nodes, st.Services = s.Nodes, len(s.Services)
		for i := range s.Services {
			st.Tasks += len(s.Services[i].Tasks)
			st.Rotation += len(s.Services[i].InRotation())
		}
	}
	return st
}

func (a *Agent) storeStatus() StoreStatus {
	s := StoreStatus{Health: a.store.Health(), Status: a.catalog.Status()}
	s.LastError = cmp.Or(s.LastError, s.Error)
	return s
}

func (a *Agent) services() ([]ServiceView, error) {
	s, err := a.snapshot()
	if err != nil {
		return nil, err
	}
	views := []ServiceView{}
	for i := range s.Services {
		svc := &s.Services[i]
		views = append(views, ServiceView{
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
		tasks = append(tasks, s.Services[i].Tasks...)
	}
	return tasks, nil
}
