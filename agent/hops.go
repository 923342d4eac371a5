package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"shoal/ingress"
	"shoal/model"
)

// question is what a host is asked of a packet's way: from a name, or from a
// published port, to the choice of a task; or the end of the way to its own
// tasks; or a container that sends. Just one of name, port, tasks and sender is
// set.
type question struct {
	name   string
	port   uint16
	proto  model.Protocol
	tasks  []netip.Addr
	sender string // by its name, or its ID

	from  netip.Addr // of name and port: who sends, as the host sees it
	at    netip.Addr // of port: the host's address that is sent to; zero: any. Others can only mean the one they know
	entry string     // of tasks: the host whose sandbox sends; "": none
}

// part is a host's part of a trace.
type part struct {
	Steps []Step `json:"steps"`
	Next  []hop  `json:"next,omitempty"` // the tasks that may be chosen; or the senders
}

// hop is a task, and the host that the kernel's route leads to ("": none of the
// cluster); or a container that sends, and its host.
type hop struct {
	Addr netip.Addr `json:"addr"`
	Node string     `json:"node,omitempty"`
}

func (q question) encode() string {
	v := url.Values{}
	switch {
	case q.name != "":
		v.Set("name", q.name)
	case q.port != 0:
		v.Set("port", fmt.Sprintf("%d/%s", q.port, q.proto))
	case q.sender != "":
		v.Set("sender", q.sender)
	}
	for _, t := range q.tasks {
		v.Add("task", t.String())
	}
	if q.from.IsValid() {
		v.Set("from", q.from.String())
	}
	if q.entry != "" {
		v.Set("entry", q.entry)
	}
	return v.Encode()
}

// parseQuestion reads what encode writes, and nothing else.
func parseQuestion(v url.Values) (q question, err error) {
	q.name, q.sender, q.entry = v.Get("name"), v.Get("sender"), v.Get("entry")
	if n := max(len(q.name), len(q.sender)); n > maxTraced {
		return q, fmt.Errorf("trace: a name of %d characters", n)
	}
	if q.entry != "" {
		if err := model.CheckLabel(q.entry); err != nil {
			return q, fmt.Errorf("trace: host: %w", err)
		}
	}
	kinds := 0
	for _, set := range []bool{q.name != "", q.sender != ""} {
		if set {
			kinds++
		}
	}
	if port := v.Get("port"); port != "" {
		kinds++
		if _, q.port, q.proto, err = splitPort(":" + port); err != nil {
			return q, err
		}
	}
	if tasks := v["task"]; len(tasks) > 0 {
		kinds++
		if len(tasks) > maxFollowed {
			return q, fmt.Errorf("trace: %d tasks at once, %d is the most", len(tasks), maxFollowed)
		}
		for _, t := range tasks {
			addr, err := parseIPv4(t)
			if err != nil {
				return q, err
			}
			q.tasks = append(q.tasks, addr)
		}
	}
	if kinds != 1 {
		return q, errors.New("trace: ask for just one of name, port, task and sender")
	}
	if q.name != "" || q.port != 0 {
		q.from, err = parseIPv4(v.Get("from"))
	}
	return q, err
}

func parseIPv4(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return a, fmt.Errorf("trace: %.40q is no IPv4 address", s)
	}
	return a, nil
}

// part reads this host's part of a trace. If another host asks, no task is
// connected to.
func (a *Agent) part(ctx context.Context, q question, asked bool) (p part, err error) {
	s, err := a.snapshot()
	if err != nil {
		return p, err
	}
	e := &Explanation{OK: true, node: s.Self.Name, reads: asked}
	switch {
	case q.name != "":
		p.Next, err = a.traceName(ctx, e, s, q)
	case q.port != 0:
		if asked {
			q.at = s.Self.Addr
		}
		p.Next, err = a.tracePort(ctx, e, s, q)
	case q.sender != "":
		p.Next = sendersHere(s, q.sender)
	default:
		err = a.traceTasks(e, s, q)
	}
	p.Steps = e.Steps
	return p, err
}

// sendersHere are this host's containers of that name or ID, at most as many as
// tell that there are several.
func sendersHere(s *model.Snapshot, name string) (here []hop) {
	for _, c := range findContainers(s, name) {
		if c.Node == s.Self.Name && len(c.Addrs) > 0 && len(here) < 2 {
			here = append(here, hop{c.Addrs[0], c.Node})
		}
	}
	return here
}

func (a *Agent) traceName(ctx context.Context, e *Explanation, s *model.Snapshot, q question) ([]hop, error) {
	l, err := a.lookupStep(e, q.name, q.from)
	if err != nil {
		return nil, err
	}
	// A port's name leads to its service's name.
	if target := srvTarget(l.Answers); target != "" {
		if l, err = a.lookupStep(e, target, q.from); err != nil {
			return nil, err
		}
	}
	svc, ok := s.Service(l.service)
	if !ok {
		return nil, nil
	}
	vip, tasks := reached(svc, addresses(l.Answers))
	switch {
	case vip:
		tasks = a.explainService(ctx, e, s, svc)
	case len(tasks) > 0:
		e.step("service", true, "%s: the name leads straight to %d of its %d tasks", svc.ID, len(tasks), len(svc.Tasks))
	case len(l.Answers) > 0:
		e.step("service", false, "%s: what was answered is neither its VIP nor a task of it", svc.ID)
	}
	return a.traceRoutes(e, s, tasks), nil
}

func (a *Agent) lookupStep(e *Explanation, name string, from netip.Addr) (*Lookup, error) {
	l, err := a.lookup(name, from.String())
	if err == nil {
		e.step("name", len(l.Answers) > 0, "%s asks for %s: %s\n%s", l.From, l.Name, orElse(strings.Join(l.Answers, ", "), "no answer"), l.Reason)
	}
	return l, err
}

// addresses are those in records as a zone file has them.
func addresses(records []string) (addrs []netip.Addr) {
	for _, r := range records {
		if rr, err := dns.NewRR(r); err == nil {
			if rr, ok := rr.(*dns.A); ok {
				addr, _ := netip.AddrFromSlice(rr.A)
				addrs = append(addrs, addr.Unmap())
			}
		}
	}
	return addrs
}

// srvTarget is the name that SRV records lead to; "": there are none.
func srvTarget(records []string) string {
	for _, r := range records {
		if rr, err := dns.NewRR(r); err == nil {
			if rr, ok := rr.(*dns.SRV); ok {
				return rr.Target
			}
		}
	}
	return ""
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

func (a *Agent) tracePort(ctx context.Context, e *Explanation, s *model.Snapshot, q question) ([]hop, error) {
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
	v, err := a.ingress.Inspect(ctx, q.port, q.proto)
	if err != nil {
		return nil, err
	}
	client, err := a.ingress.Client(q.from)
	if err != nil {
		return nil, err
	}
	return a.traceMesh(e, s, owner, v, q, client), nil
}

func (a *Agent) traceMesh(e *Explanation, s *model.Snapshot, svc *model.Service, v *ingress.View, q question, client *ingress.ClientView) []hop {
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
	next := a.traceRoutes(e, s, tasks)
	for _, r := range v.Returns {
		if r.Node == s.Self.Name {
			e.returns(r)
		}
	}
	return next
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

func (e *Explanation) returns(r ingress.ReturnView) {
	by := ""
	for _, m := range r.MACs {
		by += fmt.Sprintf(", known by sender %s", m)
	}
	e.step("return", r.Route != "", "replies to %s's sandbox: mark %#x%s, route %s", r.Node, r.Mark, by, orElse(r.Route, "none"))
}

// traceRoutes tells which hosts the kernel's routes to tasks lead to, and how;
// how it reaches those of this host is told at their end.
func (a *Agent) traceRoutes(e *Explanation, s *model.Snapshot, tasks []netip.Addr) (next []hop) {
	slices.SortFunc(tasks, netip.Addr.Compare)
	for _, to := range slices.Compact(tasks) {
		h, err := a.fabric.Inspect(to)
		if err != nil {
			e.step("route", false, "%s: %v", to, err)
			continue
		}
		if h.Node == "" && !h.Via.IsValid() {
			h.Node = s.Self.Name // a network of this host's own
		}
		next = append(next, hop{to, h.Node})
		if h.Node == s.Self.Name {
			continue
		}
		text, ok := h.Route, true
		switch {
		case h.Way != "":
			text += fmt.Sprintf("\n%s to host %s", h.Way, h.Node)
		case h.Node == "":
			text += "\nno host of the cluster has this address"
		}
		if h.VTEP != nil {
			text += fmt.Sprintf(", tunnel end %s at %s", h.VTEP.MAC, h.VTEP.Remote)
			ok = h.VTEP.Remote.IsValid() && h.VTEP.MAC != model.MAC{}
		}
		if n, known := nodeOf(s, h.Node); known && !h.Ours && to != n.Addr {
			text, ok = text+fmt.Sprintf("\nthe route to the containers of host %s is missing", h.Node), false
		}
		e.step("route", ok, "%s", text)
	}
	return next
}

// traceTasks tells the end of the way to tasks of this host, and how their
// replies go back to the sandbox that sent to them.
func (a *Agent) traceTasks(e *Explanation, s *model.Snapshot, q question) error {
	for _, addr := range q.tasks {
		h, err := a.fabric.Inspect(addr)
		switch {
		case err != nil:
			e.step("route", false, "%s: %v", addr, err)
			continue
		case h.Via.IsValid():
			e.step("route", false, "%s\nwhich leads away from this host", h.Route)
			continue
		case h.MAC != model.MAC{}:
			e.step("route", true, "%s\nneighbour %s", h.Route, h.MAC)
		default:
			e.step("route", true, "%s", h.Route)
		}
		a.traceContainer(e, s, addr)
	}
	if q.entry == "" || q.entry == s.Self.Name {
		return nil
	}
	all, err := a.ingress.Returns()
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.Node == q.entry {
			e.returns(r)
			return nil
		}
	}
	e.step("return", false, "this host does not know %s's sandbox yet, so no reply goes back there", q.entry)
	return nil
}

func (a *Agent) traceContainer(e *Explanation, s *model.Snapshot, addr netip.Addr) {
	i := slices.IndexFunc(s.Containers, func(c model.Container) bool {
		return c.Node == s.Self.Name && slices.ContainsFunc(c.Tasks, func(t model.Task) bool { return t.Addr == addr })
	})
	if i < 0 {
		e.step("container", false, "no container of this host is a task at %s", addr)
		return
	}
	c := &s.Containers[i]
	text, ok := fmt.Sprintf("%s (%.12s) at %s", c.Name, c.ID, addr), true
	for _, t := range c.Tasks {
		if t.Addr == addr {
			text += fmt.Sprintf("\na task of %s, %s", t.Service, t.State)
			ok = ok && t.InRotation()
		}
	}
	a.mu.Lock()
	if a.engine != nil {
		text, ok = text+fmt.Sprintf("\nas the engine last said, which is away: %v", a.engine), false
	}
	a.mu.Unlock()
	e.step("container", ok, "%s", text)
}

func hasTask(svc *model.Service, addr netip.Addr) bool {
	for i := range svc.Tasks {
		if svc.Tasks[i].Addr == addr {
			return true
		}
	}
	return false
}
