package diagnose

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"shoal/ingress"
	"shoal/lb"
	"shoal/model"
)

// traceMesh tells what the kernel has of a published port, and where its routes
// to the tasks that may be chosen lead.
func (in *Inspector) traceMesh(ctx context.Context, e *walk, s *model.Snapshot, svc *model.Service, q Question) ([]Hop, error) {
	k := lb.Key{Protocol: q.proto, Port: q.port}
	if err := in.Ports.Refused(k); err != nil {
		e.fix("host", "stop what has the port, or publish another one", "%s", err)
		return nil, nil
	}
	v, err := in.Plane.Inspect(ctx, k)
	if err != nil {
		return nil, err
	}
	client, err := in.Plane.Client(q.from)
	if err != nil {
		return nil, err
	}
	e.kernelSteps(v.Steps)
	if q.at.IsValid() && len(v.On) > 0 && !slices.ContainsFunc(v.On, func(n netip.Prefix) bool { return n.Contains(q.at) }) {
		e.fix("host", fmt.Sprintf("ask at %s, or publish it without an address: shoal.publish=%d:TARGET", v.On[0].Addr(), q.port), "it is not taken on %s, but on %s only", q.at, prefixText(v.On))
	}
	source := fmt.Sprintf("%s is outside the cluster: %s, so it is kept", q.from, client.Evidence)
	if !client.Kept {
		source = fmt.Sprintf("%s is inside the cluster (%s): rewritten, to the address of the device that leads to the task", q.from, client.Evidence)
	}
	var tasks []netip.Addr
	for _, f := range v.Fronts {
		e.kernelSteps(f.Steps)
		e.step("path", true, "the data plane %s leads it: connect() leads to VIPs alone", in.Plane.Name())
		e.step("source", true, "%s", source)
		for _, b := range f.Backends {
			path, err := in.Mesh.Path(b.Addr.Addr())
			if err != nil {
				return nil, err
			}
			seen := path.Source
			if client.Kept {
				seen = client.Addr
			}
			e.step("backend", path.Route != "", "%s, weight %d, %d active and %d other connections (%s)\nit sees the client as %s\nroute %s",
				b.Addr, b.Weight, b.Active, b.Inactive, taskAt(svc, b.Addr.Addr()), seen, orElse(path.Route, "none"))
			if b.Weight > 0 {
				tasks = append(tasks, b.Addr.Addr())
			}
		}
	}
	if len(v.Fronts) > 0 && len(tasks) == 0 {
		e.step("backend", false, "none may be chosen: no task is in rotation")
	}
	in.dropsFrom(e, s, svc, q, tasks)
	return in.traceRoutes(e, s, tasks), nil
}

func (e *walk) returns(r ingress.ReturnView) {
	by := ""
	for _, m := range r.MACs {
		by += fmt.Sprintf(", known by sender %s", m)
	}
	e.step("return", r.Route != "", "replies to %s: mark %#x%s, route %s", r.Node, r.Mark, by, orElse(r.Route, "none"))
}

// traceReturn tells where replies to connections through a host's published ports go.
func (in *Inspector) traceReturn(e *walk, host string) error {
	all, err := in.Mesh.Returns()
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.Node == host {
			e.returns(r)
			return nil
		}
	}
	e.step("return", false, "this host does not know %s's published ports yet, so no reply goes back through it", host)
	return nil
}

func prefixText(ps []netip.Prefix) string {
	var all []string
	for _, p := range ps {
		all = append(all, p.Addr().String())
	}
	return strings.Join(all, ", ")
}
