package diagnose

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"shoal/api"
	"shoal/dnsd"
	"shoal/model"
)

// Lookup tells what a container, or this host (""), would be answered on a name, in
// any form that means a service.
func (in *Inspector) Lookup(name, from string) (*api.Lookup, error) {
	s, err := in.Snapshot()
	if err != nil {
		return nil, err
	}
	m, err := in.means(s, name)
	if err != nil {
		return nil, err
	}
	if m.published {
		return nil, fmt.Errorf("%q is a port of host %s, and no name: see shoal explain %[1]s", name, m.node.Name)
	}
	if name = m.name; name == "" {
		svc, err := m.service(s)
		if err != nil {
			return nil, err
		}
		if svc == nil {
			return nil, m.unknown(s)
		}
		name = svc.ID.Name + "." + svc.ID.Stack
	}
	l, _, err := in.lookup(name, from)
	return l, err
}

// lookup also returns the service that the name means, if any.
func (in *Inspector) lookup(name, from string) (l *api.Lookup, id model.ServiceID, err error) {
	s, err := in.Snapshot()
	if err != nil {
		return nil, id, err
	}
	asker, err := findSender(s, from)
	if err != nil {
		return nil, id, err
	}
	qtype := "A"
	if strings.HasPrefix(name, "_") {
		qtype = "SRV"
	}
	answer, err := in.Names.Lookup(name, qtype, asker.addr)
	if err != nil {
		return nil, id, err
	}
	if len(answer.Records) == 0 && !strings.HasSuffix(strings.TrimSuffix(name, "."), in.Zone) {
		// As a resolver with the search domain would go on. A name that is not the
		// mesh's alone is the mesh's in the zone if there is a service.
		full, err := in.Names.Lookup(strings.TrimSuffix(name, ".")+"."+in.Zone, qtype, asker.addr)
		switch {
		case err != nil:
		case !answer.Forwarded:
			answer = full
		case full.Service != model.ServiceID{}:
			full.Reason += fmt.Sprintf("; %s itself is asked of %v: %s", strings.TrimSuffix(answer.Name, "."), answer.Upstreams, answer.Reason)
			answer = full
		}
	}
	return &api.Lookup{Name: answer.Name, From: asker.who, Answers: answer.Records, Reason: reasonOf(answer)}, answer.Service, nil
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

func (in *Inspector) lookupStep(e *walk, s *model.Snapshot, name string, from netip.Addr) (*api.Lookup, model.ServiceID, error) {
	l, id, err := in.lookup(name, from.String())
	if err == nil {
		step := api.Step{What: "name", Node: e.node, OK: len(l.Answers) > 0}
		step.Evidence = fmt.Sprintf("%s asks for %s: %s\n%s", l.From, l.Name, orElse(strings.Join(l.Answers, ", "), "no answer"), l.Reason)
		if !step.OK {
			step.Remedy = in.nameRemedy(s, name)
		}
		e.add(step)
	}
	return l, id, err
}

// nameRemedy tells what to ask for in place of a name that has no answer.
func (in *Inspector) nameRemedy(s *model.Snapshot, name string) string {
	found, _ := in.named(s, strings.Split(strings.TrimSuffix(strings.TrimSuffix(name, "."), "."+in.Zone), ".")[0])
	var all []string
	for _, svc := range found[:min(len(found), 8)] {
		all = append(all, svc.ID.Name+"."+svc.ID.Stack)
	}
	if len(all) > 0 {
		return "ask for " + strings.Join(all, " or ") + ": the bare name means the one of the client's own stack (its Compose project, or shoal.stack)"
	}
	return "see shoal services for the names that there are; a container needs the label shoal.service=NAME"
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
