package dnsd

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"shoal/model"
)

// finding is what a Snapshot says to a question, in the terms of miekg/dns.
type finding struct {
	outcome outcome
	svc     *model.Service // the one the name means, if any
	answer  []dns.RR
	extra   []dns.RR
	ns      []dns.RR // the SOA where answer is empty
	reason  string   // why it is so, for people
}

// resolver answers from a Snapshot, by the same rules as a table, slowly and
// with reasons.
type resolver struct {
	*Options
	zone *zone
	snap *model.Snapshot
}

// resolve answers a question of class IN. The records' owner is spelled as owner.
func (r resolver) resolve(n *name, owner string, qtype uint16, asker netip.Addr) finding {
	tg := r.zone.classify(n)
	f := r.find(&tg, owner, qtype, asker)
	if f.outcome == notOurs && tg.inside {
		f.outcome = noName
	}
	if f.outcome != notOurs && len(f.answer) == 0 {
		labels := dns.SplitDomainName(owner)
		before := 0
		for before < n.labels && n.start(before) < tg.soa {
			before++
		}
		f.ns = []dns.RR{r.soa(dns.Fqdn(strings.Join(labels[before:], ".")))}
	}
	return f
}

func (r resolver) find(tg *target, owner string, qtype uint16, asker netip.Addr) finding {
	f := finding{outcome: records}
	switch tg.kind {
	case kindForeign:
		return finding{reason: "no form of a name of the mesh"}
	case kindNothing:
		return finding{outcome: noName, reason: "no name of the mesh has this form"}
	case kindBetween:
		f.reason = "only names below it may exist"
	case kindApex, kindReverseApex:
		f.reason = "the zone itself"
		r.apex(&f, tg.kind, owner, qtype)
	case kindReverse:
		names := r.namesOf(tg.addr)
		if len(names) == 0 {
			return finding{reason: fmt.Sprintf("%s belongs to no service and no running task", tg.addr)}
		}
		f.reason = fmt.Sprintf("%s belongs to %s", tg.addr, strings.Join(names, " "))
		if qtype == dns.TypePTR {
			for _, n := range names {
				f.answer = append(f.answer, &dns.PTR{Hdr: r.header(owner, dns.TypePTR), Ptr: n})
			}
		}
	default:
		return r.service(tg, owner, qtype, asker)
	}
	return f
}

func (r resolver) apex(f *finding, k kind, owner string, qtype uint16) {
	zone := r.zone.name.String()
	switch qtype {
	case dns.TypeSOA:
		f.answer = []dns.RR{r.soa(owner)}
	case dns.TypeNS:
		f.answer = []dns.RR{&dns.NS{Hdr: r.header(owner, dns.TypeNS), Ns: zone}}
		f.extra = r.addrs(zone, dns.TypeNone, r.serverAddrs())
	case dns.TypeA, dns.TypeAAAA:
		if k == kindApex {
			f.answer = r.addrs(owner, qtype, r.serverAddrs())
		}
	}
}

func (r resolver) service(tg *target, owner string, qtype uint16, asker netip.Addr) finding {
	svc, reason, inOtherStack := r.choose(tg, asker)
	if svc == nil {
		f := finding{outcome: notOurs, reason: reason}
		switch {
		case tg.kind == kindService && tg.full == nil && tg.inside && r.isStack(text(tg.service)):
			f.outcome = records
			f.reason += fmt.Sprintf("; %s is a stack", text(tg.service))
		case inOtherStack:
			f.outcome = undecided
		}
		return f
	}
	f := finding{outcome: records, svc: svc, reason: reason}
	switch tg.kind {
	case kindService:
		f.answer = r.addrs(owner, qtype, addresses(svc))
		if svc.Spec.Mode == model.ModeDNSRR {
			f.reason += "; mode dnsrr: the tasks in rotation"
		}
	case kindTasks:
		f.answer = r.addrs(owner, qtype, taskAddrs(svc, (*model.Task).Listed))
	case kindUnderscore:
		r.ports(&f, text(tg.sub), owner, qtype)
	}
	return f
}

func (r resolver) ports(f *finding, sub, owner string, qtype uint16) {
	target := r.serviceName(f.svc.ID)
	exists := false
	for _, p := range namedPorts(f.svc) {
		exists = exists || text([]byte(p.sub)) == sub || text([]byte(p.protocol)) == sub
		if qtype == dns.TypeSRV && text([]byte(p.sub)) == sub {
			f.answer = append(f.answer, &dns.SRV{Hdr: r.header(owner, dns.TypeSRV), Port: p.port, Target: target})
		}
	}
	if len(f.answer) > 0 {
		f.extra = r.addrs(target, dns.TypeNone, addresses(f.svc))
		f.extra = f.extra[:min(len(f.extra), maxExtra)]
	}
	if !exists {
		f.outcome = noName
		f.reason += fmt.Sprintf("; no port of it is named %s", sub)
	}
}

// choose finds the service that a name means for the one who asks, or that only
// other stacks have one, which the one who asks is to be told.
func (r resolver) choose(tg *target, asker netip.Addr) (svc *model.Service, reason string, inOtherStack bool) {
	service := text(tg.service)
	if tg.full != nil {
		stack := text(tg.full[len(tg.service):])
		svc, ok := r.snap.Service(model.ServiceID{Stack: stack, Name: service})
		switch {
		case !ok:
			return nil, fmt.Sprintf("no service %s in stack %s", service, stack), false
		case !tg.inside && publicStack(stack):
			return nil, fmt.Sprintf("the Internet has names that end in .%s: ask for %s", stack, strings.TrimSuffix(r.serviceName(svc.ID), ".")), false
		}
		return svc, "the name says its stack", false
	}
	consider := func(stack, why string) {
		s, ok := r.snap.Service(model.ServiceID{Stack: stack, Name: service})
		switch {
		case !ok:
		case svc == nil:
			svc, reason = s, why
		case len(svc.Tasks) == 0 && len(s.Tasks) > 0:
			svc, reason = s, why+"; "+svc.ID.String()+" has no tasks"
		}
	}
	if own, ok := r.snap.StackOf(asker); ok {
		consider(own, fmt.Sprintf("%s, which asks, is in stack %s", asker, own))
	}
	consider(model.DefaultStack, "found in stack "+model.DefaultStack)
	if svc != nil && (len(svc.Tasks) > 0 || !r.FlatNames) {
		return svc, reason, false
	}
	stacks := r.stacksWith(service)
	others := "another stack has it"
	if len(stacks) > 1 {
		others = fmt.Sprintf("%d other stacks have it", len(stacks))
	}
	others += fmt.Sprintf(" (%s); ask for %s.STACK.%s", strings.Join(stacks[:min(len(stacks), 8)], ", "), service, strings.TrimSuffix(r.zone.name.String(), "."))
	switch {
	case len(stacks) == 0:
		return nil, "no service " + service, false
	case r.FlatNames && len(stacks) == 1:
		consider(stacks[0], "the only service of that name")
		return svc, reason, false
	case svc != nil:
		return svc, reason, false
	case r.FlatNames:
		return nil, fmt.Sprintf("%s is ambiguous: %s", service, others), true
	}
	return nil, fmt.Sprintf("no service %s for %s: %s", service, asker, others), tg.inside
}

// stacksWith are the stacks that have a service of that name: those where it has
// tasks, if it has any anywhere.
func (r resolver) stacksWith(name string) []string {
	var idle, stacks []string
	for _, s := range r.snap.Services {
		switch {
		case s.ID.Name != name:
		case len(s.Tasks) == 0:
			idle = append(idle, s.ID.Stack)
		default:
			stacks = append(stacks, s.ID.Stack)
		}
	}
	if len(stacks) == 0 {
		return idle
	}
	return stacks
}

func (r resolver) isStack(s string) bool {
	return slices.ContainsFunc(r.snap.Services, func(svc *model.Service) bool { return svc.ID.Stack == s })
}

// namesOf are the names of an address: first of the service with that VIP,
// as a task otherwise.
func (r resolver) namesOf(a netip.Addr) []string {
	var names []string
	for _, svc := range r.snap.Services {
		if svc.VIP == a {
			names = append(names, r.serviceName(svc.ID))
		}
		if slices.Contains(taskAddrs(svc, (*model.Task).Listed), a) {
			names = append(names, "tasks."+r.serviceName(svc.ID))
		}
	}
	return names[:min(len(names), maxPTR)]
}

func (r resolver) serviceName(id model.ServiceID) string {
	return id.Name + "." + id.Stack + "." + r.zone.name.String()
}

// addrs are records of those addresses that are of qtype; TypeNone means both.
func (r resolver) addrs(owner string, qtype uint16, addrs []netip.Addr) []dns.RR {
	var rrs []dns.RR
	for _, a := range addrs {
		switch typ := addrType(a); {
		case qtype != typ && qtype != dns.TypeNone:
		case a.Is4():
			rrs = append(rrs, &dns.A{Hdr: r.header(owner, typ), A: a.AsSlice()})
		default:
			rrs = append(rrs, &dns.AAAA{Hdr: r.header(owner, typ), AAAA: a.AsSlice()})
		}
	}
	return rrs
}

func (r resolver) soa(owner string) dns.RR {
	v := soaNumbers(r.snap, r.Options)
	zone := r.zone.name.String()
	return &dns.SOA{Hdr: r.header(owner, dns.TypeSOA), Ns: zone, Mbox: "hostmaster." + zone,
		Serial: v[0], Refresh: v[1], Retry: v[2], Expire: v[3], Minttl: v[4]}
}

func (r resolver) header(owner string, typ uint16) dns.RR_Header {
	return dns.RR_Header{Name: owner, Rrtype: typ, Class: dns.ClassINET, Ttl: r.ttl()}
}
