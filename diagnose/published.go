package diagnose

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"shoal/api"
	"shoal/ingress"
	"shoal/lb"
	"shoal/model"
)

// explainPublished explains a published port of a host.
func (in *Inspector) explainPublished(ctx context.Context, e *walk, s *model.Snapshot, m *meaning) error {
	owner := publisher(s, m.asked())
	if owner == nil {
		e.add(in.unpublishedStep(ctx, s, m.node, m.asked()))
		return nil
	}
	e.step("port", true, "%d/%s is published by %s", m.port, m.proto, owner.ID)
	in.explainService(ctx, e, s, owner, askedPort{})
	return nil
}

// publisher is the service that a published port belongs to; nil: none.
func publisher(s *model.Snapshot, asked askedPort) *model.Service {
	for _, c := range s.Published {
		if c.Port == asked.port && c.Protocol == asked.proto {
			svc, _ := s.Service(c.Service)
			return svc
		}
	}
	return nil
}

// unpublishedStep tells that a port is published by no service, and what comes near
// it: another protocol, a service that waits for the port, or who has it on the host.
func (in *Inspector) unpublishedStep(ctx context.Context, s *model.Snapshot, n model.Node, asked askedPort) api.Step {
	step := api.Step{What: "port", Evidence: fmt.Sprintf("%d/%s is published by no service", asked.port, asked.proto)}
	step.Remedy = fmt.Sprintf("start a container with the label shoal.publish=%d:TARGET", asked.port)
	if asked.proto != model.TCP {
		step.Remedy += "/" + asked.proto.String()
	}
	for _, c := range s.Published {
		if c.Port == asked.port {
			step.Evidence += fmt.Sprintf(": %s publishes %d/%s", c.Service, c.Port, c.Protocol)
			step.Remedy = fmt.Sprintf("ask by %s, or have %s publish it by %s too: shoal.publish=%d:TARGET/%[3]s", c.Protocol, c.Service, asked.proto, asked.port)
			return step
		}
	}
	for c := range s.Containers.All() {
		for i := range c.Tasks {
			t := &c.Tasks[i]
			if slices.ContainsFunc(t.Spec.Publish, func(p model.PublishedPort) bool { return p.Published == asked.port && p.Protocol == asked.proto }) {
				step.Evidence = fmt.Sprintf("%d/%s is asked for by %s, which has not got it yet", asked.port, asked.proto, t.Service)
				step.Remedy = "see shoal problems"
				return step
			}
			if slices.ContainsFunc(t.Spec.Publish, func(p model.PublishedPort) bool { return p.Target == asked.port && p.Protocol == asked.proto }) {
				step.Evidence += fmt.Sprintf(": it is the port of %s's tasks", t.Service)
				for _, p := range t.Spec.Publish {
					if p.Target == asked.port {
						step.Remedy = fmt.Sprintf("ask for %d", p.Published)
					}
				}
				return step
			}
		}
	}
	if n.Name == s.Self.Name {
		if who, err := ingress.Holder(asked.proto, netip.AddrPortFrom(n.Addr, asked.port)); err == nil && who != "" {
			step.Evidence += fmt.Sprintf("; on host %s %s", n.Name, who)
		}
	}
	return step
}

// publishedSteps tell of the ports of the hosts that a service publishes.
func (in *Inspector) publishedSteps(ctx context.Context, e *walk, s *model.Snapshot, svc *model.Service) {
	wanted := map[askedPort][]model.PublishedPort{}
	for _, t := range svc.Tasks {
		for _, p := range t.Spec.Publish {
			k := askedPort{p.Published, p.Protocol}
			if !slices.Contains(wanted[k], p) {
				wanted[k] = append(wanted[k], p)
			}
		}
	}
	var keys []askedPort
	for k := range wanted {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b askedPort) int { return cmp.Or(cmp.Compare(a.proto, b.proto), cmp.Compare(a.port, b.port)) })
	for i, k := range keys {
		if i == maxPublishedSteps {
			e.step("published", true, "and %d more ports", len(keys)-i)
			break
		}
		in.publishedStep(ctx, e, s, svc, k, wanted[k])
	}
}

// maxPublishedSteps is how many published ports are told of: a label may have a range.
const maxPublishedSteps = 16

func (in *Inspector) publishedStep(ctx context.Context, e *walk, s *model.Snapshot, svc *model.Service, k askedPort, as []model.PublishedPort) {
	port := fmt.Sprintf("%d/%s", k.port, k.proto)
	switch owner := publisher(s, k); {
	case owner == nil:
		e.fix("published", "wait a moment; shoal problems tells what it waits for", "%s is not claimed for %s yet", port, svc.ID)
		return
	case owner.ID != svc.ID:
		e.fix("published", fmt.Sprintf("publish another port, or remove %s", owner.ID), "%s is already claimed by %s", port, owner.ID)
		return
	}
	var on []string
	for _, p := range as {
		if p.IP.IsValid() {
			on = append(on, p.IP.String())
		}
	}
	where := "on every host"
	switch {
	case svc.Spec.PublishLocal:
		where = "on the hosts with a task"
	case len(on) == len(as) && len(on) > 0:
		where = "on the address " + strings.Join(on, ", ") + " only: shoal.publish=" + fmt.Sprintf("%d:%d", k.port, as[0].Target) + " would be on every one"
	}
	if err := in.Ports.Refused(lb.Key{Protocol: k.proto, Port: k.port}); err != nil {
		e.fix("published", "stop what has the port, or publish another one", "%s: host %s does not take it: %v", port, s.Self.Name, err)
		return
	}
	e.step("published", true, "%s %s leads to the tasks' port %s", port, where, portText(as[0].Target, k.proto))
	if svc.Spec.PublishLocal || len(svc.InRotation()) == 0 {
		return // this host may have nothing to balance
	}
	v, err := in.Plane.Inspect(ctx, lb.Key{Protocol: k.proto, Port: k.port})
	if err != nil {
		e.step("kernel", false, "it cannot be read: %v", err)
		return
	}
	e.kernelSteps(v.Steps)
	for _, f := range v.Fronts {
		e.kernelSteps(f.Steps)
	}
}
