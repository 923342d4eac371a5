package diagnose

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/miekg/dns"

	"shoal/api"
	"shoal/model"
)

// Explain says why a service, a container or a port is reached or not: by any form
// of its name.
func (in *Inspector) Explain(ctx context.Context, what string) (*api.Explanation, error) {
	s, err := in.Snapshot()
	if err != nil {
		return nil, err
	}
	m, err := in.means(s, what)
	if err != nil {
		return nil, err
	}
	e := newWalk(what, "")
	if m.published {
		return &e.Explanation, in.explainPublished(ctx, e, s, &m)
	}
	if len(m.services) == 0 && len(m.containers) > 0 {
		err = in.explainContainers(ctx, e, s, m.containers, m.asked())
		return &e.Explanation, err
	}
	svc, err := m.service(s)
	switch {
	case err != nil:
		return nil, err
	case svc != nil:
		in.explainService(ctx, e, s, svc, m.asked())
	default:
		err = in.explainAbsent(ctx, e, s, &m)
	}
	return &e.Explanation, err
}

// explainAbsent explains what the mesh does not know: a container that does not
// run, or whose labels are wrong.
func (in *Inspector) explainAbsent(ctx context.Context, e *walk, s *model.Snapshot, m *meaning) error {
	word := orElse(m.target.name, m.host)
	found := in.look(ctx, s, word).containers()
	if len(found) == 0 {
		return m.unknown(s)
	}
	for _, c := range found {
		id := model.ServiceID{}
		if len(c.Services) > 0 {
			id = c.Services[0]
		} else if c.Name != word {
			id.Name = word[strings.LastIndexByte(word, '/')+1:]
		}
		e.at(c.Node, absentStep(s, c, id, false))
	}
	return nil
}

func (in *Inspector) explainContainers(ctx context.Context, e *walk, s *model.Snapshot, found []*model.Container, asked askedPort) error {
	if len(found) > 1 {
		var which []string
		for _, c := range found {
			which = append(which, fmt.Sprintf("%.12s on %s", c.ID, c.Node))
		}
		return fmt.Errorf("%d containers are called that: give the ID, one of %s", len(found), strings.Join(which, ", "))
	}
	c := found[0]
	e.step("container", true, "%s (%.12s) on %s, stack %s, since %s", c.Name, c.ID, c.Node, c.Stack, clock(c.Since))
	if len(c.Tasks) == 0 {
		all := in.look(ctx, s, c.ID)
		if seen := all.find(c.Node, c.ID); seen != nil {
			e.at(c.Node, absentStep(s, seen, model.ServiceID{}, false))
		} else if c.Problem != "" {
			e.fix("labels", "start it anew with its labels right", "%s", c.Problem)
		} else {
			e.fix("labels", "start it anew with the label shoal.service=NAME", "it has no label shoal.service, so it is a task of no service")
		}
		return nil
	}
	for i := range c.Tasks {
		if svc, ok := s.Service(c.Tasks[i].Service); ok {
			e.step("labels", true, "a task of %s at %s", svc.ID, c.Tasks[i].Addr)
			in.explainService(ctx, e, s, svc, asked)
		}
	}
	return nil
}

// explainService tells of a service's tasks, of its published ports, and of the way
// from its name to its tasks.
func (in *Inspector) explainService(ctx context.Context, e *walk, s *model.Snapshot, svc *model.Service, asked askedPort) {
	all := in.look(ctx, s, svc.ID.String())
	in.taskSteps(e, s, svc, all, asked)
	askedStep(e, svc, asked)
	problemSteps(e, svc, all)
	in.publishedSteps(ctx, e, s, svc)
	in.explainWay(ctx, e, s, svc, nil, asked)
}

// problemSteps tell of what hosts know that keeps the service from working.
func problemSteps(e *walk, svc *model.Service, all sights) {
	for _, p := range all.problems() {
		kind := "problem"
		switch {
		case p.Object != svc.ID.String() && !concerning[p.Code]:
			continue // of a container: its task says so
		case p.Notice:
			kind = "notice"
		}
		e.at(p.Node, api.Step{What: kind, OK: p.Notice, Evidence: fmt.Sprintf("host %s: %s", p.Node, p.Reason)})
	}
}

// askedStep tells whether the service has the port that was named.
func askedStep(e *walk, svc *model.Service, asked askedPort) {
	if asked.port == 0 || svc.Spec.Mode == model.ModeDNSRR || len(svc.Tasks) == 0 {
		return
	}
	var ports []string
	var same *model.Port
	for _, t := range svc.Tasks {
		if _, ok := t.Target(asked.proto, asked.port); ok {
			return
		}
	}
	for _, p := range svc.Ports() {
		ports = append(ports, portText(p.Port, p.Protocol))
		if p.Port == asked.port {
			same = &p
		}
	}
	remedy := fmt.Sprintf("ask for one of them, or add shoal.ports=%s", portText(asked.port, asked.proto))
	if same != nil {
		remedy = fmt.Sprintf("ask by %s, or add shoal.ports=%s", same.Protocol, portText(asked.port, asked.proto))
	}
	e.fix("port", remedy, "%s has no port %d/%s: its ports are %s", svc.ID, asked.port, asked.proto, strings.Join(ports, ", "))
}

// explainWay walks from a service's name to its tasks, and returns those that the
// kernel gives new connections of the VIP.
// From c, if it is not nil, a client asks for a port.
func (in *Inspector) explainWay(ctx context.Context, e *walk, s *model.Snapshot, svc *model.Service, c *Looked, asked askedPort) (v vipView) {
	for _, p := range in.Firewall(s) {
		if p.Code == model.FirewallDrops {
			e.step("firewall", false, "%s", p.Reason)
		}
	}
	live := svc.InRotation()
	if len(live) == 0 && len(svc.Tasks) == 0 {
		e.fix("service", fmt.Sprintf("start a container with the label shoal.service=%s%s", svc.ID.Name, stackLabel(svc.ID)),
			"%s has no task%s: its name and its address stay, and connections are refused", svc.ID, idleText(svc))
	} else {
		e.step("service", len(live) > 0, "%s: %s, %d in rotation", svc.ID, count(len(svc.Tasks), "task"), len(live))
	}
	in.explainName(ctx, e, svc)
	if svc.Spec.Mode == model.ModeDNSRR || !svc.VIP.IsValid() {
		return v
	}
	v = in.explainVIP(ctx, e, svc)
	in.leadsStep(e, svc, v, c, asked)
	in.carriesSteps(ctx, e, s, svc)
	return v
}

func idleText(svc *model.Service) string {
	if svc.IdleSince.IsZero() {
		return ""
	}
	return " since " + clock(svc.IdleSince)
}

func stackLabel(id model.ServiceID) string {
	if id.Stack == model.DefaultStack {
		return ""
	}
	return " and shoal.stack=" + id.Stack
}

// count is "1 task", "2 tasks".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// explainName asks the DNS server the way a container does: by a packet.
func (in *Inspector) explainName(ctx context.Context, e *walk, svc *model.Service) {
	name := svc.ID.Name + "." + svc.ID.Stack + "." + in.Zone + "."
	server := in.DNS.String()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	reply, err := dns.ExchangeContext(ctx, new(dns.Msg).SetQuestion(name, dns.TypeA), server)
	if err != nil {
		e.fix("name", "see shoal problems, and what else listens on port 53 of this host", "the DNS server %s does not answer on %s: %v", server, name, err)
		return
	}
	var got []string
	for _, rr := range reply.Answer {
		if r, ok := rr.(*dns.A); ok {
			got = append(got, r.A.String())
		}
	}
	live := len(svc.InRotation()) > 0
	ok := len(got) > 0 && (svc.Spec.Mode == model.ModeDNSRR || len(got) == 1 && got[0] == svc.VIP.String())
	ok = ok || svc.Spec.Mode == model.ModeDNSRR && !live
	e.step("name", ok, "%s is %s, says %s (%s)", name, orElse(strings.Join(got, ", "), "nothing"), server, dns.RcodeToString[reply.Rcode])
}
