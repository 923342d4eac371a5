package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"shoal/api"
	"shoal/catalog"
	"shoal/cluster"
)

// nodes are all hosts as this one sees them.
func (m *membership) nodes(ctx context.Context) ([]api.NodeView, error) {
	s := m.catalog.Snapshot()
	if s == nil {
		return nil, errNoSnapshot
	}
	roles := map[string]string{}
	external := m.external()
	if members, err := m.store.Members(ctx); err == nil && !external {
		for _, st := range members {
			roles[st.Node] = map[bool]string{true: "server", false: "learner"}[st.Voter]
		}
	} else if !external { // without the store, as it last told: who is to be started again
		for _, name := range m.store.Servers() {
			roles[name] = "server"
		}
	}
	states := map[string]cluster.PeerState{}
	m.mu.Lock()
	if m.live != nil {
		for _, p := range m.live.States() {
			states[p.Node] = p
		}
	}
	m.mu.Unlock()
	tasks := map[string]int{}
	for i := range s.Services {
		for _, t := range s.Services[i].Tasks {
			tasks[t.Node]++
		}
	}
	ways := m.ways()
	views := []api.NodeView{}
	for _, n := range s.Nodes {
		v := api.NodeView{Node: n, Alive: n.Alive, Tasks: tasks[n.Name], Role: roles[n.Name]}
		if v.Role == "" && !external && len(roles) > 0 {
			v.Role = "client"
		}
		if n.Name == m.config.Node {
			v.Alive, v.Reason = true, "this host"
		} else if p, ok := states[n.Name]; ok {
			v.Reason, v.RTT = p.Reason, api.Duration(p.RTT)
		}
		v.Transport = ways[n.Name]
		views = append(views, v)
	}
	return views, nil
}

// restartTime is how long an agent may take to restart.
const restartTime = 10 * time.Second

// silent tells whether a host's agent was not heard for longer than a restart
// takes, though the host itself may be up.
func (m *membership) silent(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live == nil {
		return false
	}
	for _, p := range m.live.States() {
		if p.Node == name {
			return time.Since(p.Heard) > restartTime && time.Since(p.Since) > restartTime
		}
	}
	return false
}

// removeNode forgets a host that is gone for good.
func (m *membership) removeNode(ctx context.Context, name string) error {
	if name == m.config.Node {
		return fmt.Errorf("%s is this host: run shoal node rm on another, with this one's agent stopped", name)
	}
	err := m.catalog.RemoveNode(ctx, name, m.silent(name))
	if err != nil && !errors.Is(err, catalog.ErrNoNode) {
		return err
	}
	switch removed := m.reg.Remove(ctx, name); {
	case removed == nil:
		return nil
	case !errors.Is(removed, cluster.ErrRemoved):
		return removed
	case err != nil:
		return fmt.Errorf("%w: no host is called %q, see shoal nodes", api.ErrNotFound, name)
	}
	return nil
}

// promote makes this host a server of the store.
func (m *membership) promote(ctx context.Context) (string, error) {
	advice, err := m.store.Promote(ctx)
	m.doors.signal() // it may listen on more ports now
	if err != nil {
		return "", err
	}
	return advice, m.holdCA(ctx)
}

// holdCA gets the CA's key for a host that serves the store.
func (m *membership) holdCA(ctx context.Context) error {
	if err := m.id.FetchCA(ctx, m.servers()); err != nil {
		return fmt.Errorf("%s serves the store now, but was not given the CA's key yet, so that it cannot admit hosts: %w; it is tried again", m.config.Node, err)
	}
	return m.reg.Enrol(ctx, m.id)
}

// demote makes this host a client of the store again.
func (m *membership) demote(ctx context.Context) (string, error) {
	advice, err := m.store.Demote(ctx)
	m.doors.signal()
	if err != nil {
		return "", err
	}
	if err := m.id.DropCA(); err != nil {
		return "", err
	}
	return advice, m.reg.Enrol(ctx, m.id)
}
