package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"shoal/dnsd"
	lb "shoal/lb/ipvs"
	"shoal/model"
)

// Explanation is the way from a name to its tasks, as far as it goes.
type Explanation struct {
	What    string `json:"what"`
	OK      bool   `json:"ok"`
	Verdict string `json:"verdict,omitempty"` // where it stops and what to do; "" if it does not
	Steps   []Step `json:"steps"`

	node  string // where the steps are seen, of those that say so
	reads bool   // nothing but reading: no connection is tried
}

// Step is one step of the way, with what was seen there just now.
type Step struct {
	What     string `json:"what"`
	Node     string `json:"node,omitempty"` // of a trace: the host where it was seen
	OK       bool   `json:"ok"`
	Evidence string `json:"evidence"`
}

// step adds a step. The first that does not hold is the verdict.
func (e *Explanation) step(what string, ok bool, format string, args ...any) {
	e.add(Step{What: what, Node: e.node, OK: ok, Evidence: fmt.Sprintf(format, args...)})
}

func (e *Explanation) add(s Step) {
	e.Steps = append(e.Steps, s)
	if s.OK || !e.OK {
		return
	}
	where := s.What
	if s.Node != "" {
		where += " on " + s.Node
	}
	e.OK, e.Verdict = false, where+": "+strings.ReplaceAll(s.Evidence, "\n", "; ")
}

// Lookup is what the DNS server answers, and why.
type Lookup struct {
	Name    string   `json:"name"`
	From    string   `json:"from"`
	Answers []string `json:"answers"`
	Reason  string   `json:"reason"`

	service model.ServiceID // the one that the name means, if any
}

// explain walks from a service, or from a container to its services.
func (a *Agent) explain(ctx context.Context, what string) (*Explanation, error) {
	s, err := a.snapshot()
	if err != nil {
		return nil, err
	}
	e := &Explanation{What: what, OK: true}
	containers := findContainers(s, what)
	switch services := findServices(s, what); {
	case len(services) == 1:
		a.explainService(ctx, e, s, services[0])
	case len(services) > 1:
		return nil, fmt.Errorf("%q is a service of several stacks (%s): write it as stack/name", what, ids(services))
	case len(containers) == 1:
		a.explainContainer(ctx, e, s, containers[0])
	case len(containers) > 1:
		return nil, fmt.Errorf("%q means %d containers: give more of the ID", what, len(containers))
	default:
		return nil, fmt.Errorf("%w: no service and no container of the mesh is called %q; a container needs the label shoal.service=NAME", errNotFound, what)
	}
	return e, nil
}

// findServices finds a service by stack/name, or by name alone in any stack.
func findServices(s *model.Snapshot, what string) (found []*model.Service) {
	for i := range s.Services {
		if id := s.Services[i].ID; id.String() == what || id.Name == what {
			found = append(found, &s.Services[i])
		}
	}
	return found
}

func ids(services []*model.Service) string {
	var all []string
	for _, s := range services {
		all = append(all, s.ID.String())
	}
	return strings.Join(all, ", ")
}

// findContainers finds containers by name, ID or the beginning of an ID.
func findContainers(s *model.Snapshot, what string) (found []*model.Container) {
	for i := range s.Containers {
		c := &s.Containers[i]
		if c.Name == what || len(what) >= 4 && strings.HasPrefix(c.ID, what) {
			found = append(found, c)
		}
	}
	return found
}

func (a *Agent) explainContainer(ctx context.Context, e *Explanation, s *model.Snapshot, c *model.Container) {
	e.step("container", true, "%s (%.12s) on %s, stack %s, since %s", c.Name, c.ID, c.Node, c.Stack, c.Since.Format(time.RFC3339))
	if c.Problem != "" {
		e.step("labels", false, "%s", c.Problem)
		return
	}
	if len(c.Tasks) == 0 {
		e.step("labels", false, "it has no label shoal.service=NAME, so it is a task of no service")
		return
	}
	for i := range c.Tasks {
		t := &c.Tasks[i]
		e.step("labels", true, "a task of %s at %s", t.Service, t.Addr)
		explainState(e, t)
		if svc, ok := s.Service(t.Service); ok {
			a.explainService(ctx, e, s, svc)
		}
	}
}

func explainState(e *Explanation, t *model.Task) {
	why := map[model.State]string{
		model.Starting:  "its HEALTHCHECK has not passed yet, so it gets no connections; see docker inspect, State.Health",
		model.Unhealthy: "its HEALTHCHECK fails, so it gets no new connections; see docker inspect, State.Health",
		model.Paused:    "it is paused, so it gets no new connections: docker unpause",
		model.Lost:      "its host is held for dead; see shoal nodes",
		model.Unreached: "its address is on a Docker network that only its own host reaches, so it serves there alone; shoal problems on that host says what to do",
		model.Draining:  fmt.Sprintf("it was told to stop and may finish what it holds until %s", t.DrainDeadline().Format(time.TimeOnly)),
	}
	if t.InRotation() {
		e.step("state", true, "%s: %s since %s, weight %d", t.Name, t.State, t.Since.Format(time.TimeOnly), t.Weight)
		return
	}
	e.step("state", false, "%s: %s: %s", t.Name, t.State, why[t.State])
}

// explainService walks from a service's name to its tasks, and returns those
// that the kernel gives new connections of the VIP.
func (a *Agent) explainService(ctx context.Context, e *Explanation, s *model.Snapshot, svc *model.Service) (chosen []netip.Addr) {
	for _, p := range a.problems.list() {
		if p.Object == svc.ID.String() {
			e.step("problem", false, "%s", p.Reason)
		}
	}
	live := svc.InRotation()
	e.step("service", len(live) > 0, "%s: %d tasks, %d in rotation", svc.ID, len(svc.Tasks), len(live))
	a.explainName(ctx, e, svc)
	if svc.Spec.Mode == model.ModeDNSRR || !svc.VIP.IsValid() {
		return nil
	}
	view, err := a.balancer.Inspect(ctx, svc.VIP)
	if err != nil {
		e.step("kernel", false, "it cannot be read: %v", err)
		return nil
	}
	e.step("VIP", view.Route != "", "%s", orElse(view.Route, fmt.Sprintf("the kernel does not route %s to this host", svc.VIP)))
	rules := strings.Join(view.Rules, "\n")
	if len(view.Broken) > 0 {
		rules = strings.Join(view.Broken, "\n")
	}
	e.step("rules", len(view.Broken) == 0, "%s", rules)
	e.step("balancer", len(view.Fronts) > 0 || len(live) == 0, "%d virtual services carry it", len(view.Fronts))
	for _, f := range view.Fronts {
		explainFront(e, svc, f)
		for _, d := range f.Dests {
			if f.Open && d.Weight > 0 {
				chosen = append(chosen, d.Addr.Addr())
			}
		}
	}
	return chosen
}

// explainName asks the DNS server the way a container does: by a packet.
func (a *Agent) explainName(ctx context.Context, e *Explanation, svc *model.Service) {
	name := svc.ID.Name + "." + svc.ID.Stack + "." + a.config.Zone + "."
	server := netip.AddrPortFrom(a.config.DNS, 53).String()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	reply, err := dns.ExchangeContext(ctx, new(dns.Msg).SetQuestion(name, dns.TypeA), server)
	if err != nil {
		e.step("name", false, "the DNS server %s does not answer on %s: %v", server, name, err)
		return
	}
	var got []string
	for _, rr := range reply.Answer {
		if r, ok := rr.(*dns.A); ok {
			got = append(got, r.A.String())
		}
	}
	ok := len(got) > 0 && (svc.Spec.Mode == model.ModeDNSRR || len(got) == 1 && got[0] == svc.VIP.String())
	e.step("name", ok, "%s is %s, says %s (%s)", name, orElse(strings.Join(got, ", "), "nothing"), server, dns.RcodeToString[reply.Rcode])
}

func explainFront(e *Explanation, svc *model.Service, f lb.FrontView) {
	what := "every other port"
	if f.Port != 0 {
		what = fmt.Sprintf("port %d/%s", f.Port, f.Protocol)
	} else if f.Protocol == model.UDP {
		what += "/udp"
	}
	entry := fmt.Sprintf("%s: set %s gives mark %#x", what, f.Set, f.Mark)
	e.step("mark", f.Open, "%s", orElse(map[bool]string{true: entry}[f.Open], entry+", which lets no new connection in: no task is in rotation for it"))
	e.step("virtual", f.Service, "%s: IPVS service %#x, scheduler %s", what, f.Mark, orElse(f.Scheduler, "none: the kernel has no such service"))
	for _, d := range f.Dests {
		who := "no task of the service"
		for i := range svc.Tasks {
			if svc.Tasks[i].Addr == d.Addr.Addr() {
				who = fmt.Sprintf("%s on %s, %s", svc.Tasks[i].Name, svc.Tasks[i].Node, svc.Tasks[i].State)
			}
		}
		port := "the same port"
		if p := d.Addr.Port(); p != 0 {
			port = fmt.Sprintf("port %d", p)
		}
		evidence := fmt.Sprintf("%s, %s, weight %d, %d active and %d other connections (%s)", d.Addr.Addr(), port, d.Weight, d.Active, d.Inactive, who)
		ok := true
		if p := d.Addr.Port(); p != 0 && d.Weight > 0 && f.Protocol == model.TCP && !e.reads {
			if err := tryConnect(d.Addr); err != nil {
				ok, evidence = false, evidence+"\nit does not take connections there: "+err.Error()
			}
		}
		e.step("task", ok, "%s", evidence)
	}
}

// tryConnect makes a connection to a task, as the balancer would.
func tryConnect(a netip.AddrPort) error {
	c, err := net.DialTimeout("tcp", a.String(), time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// lookup asks what a container, or this host, would be answered on a name.
func (a *Agent) lookup(name, from string) (*Lookup, error) {
	s, err := a.snapshot()
	if err != nil {
		return nil, err
	}
	asker, err := findSender(s, from)
	if err != nil {
		return nil, err
	}
	qtype := "A"
	if strings.HasPrefix(name, "_") {
		qtype = "SRV"
	}
	answer, err := a.dns.Lookup(name, qtype, asker.addr)
	if err != nil {
		return nil, err
	}
	if len(answer.Records) == 0 && !answer.Forwarded && !strings.HasSuffix(strings.TrimSuffix(name, "."), a.config.Zone) {
		// As a resolver with the search domain would go on.
		if in, err := a.dns.Lookup(strings.TrimSuffix(name, ".")+"."+a.config.Zone, qtype, asker.addr); err == nil {
			answer = in
		}
	}
	return &Lookup{Name: answer.Name, From: asker.who, Answers: answer.Records, Reason: reasonOf(answer), service: answer.Service}, nil
}

func reasonOf(a dnsd.Answer) string {
	reason := a.Reason
	if a.Rcode != "" && a.Rcode != "NOERROR" {
		reason = a.Rcode + ": " + reason
	}
	if a.Forwarded {
		reason += fmt.Sprintf("; asked of %v", a.Upstreams)
	}
	return reason
}
