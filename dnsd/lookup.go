package dnsd

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"shoal/model"
)

// Answer is what a question would be answered with, and why.
type Answer struct {
	Name      string           `json:"name"`             // in lower case, with its last dot
	Type      string           `json:"type"`             // "A"
	Rcode     string           `json:"rcode,omitempty"`  // "NOERROR", "NXDOMAIN"; "" where it is forwarded
	Records   []string         `json:"records"`          // as in a zone file
	Reason    string           `json:"reason"`           // how the name was understood
	Service   model.ServiceID  `json:"service,omitzero"` // the one the name means
	Forwarded bool             `json:"forwarded"`        // it would be asked of Upstreams
	Upstreams []netip.AddrPort `json:"upstreams,omitempty"`
}

// Lookup tells what a question would be answered with if asker asked it. No
// packet is sent: of a foreign name it says whom it would be asked of. An
// error says that name or type (such as "A") is none, or that there is no
// Snapshot yet.
func (s *Server) Lookup(name, qtype string, asker netip.Addr) (Answer, error) {
	t := s.table.Load()
	if t == nil {
		return Answer{}, fmt.Errorf("look up %s: the state of the mesh is not known yet", name)
	}
	n, err := parseName(name)
	if err != nil {
		return Answer{}, fmt.Errorf("look up: %w", err)
	}
	typ, ok := dns.StringToType[strings.ToUpper(qtype)]
	if !ok || !ordinary(typ) {
		return Answer{}, fmt.Errorf("look up %s: %q is no type of DNS record; try A, AAAA, SRV or PTR", name, qtype)
	}
	f := resolver{&s.opt, &s.zone, t.snap}.resolve(&n, n.String(), typ, asker)
	a := Answer{Name: n.String(), Type: dns.TypeToString[typ], Reason: f.reason, Records: []string{}}
	if f.svc != nil {
		a.Service = f.svc.ID
	}
	switch f.outcome {
	case notOurs:
		a.Forwarded = true
		for _, u := range s.forwarder.upstreams.get() {
			a.Upstreams = append(a.Upstreams, u.addr)
		}
		return a, nil
	case records:
		a.Rcode = dns.RcodeToString[dns.RcodeSuccess]
	default:
		a.Rcode = dns.RcodeToString[dns.RcodeNameError]
	}
	for _, rr := range f.answer {
		a.Records = append(a.Records, rr.String())
	}
	return a, nil
}
