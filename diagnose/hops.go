package diagnose

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"shoal/api"
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
		err = in.traceName(ctx, e, s, q, &p)
	case q.port != 0:
		if asked {
			q.at = s.Self.Addr
		}
		err = in.tracePort(ctx, e, s, q, &p)
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
		if c.Node != s.Self.Name || len(here) == 2 {
			continue
		}
		h := Hop{s.Self.Addr, c.Node, c.ID}
		if len(c.Addrs) > 0 {
			h.Addr = c.Addrs[0]
		}
		here = append(here, h)
	}
	return here
}

func (in *Inspector) traceName(ctx context.Context, e *walk, s *model.Snapshot, q Question, p *Part) error {
	var l *api.Lookup
	var id model.ServiceID
	var err error
	if q.byAddr {
		l, id, err = in.lookup(q.name, q.from.String())
	} else {
		l, id, err = in.lookupStep(e, s, q.name, q.from)
	}
	if err != nil {
		return err
	}
	// A port's name leads to its service's name.
	if target := srvTarget(l.Answers); target != "" {
		if l, id, err = in.lookupStep(e, s, target, q.from); err != nil {
			return err
		}
	}
	svc, ok := s.Service(id)
	if !ok {
		return nil
	}
	p.Service = svc.ID.String()
	addrs := addresses(l.Answers)
	c := in.clientHere(ctx, s, q)
	if c != nil {
		leaves := len(addrs) == 0 || in.traceLeaving(e, s, c, addrs[0])
		if leaves && !q.byAddr {
			in.traceResolver(ctx, e, s, c, q.name, svc)
		}
	}
	vip, tasks := reached(svc, addrs)
	switch {
	case vip:
		tasks = in.explainWay(ctx, e, s, svc, c, q.wants).chosen
	case len(tasks) > 0:
		e.step("service", true, "%s: the name leads straight to %d of its %d tasks", svc.ID, len(tasks), len(svc.Tasks))
	case len(addrs) > 0:
		e.step("service", false, "%s: what was answered is neither its VIP nor a task of it", svc.ID)
	default:
		in.explainWay(ctx, e, s, svc, c, q.wants)
	}
	in.dropsFrom(e, s, svc, q, tasks)
	p.Next = in.traceRoutes(e, s, tasks)
	return nil
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

func (in *Inspector) tracePort(ctx context.Context, e *walk, s *model.Snapshot, q Question, p *Part) (err error) {
	owner := publisher(s, askedPort{q.port, q.proto})
	if owner == nil {
		step := in.unpublishedStep(ctx, s, s.Self, askedPort{q.port, q.proto})
		step.Node = e.node
		e.add(step)
		return nil
	}
	p.Service = owner.ID.String()
	e.step("port", true, "%d/%s is published by %s", q.port, q.proto, owner.ID)
	p.Next, err = in.traceMesh(ctx, e, s, owner, q)
	return err
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
