package diagnose

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"shoal/ingress"
	"shoal/model"
)

// traceMesh tells what the kernel has of a published port, and where its routes
// to the tasks that may be chosen lead.
func (in *Inspector) traceMesh(ctx context.Context, e *walk, s *model.Snapshot, svc *model.Service, q Question) ([]Hop, error) {
	v, err := in.Ports.Inspect(ctx, q.port, q.proto)
	if err != nil {
		return nil, err
	}
	client, err := in.Ports.Client(q.from)
	if err != nil {
		return nil, err
	}
	redirected := !q.at.IsValid() || slices.ContainsFunc(v.On, func(n netip.Prefix) bool { return n.Contains(q.at) })
	switch sets := strings.Join(v.Sets, "\n"); {
	case v.Blocked != "":
		e.step("host", false, "%s", v.Blocked)
	case len(v.Sets) == 0:
		e.step("host", false, "no set of this host redirects the port")
	case !redirected:
		e.step("host", false, "%s\nso it is not redirected on %s", sets, q.at)
	default:
		e.step("host", true, "%s", sets)
	}
	rules := v.Redirect
	if len(v.Broken) > 0 {
		rules = v.Broken
	}
	e.step("rules", len(v.Broken) == 0, "%s", strings.Join(rules, "\n"))
	e.step("sandbox", v.Mark != 0, "%s in %s gives mark %#x", v.Sandbox, v.Netns, v.Mark)
	e.step("virtual", v.Scheduler != "", "IPVS service %#x, scheduler %s", v.Mark, orElse(v.Scheduler, "none"))
	e.step("source", true, "%s", sourceText(q.from, client))
	var tasks []netip.Addr
	for _, d := range v.Dests {
		who := "no task of the service"
		for i := range svc.Tasks {
			if t := &svc.Tasks[i]; t.Addr == d.Addr.Addr() {
				who = fmt.Sprintf("%s on %s, %s", t.Name, t.Node, t.State)
			}
		}
		seen := d.Source
		if client.Inside == "" {
			seen = client.Addr
		}
		e.step("task", d.Route != "", "%s, weight %d, %d active and %d other connections (%s)\nit sees the client as %s\nroute %s",
			d.Addr, d.Weight, d.Active, d.Inactive, who, seen, orElse(d.Route, "none"))
		if d.Weight > 0 {
			tasks = append(tasks, d.Addr.Addr())
		}
	}
	if len(v.Dests) > 0 && len(tasks) == 0 || v.Scheduler != "" && len(v.Dests) == 0 {
		e.step("task", false, "none may be chosen: no destination has a weight")
	}
	next := in.traceRoutes(e, s, tasks)
	for _, r := range v.Returns {
		if r.Node == s.Self.Name {
			e.returns(r)
		}
	}
	return next, nil
}

// sourceText tells as whom the tasks see a client of a published port, and by
// which entry of the kernel.
func sourceText(from netip.Addr, c *ingress.ClientView) string {
	who := from.String()
	if c.Addr != from {
		who += fmt.Sprintf(" is this host's own, so %s in the sandbox, which", c.Addr)
	}
	if c.Inside == "" {
		return who + " is outside the cluster: no entry of SHOAL-IN-CLIENTS in the sandbox has it, so it is kept"
	}
	return fmt.Sprintf("%s is inside the cluster, by the entry %s in the sandbox: rewritten, to the address of the device that leads to the task", who, c.Inside)
}

func (e *walk) returns(r ingress.ReturnView) {
	by := ""
	for _, m := range r.MACs {
		by += fmt.Sprintf(", known by sender %s", m)
	}
	e.step("return", r.Route != "", "replies to %s's sandbox: mark %#x%s, route %s", r.Node, r.Mark, by, orElse(r.Route, "none"))
}

// traceReturn tells where replies to connections of a host's sandbox go.
func (in *Inspector) traceReturn(e *walk, host string) error {
	all, err := in.Ports.Returns()
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.Node == host {
			e.returns(r)
			return nil
		}
	}
	e.step("return", false, "this host does not know %s's sandbox yet, so no reply goes back there", host)
	return nil
}
