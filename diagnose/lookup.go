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

// Lookup tells what a container, or this host (""), would be answered on a name.
func (in *Inspector) Lookup(name, from string) (*api.Lookup, error) {
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

func (in *Inspector) lookupStep(e *walk, name string, from netip.Addr) (*api.Lookup, model.ServiceID, error) {
	l, id, err := in.lookup(name, from.String())
	if err == nil {
		e.step("name", len(l.Answers) > 0, "%s asks for %s: %s\n%s", l.From, l.Name, orElse(strings.Join(l.Answers, ", "), "no answer"), l.Reason)
	}
	return l, id, err
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
