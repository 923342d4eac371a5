package diagnose

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"shoal/api"
	"shoal/model"
)

// Explain walks from a service, or from a container to its services.
func (in *Inspector) Explain(ctx context.Context, what string) (*api.Explanation, error) {
	s, err := in.Snapshot()
	if err != nil {
		return nil, err
	}
	e := newWalk(what, "")
	containers := findContainers(s, what)
	switch services := findServices(s, what); {
	case len(services) == 1:
		in.explainService(ctx, e, s, services[0])
	case len(services) > 1:
		return nil, fmt.Errorf("%q is a service of several stacks (%s): write it as stack/name", what, ids(services))
	case len(containers) == 1:
		in.explainContainer(ctx, e, s, containers[0])
	case len(containers) > 1:
		return nil, fmt.Errorf("%q means %d containers: give more of the ID", what, len(containers))
	default:
		return nil, fmt.Errorf("%w: no service and no container of the mesh is called %q; a container needs the label shoal.service=NAME", api.ErrNotFound, what)
	}
	return &e.Explanation, nil
}

// findServices finds a service by stack/name, or by name alone in any stack.
func findServices(s *model.Snapshot, what string) (found []*model.Service) {
	for i := range s.Services {
		if id := s.Services[i].ID; id.String() == what || id.Name == what {
			found = append(found, s.Services[i])
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
	for c := range s.Containers.All() {
		if c.Name == what || len(what) >= 4 && strings.HasPrefix(c.ID, what) {
			found = append(found, c)
		}
	}
	return found
}

func (in *Inspector) explainContainer(ctx context.Context, e *walk, s *model.Snapshot, c *model.Container) {
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
			in.explainService(ctx, e, s, svc)
		}
	}
}

func explainState(e *walk, t *model.Task) {
	why := map[model.State]string{
		model.Starting:  "its HEALTHCHECK has not passed yet, so it gets no connections; see docker inspect, State.Health",
		model.Unhealthy: "its HEALTHCHECK fails, so it gets no new connections; see docker inspect, State.Health",
		model.Paused:    "it is paused, so it gets no new connections: docker unpause",
		model.Lost:      "its host is considered dead; see shoal nodes",
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
func (in *Inspector) explainService(ctx context.Context, e *walk, s *model.Snapshot, svc *model.Service) (chosen []netip.Addr) {
	for _, p := range in.Problems() {
		switch {
		case p.Object != svc.ID.String():
		case p.Notice:
			e.step("notice", true, "%s", p.Reason)
		default:
			e.step("problem", false, "%s", p.Reason)
		}
	}
	for _, p := range in.Firewall(s) {
		if p.Code == model.FirewallDrops {
			e.step("firewall", false, "%s", p.Reason)
		}
	}
	live := svc.InRotation()
	e.step("service", len(live) > 0, "%s: %d tasks, %d in rotation", svc.ID, len(svc.Tasks), len(live))
	in.explainName(ctx, e, svc)
	if svc.Spec.Mode == model.ModeDNSRR || !svc.VIP.IsValid() {
		return nil
	}
	return in.explainVIP(ctx, e, svc)
}

// explainName asks the DNS server the way a container does: by a packet.
func (in *Inspector) explainName(ctx context.Context, e *walk, svc *model.Service) {
	name := svc.ID.Name + "." + svc.ID.Stack + "." + in.Zone + "."
	server := in.DNS.String()
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
