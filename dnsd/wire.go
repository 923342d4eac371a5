package dnsd

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/miekg/dns"
)

const (
	headerSize = 12
	optSize    = 11 // an OPT record without options
	// udpSize is the longest answer over UDP and the size we advertise: it
	// passes every usual path unfragmented.
	udpSize = 1232
	// maxQuestion is the longest question read, in octets, over UDP as over TCP.
	// With all its options and padding none comes near it.
	maxQuestion = 4096

	flagQR = 0x80 // in octet 2 of the header
	flagAA = 0x04
	flagTC = 0x02
	flagRD = 0x01
	flagRA = 0x80 // in octet 3
	flagAD = 0x20
	flagCD = 0x10
)

// query is a question as it came.
type query struct {
	name   name
	qtype  uint16
	qclass uint16
	end    int  // of the question section in the message
	rd     bool // the client wants recursion, …
	ad, cd bool // … to know whether the answer is validated, … not to have it validated
	opt    bool // it has an OPT record, and that says:
	do     bool
	size   uint16
	edns   uint8 // the version
}

// readQuestion reads the header's flags and the first question. It reports
// false where there is none that can be read.
func (q *query) readQuestion(msg []byte) bool {
	if len(msg) < headerSize || binary.BigEndian.Uint16(msg[4:]) == 0 {
		return false
	}
	q.rd = msg[2]&flagRD != 0
	q.ad = msg[3]&flagAD != 0
	q.cd = msg[3]&flagCD != 0
	if !q.name.read(msg[headerSize:]) {
		return false
	}
	end := headerSize + q.name.size
	if len(msg) < end+4 {
		return false
	}
	q.qtype = binary.BigEndian.Uint16(msg[end:])
	q.qclass = binary.BigEndian.Uint16(msg[end+2:])
	q.end = end + 4
	return true
}

// readPlain reads a plain question: a query of one question for ordinary
// records, with an OPT record of version 0 or nothing behind it. The options
// in that record are ignored, as all unknown ones are (RFC 6891 section 6.1.2).
func (q *query) readPlain(msg []byte) bool {
	if len(msg) < headerSize || len(msg) > maxQuestion || msg[2]&^(flagRD|flagTC|flagAA) != 0 || // QR or an opcode
		binary.BigEndian.Uint32(msg[4:]) != 1<<16 || // one question, no answer
		binary.BigEndian.Uint16(msg[8:]) != 0 {
		return false
	}
	additional := binary.BigEndian.Uint16(msg[10:])
	if additional > 1 || !q.readQuestion(msg) || q.qclass != dns.ClassINET || !ordinary(q.qtype) {
		return false
	}
	rest := msg[q.end:]
	if additional == 0 {
		return len(rest) == 0
	}
	return len(rest) >= optSize && rest[0] == 0 && binary.BigEndian.Uint16(rest[1:]) == dns.TypeOPT && q.readOPT(rest) && q.edns == 0
}

// readRecords walks over the records behind the question and reads only the OPT
// record. It reports false where the message is too long or cut short, or has a
// record that cannot be read. It does not allocate, because clients that may not ask
// get here too: the library would build a whole name for each pointer to one.
func (q *query) readRecords(msg []byte) bool {
	if len(msg) > maxQuestion {
		return false
	}
	off := headerSize
	for range binary.BigEndian.Uint16(msg[4:]) {
		if off = skipName(msg, off) + 4; off > len(msg) {
			return false
		}
	}
	before := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:]))
	for i := range before + int(binary.BigEndian.Uint16(msg[10:])) {
		start := off
		if off = skipName(msg, off); off+10 > len(msg) {
			return false
		}
		end := off + 10 + int(binary.BigEndian.Uint16(msg[off+8:]))
		if end > len(msg) {
			return false
		}
		if i >= before && binary.BigEndian.Uint16(msg[off:]) == dns.TypeOPT {
			if q.opt || msg[start] != 0 || !q.readOPT(msg[start:end]) { // RFC 6891 sections 6.1.1 and 6.1.2
				return false
			}
		}
		off = end
	}
	return true
}

// readOPT reads a whole OPT record. It reports false where the options do not fill it.
func (q *query) readOPT(rr []byte) bool {
	options := rr[optSize:]
	if len(options) != int(binary.BigEndian.Uint16(rr[9:])) {
		return false
	}
	for len(options) > 0 {
		if len(options) < 4 {
			return false
		}
		l := 4 + int(binary.BigEndian.Uint16(options[2:]))
		if l > len(options) {
			return false
		}
		options = options[l:]
	}
	q.opt = true
	q.size = binary.BigEndian.Uint16(rr[3:])
	q.edns = rr[6]
	q.do = rr[7]&0x80 != 0
	return true
}

// ordinary tells types of data from query types and meta types (RFC 6895 section 3.1).
func ordinary(qtype uint16) bool {
	return qtype != 0 && qtype != dns.TypeOPT && (qtype < 128 || qtype > 255)
}

// limit is the longest answer the client can take.
func (q *query) limit(tcp bool) int {
	switch {
	case tcp:
		return dns.MaxMsgSize
	case !q.opt:
		return dns.MinMsgSize
	}
	return int(min(max(q.size, dns.MinMsgSize), udpSize))
}

// fast answers a plain question from the table or the cache into out, which
// must have room for the longest answer, and returns the answer's length. It
// reports false, having changed nothing, where the slow path is needed.
func (s *Server) fast(out, msg []byte, asker netip.Addr, tcp bool) (int, bool) {
	t := s.table.Load()
	var q query
	if t == nil || !q.readPlain(msg) || !t.allowed.allows(asker) {
		return 0, false
	}
	tg := s.zone.classify(&q.name)
	set, o := t.find(&tg, q.qtype, asker)
	switch o {
	case undecided:
		return 0, false // the slow path can say why
	case notOurs:
		if !q.rd {
			return 0, false // not answered from the cache
		}
		p := s.forwarder.cache.get(&q)
		if p == nil {
			return 0, false
		}
		s.metrics.forwarded.Inc()
		s.metrics.hits.Inc()
		n := p.answer(out, msg, &q, q.limit(tcp))
		s.metrics.rcodes[out[3]&0x0F].Inc()
		return n, true
	}
	s.metrics.own.Inc()
	n := t.answer(out, msg, &q, &tg, set, q.limit(tcp))
	s.metrics.rcodes[out[3]&0x0F].Inc()
	return n, true
}

// answer writes the answer to a question about our own names: the records of
// the set, or, where it is nil, that the name does not exist.
func (t *table) answer(out, msg []byte, q *query, tg *target, set *rrset, limit int) int {
	n := copy(out, msg[:q.end])
	out[2] = flagQR | flagAA | msg[2]&flagRD
	out[3] = flagRA | msg[3]&flagCD
	clear(out[6:headerSize])
	if q.opt {
		limit -= optSize
	}

	switch {
	case set == nil || set.n == 0:
		if set == nil {
			out[3] |= dns.RcodeNameError
		}
		binary.BigEndian.PutUint16(out[n:], 0xC000|uint16(headerSize+tg.soa))
		n += 2 + copy(out[n+2:], t.soa[2:])
		out[9] = 1
	default:
		n = set.append(out, n, limit, tg)
	}
	if q.opt {
		n = appendOPT(out, n, q.do)
	}
	return n
}

// append writes as many of the records as fit, beginning with any of them, so
// that clients that take the first are spread over all.
func (set *rrset) append(out []byte, n, limit int, tg *target) int {
	if set.mixed {
		if n+len(set.records) > limit {
			out[2] |= flagTC
			return n
		}
		binary.BigEndian.PutUint16(out[6:], uint16(set.n))
		return n + copy(out[n:], set.records)
	}
	count := int(set.n)
	stride := len(set.records) / count
	fit := min(count, (limit-n)/stride)
	first := 0
	if count > 1 {
		first = stride * rand.IntN(count)
	}
	end := n + fit*stride
	n += copy(out[n:end], set.records[first:])
	copy(out[n:end], set.records[:first])
	binary.BigEndian.PutUint16(out[6:], uint16(fit))
	switch n = end; {
	case fit < count:
		out[2] |= flagTC
	case n+len(set.extra) <= limit: // else left out without TC (RFC 2181 section 9)
		n += copy(out[n:], set.extra)
		binary.BigEndian.PutUint16(out[10:], uint16(set.nextra))
	}
	return n
}

// appendOPT writes our OPT record, DO copied (RFC 3225 section 3), and counts it.
func appendOPT(out []byte, n int, do bool) int {
	opt := [optSize]byte{0, 0, byte(dns.TypeOPT), udpSize >> 8, udpSize & 0xFF}
	if do {
		opt[7] = 0x80
	}
	binary.BigEndian.PutUint16(out[10:], binary.BigEndian.Uint16(out[10:])+1)
	return n + copy(out[n:], opt[:])
}
