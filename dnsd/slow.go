package dnsd

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/miekg/dns"
)

// response is an answer in the making on the slow path.
type response struct {
	dns.Msg
	q   query
	opt *dns.OPT // nil where the question had none
}

// explain adds an extended error (RFC 8914), which only EDNS can carry.
func (r *response) explain(code uint16, text string) {
	if r.opt != nil {
		r.opt.Option = append(r.opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: text})
	}
}

// slow answers whatever fast does not. It calls reply exactly once, before it
// returns or, where an upstream is asked, later: with the answer, or with nil
// where the message deserves none. It keeps msg until then.
func (s *Server) slow(msg []byte, asker netip.Addr, tcp bool, reply func([]byte)) {
	if len(msg) < headerSize || msg[2]&flagQR != 0 { // answers to answers make loops
		s.metrics.malformed.Inc()
		reply(nil)
		return
	}
	r := &response{}
	if forward := s.prepare(r, msg, asker); forward {
		s.forward(r, msg, asker, tcp, reply)
		return
	}
	s.send(r, tcp, reply)
}

// send packs an answer of our own making.
func (s *Server) send(r *response, tcp bool, reply func([]byte)) {
	if r.opt != nil {
		r.Extra = append(r.Extra, r.opt)
	}
	r.Truncate(r.q.limit(tcp))
	r.Compress = true
	out, err := r.Pack()
	if err != nil {
		s.opt.Log.Error("pack a DNS answer", "question", r.q.name.String(), "error", err)
		reply(nil)
		return
	}
	s.metrics.rcodes[r.Rcode].Inc()
	reply(out)
}

// prepare reads the message and decides on its answer, or that it is to be
// forwarded.
func (s *Server) prepare(r *response, msg []byte, asker netip.Addr) (forward bool) {
	r.Id = binary.BigEndian.Uint16(msg)
	r.Response = true
	r.Opcode = int(msg[2]>>3) & 0x0F
	r.RecursionDesired = msg[2]&flagRD != 0
	r.CheckingDisabled = msg[3]&flagCD != 0
	named := r.q.readQuestion(msg)
	if named {
		spelled, _, err := dns.UnpackDomainName(msg, headerSize)
		if named = err == nil; named {
			r.Question = []dns.Question{{Name: spelled, Qtype: r.q.qtype, Qclass: r.q.qclass}}
		}
	}
	sound := r.q.readRecords(msg)
	if r.q.opt {
		r.opt = &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		r.opt.SetUDPSize(udpSize)
		if r.q.do {
			r.opt.SetDo()
		}
	}

	t := s.table.Load()
	if t == nil {
		r.Rcode = dns.RcodeServerFailure
		r.explain(dns.ExtendedErrorCodeNotReady, "the state of the mesh is not known yet")
		return false
	}
	if !t.allowed.allows(asker) {
		s.metrics.refused.Inc()
		r.Rcode = dns.RcodeRefused
		r.explain(dns.ExtendedErrorCodeProhibited, "")
		return false
	}
	r.RecursionAvailable = true
	if rcode := r.q.check(msg, named, sound); rcode != dns.RcodeSuccess {
		s.metrics.malformed.Inc()
		r.Rcode = rcode
		return false
	}
	q := &r.q
	if q.qclass != dns.ClassINET || (!ordinary(q.qtype) && q.qtype != dns.TypeANY) {
		s.metrics.refused.Inc()
		r.Rcode = dns.RcodeRefused // CHAOS and its like, zone transfers
		return false
	}
	return s.ownAnswer(r, t, asker)
}

// ownAnswer answers from the Snapshot, or tells that the question is not for us.
func (s *Server) ownAnswer(r *response, t *table, asker netip.Addr) (forward bool) {
	owner := r.Question[0].Name
	f := resolver{&s.opt, &s.zone, t.snap}.resolve(&r.q.name, owner, r.q.qtype, asker)
	anyType := r.q.qtype == dns.TypeANY
	if f.outcome == notOurs && !anyType {
		return true
	}
	s.metrics.own.Inc()
	r.Authoritative = f.outcome != notOurs
	switch f.outcome {
	case noName:
		r.Rcode = dns.RcodeNameError
	case undecided:
		r.Rcode = dns.RcodeNameError
		r.explain(dns.ExtendedErrorCodeOther, f.reason)
	default:
		if anyType { // RFC 8482 section 4.2, for names of others too
			h := dns.RR_Header{Name: owner, Rrtype: dns.TypeHINFO, Class: dns.ClassINET, Ttl: s.opt.ttl()}
			r.Answer = []dns.RR{&dns.HINFO{Hdr: h, Cpu: "RFC8482"}}
			return false
		}
	}
	r.Answer, r.Ns, r.Extra = f.answer, f.ns, f.extra
	return false
}

// check finds what is wrong with a message as a whole. Sound tells whether its
// records can be read.
func (q *query) check(msg []byte, named, sound bool) int {
	if msg[2]>>3&0x0F != dns.OpcodeQuery {
		return dns.RcodeNotImplemented
	}
	count := func(section int) uint16 { return binary.BigEndian.Uint16(msg[4+2*section:]) }
	switch {
	case !sound, !named,
		count(0) != 1, // RFC 9619
		count(1) > 0,
		count(2) > 0 && q.qtype != dns.TypeIXFR,
		count(3) > 2, // OPT and TSIG
		q.qtype == dns.TypeNone, q.qtype == dns.TypeOPT:
		return dns.RcodeFormatError
	case q.edns != 0:
		return dns.RcodeBadVers
	}
	return dns.RcodeSuccess
}

// forward answers with what an upstream says, or with why none does.
func (s *Server) forward(r *response, msg []byte, asker netip.Addr, tcp bool, reply func([]byte)) {
	s.metrics.forwarded.Inc()
	fail := func(rcode int, code uint16, why string) {
		r.Rcode = rcode
		r.explain(code, why)
		s.send(r, tcp, reply)
	}
	answer := func(p *packed) {
		limit := r.q.limit(tcp)
		out := make([]byte, min(limit, len(p.msg)+optSize))
		n := p.answer(out, msg, &r.q, limit)
		s.metrics.rcodes[out[3]&0x0F].Inc()
		reply(out[:n])
	}
	if s.forwarder.caughtLoop(&r.q.name) {
		fail(dns.RcodeServerFailure, dns.ExtendedErrorCodeNetworkError, "forwarding loop")
		return
	}
	// Without RD the answer is to come from what is known here (RFC 1034 section
	// 4.3.1), and of foreign names that is the cache: it would show what others
	// have asked. Refused by policy, as by Unbound (access-control: allow_snoop
	// would permit it).
	if !r.q.rd {
		fail(dns.RcodeRefused, dns.ExtendedErrorCodeNotAuthoritative, "not a name of the mesh, and recursion is not desired")
		return
	}
	if p := s.forwarder.cache.get(&r.q); p != nil {
		s.metrics.hits.Inc()
		answer(p)
		return
	}
	s.metrics.misses.Inc()
	ctx, stop := context.WithCancelCause(s.forwarder.ctx)
	release, ok := s.inFlight.acquire(asker, s.table.Load().allowed.networkOf(asker), func() { stop(errOverload) })
	overload := func() {
		s.metrics.failures.WithLabelValues("overload").Inc()
		fail(dns.RcodeServerFailure, dns.ExtendedErrorCodeOther, errOverload.Error())
	}
	if !ok {
		stop(nil)
		overload()
		return
	}
	s.tasks.Go(func() {
		defer release()
		defer stop(nil)
		p, err := s.forwarder.resolve(ctx, &r.q)
		switch rebind := (*rebindError)(nil); {
		case errors.Is(err, errOverload):
			overload()
		case errors.As(err, &rebind):
			fail(dns.RcodeSuccess, dns.ExtendedErrorCodeBlocked, rebind.Error())
		case err != nil:
			fail(dns.RcodeServerFailure, dns.ExtendedErrorCodeNetworkError, err.Error())
		default:
			answer(p)
		}
	})
}

var errOverload = errors.New("too many questions in flight")
