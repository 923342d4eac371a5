package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"shoal/catalog"
	"shoal/ingress"
)

// trace follows a packet from a container or this host to a service's name, or
// to a published port, written HOST:PORT[/PROTO] or :PORT.
func (a *Agent) trace(ctx context.Context, from, to string) (*Explanation, error) {
	s, err := a.snapshot()
	if err != nil {
		return nil, err
	}
	e := &Explanation{What: to, OK: true}
	if host, port, proto, ok := splitPort(to); ok {
		return e, a.tracePort(ctx, e, s, host, port, proto)
	}
	l, err := a.lookup(to, from)
	if err != nil {
		return nil, err
	}
	e.step("name", len(l.Answers) > 0, "%s asks for %s: %s\n%s", l.From, l.Name, orElse(strings.Join(l.Answers, ", "), "no answer"), l.Reason)
	for _, svc := range findServices(s, strings.Split(to, ".")[0]) {
		if svc.VIP.IsValid() && !strings.Contains(strings.Join(l.Answers, " "), svc.VIP.String()) {
			continue
		}
		a.explainService(ctx, e, s, svc)
		for _, t := range svc.InRotation() {
			a.traceRoute(e, s, t.Addr)
		}
	}
	return e, nil
}

// splitPort reads HOST:PORT[/PROTO].
func splitPort(s string) (host string, port uint16, proto catalog.Protocol, ok bool) {
	proto = catalog.TCP
	hostport, p, found := strings.Cut(s, "/")
	if found {
		var err error
		if proto, err = catalog.ParseProtocol(p); err != nil {
			return "", 0, 0, false
		}
	}
	host, number, err := net.SplitHostPort(hostport)
	if err != nil {
		return "", 0, 0, false
	}
	n, err := strconv.ParseUint(number, 10, 16)
	return host, uint16(n), proto, err == nil && n > 0
}

func (a *Agent) tracePort(ctx context.Context, e *Explanation, s *catalog.Snapshot, host string, port uint16, proto catalog.Protocol) error {
	if host != "" && host != s.Self.Name && host != s.Self.Addr.String() && host != "localhost" && host != "127.0.0.1" {
		return fmt.Errorf("%s is not this host: run shoal trace there", host)
	}
	var owner *catalog.Service
	for _, c := range s.Published {
		if c.Port == port && c.Protocol == proto {
			owner, _ = s.Service(c.Service)
		}
	}
	if owner == nil {
		e.step("port", false, "%d/%s is published by no service; a container needs the label shoal.publish=%d:TARGET", port, proto, port)
		return nil
	}
	e.step("port", true, "%d/%s is published by %s", port, proto, owner.ID)
	v, err := a.ingress.Inspect(ctx, port, proto)
	if err != nil {
		return err
	}
	a.traceMesh(e, s, owner, v)
	return nil
}

func (a *Agent) traceMesh(e *Explanation, s *catalog.Snapshot, svc *catalog.Service, v *ingress.View) {
	if v.Blocked != "" {
		e.step("host", false, "%s", v.Blocked)
	}
	e.step("host", len(v.Sets) > 0, "%s", orElse(strings.Join(v.Sets, "\n"), "no set of this host redirects the port"))
	rules := v.Redirect
	if len(v.Broken) > 0 {
		rules = v.Broken
	}
	e.step("rules", len(v.Broken) == 0, "%s", strings.Join(rules, "\n"))
	e.step("sandbox", v.Mark != 0, "%s in %s gives mark %#x", v.Sandbox, v.Netns, v.Mark)
	e.step("virtual", v.Scheduler != "", "IPVS service %#x, scheduler %s", v.Mark, orElse(v.Scheduler, "none"))
	for _, d := range v.Dests {
		who := "no task of the service"
		for i := range svc.Tasks {
			if t := &svc.Tasks[i]; t.Addr == d.Addr.Addr() {
				who = fmt.Sprintf("%s on %s, %s", t.Name, t.Node, t.State)
			}
		}
		e.step("task", d.Route != "", "%s, weight %d, %d active and %d other connections (%s)\nroute %s", d.Addr, d.Weight, d.Active, d.Inactive, who, orElse(d.Route, "none"))
		a.traceRoute(e, s, d.Addr.Addr())
	}
	for _, r := range v.Returns {
		e.step("return", r.Route != "", "replies to %s's sandbox: mark %#x, route %s", r.Node, r.Mark, orElse(r.Route, "none"))
	}
}

// traceRoute tells how the kernel reaches a task.
func (a *Agent) traceRoute(e *Explanation, _ *catalog.Snapshot, to netip.Addr) {
	h, err := a.fabric.Inspect(to)
	if err != nil {
		e.step("route", false, "%s: %v", to, err)
		return
	}
	text := h.Route
	if h.Way != "" {
		text += fmt.Sprintf("\n%s to host %s", h.Way, h.Node)
	}
	ok := true
	if h.VTEP != nil {
		text += fmt.Sprintf(", tunnel end %s at %s", h.VTEP.MAC, h.VTEP.Remote)
		ok = h.VTEP.Remote.IsValid() && h.VTEP.MAC != catalog.MAC{}
	}
	e.step("route", ok, "%s", text)
}
