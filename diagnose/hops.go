package diagnose

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"shoal/model"
)

// Part reads this host's part of a trace. If another host asks, no task is
// connected to.
func (in *Inspector) Part(ctx context.Context, q Question, asked bool) (p Part, err error) {
	s, err := in.Snapshot()
	if err != nil {
		return p, err
	}
	e := newWalk("", s.Self.Name)
	e.reads = asked
	switch {
	case q.name != "":
		p.Next, err = in.traceName(ctx, e, s, q)
	case q.port != 0:
		if asked {
			q.at = s.Self.Addr
		}
		p.Next, err = in.tracePort(ctx, e, s, q)
	case q.sender != "":
		p.Next = sendersHere(s, q.sender)
	default:
		err = in.traceTasks(e, s, q)
	}
	p.Steps = e.Steps
	return p, err
}

// sendersHere are this host's containers of that name or ID, at most as many as
// tell that there are several.
func sendersHere(s *model.Snapshot, name string) (here []Hop) {
	for _, c := range findContainers(s, name) {
		if c.Node == s.Self.Name && len(c.Addrs) > 0 && len(here) < 2 {
			here = append(here, Hop{c.Addrs[0], c.Node})
		}
	}
	return here
}

func (in *Inspector) traceName(ctx context.Context, e *walk, s *model.Snapshot, q Question) ([]Hop, error) {
	l, id, err := in.lookupStep(e, q.name, q.from)
	if err != nil {
		return nil, err
	}
	// A port's name leads to its service's name.
	if target := srvTarget(l.Answers); target != "" {
		if l, id, err = in.lookupStep(e, target, q.from); err != nil {
			return nil, err
		}
	}
	svc, ok := s.Service(id)
	if !ok {
		return nil, nil
	}
	vip, tasks := reached(svc, addresses(l.Answers))
	switch {
	case vip:
		tasks = in.explainService(ctx, e, s, svc)
	case len(tasks) > 0:
		e.step("service", true, "%s: the name leads straight to %d of its %d tasks", svc.ID, len(tasks), len(svc.Tasks))
	case len(l.Answers) > 0:
		e.step("service", false, "%s: what was answered is neither its VIP nor a task of it", svc.ID)
	}
	return in.traceRoutes(e, s, tasks), nil
}

// reached tells what of a service answered addresses are: its VIP, or tasks.
func reached(svc *model.Service, answered []netip.Addr) (vip bool, tasks []netip.Addr) {
	for _, addr := range answered {
		switch {
		case addr == svc.VIP:
			vip = true
		case hasTask(svc, addr):
			tasks = append(tasks, addr)
		}
	}
	return vip, tasks
}

func hasTask(svc *model.Service, addr netip.Addr) bool {
	return slices.ContainsFunc(svc.Tasks, func(t *model.Task) bool { return t.Addr == addr })
}

func (in *Inspector) tracePort(ctx context.Context, e *walk, s *model.Snapshot, q Question) ([]Hop, error) {
	var owner *model.Service
	for _, c := range s.Published {
		if c.Port == q.port && c.Protocol == q.proto {
			owner, _ = s.Service(c.Service)
		}
	}
	if owner == nil {
		e.step("port", false, "%d/%s is published by no service; a container needs the label shoal.publish=%d:TARGET", q.port, q.proto, q.port)
		return nil, nil
	}
	e.step("port", true, "%d/%s is published by %s", q.port, q.proto, owner.ID)
	return in.traceMesh(ctx, e, s, owner, q)
}

func (in *Inspector) traceContainer(e *walk, s *model.Snapshot, addr netip.Addr) {
	own := s.Containers.Of(s.Self.Name)
	i := slices.IndexFunc(own, func(c *model.Container) bool {
		return slices.ContainsFunc(c.Tasks, func(t model.Task) bool { return t.Addr == addr })
	})
	if i < 0 {
		e.step("container", false, "no container of this host is a task at %s", addr)
		return
	}
	c := own[i]
	text, ok := fmt.Sprintf("%s (%.12s) at %s", c.Name, c.ID, addr), true
	for _, t := range c.Tasks {
		if t.Addr == addr {
			text += fmt.Sprintf("\na task of %s, %s", t.Service, t.State)
			ok = ok && t.InRotation()
		}
	}
	if err := in.Engine(); err != nil {
		text, ok = text+fmt.Sprintf("\nas the engine last said, which is away: %v", err), false
	}
	e.step("container", ok, "%s", text)
}
