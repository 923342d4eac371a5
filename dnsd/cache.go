package dnsd

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/miekg/dns"
)

const (
	maxTTL         = time.Hour       // of what is cached, and of the TTLs told to clients
	maxNegativeTTL = 5 * time.Minute // likewise of NXDOMAIN and NODATA (RFC 2308 section 5)
	maxCachedSize  = 4096            // octets; longer answers are forwarded each time
)

// packed is an upstream's answer, made ready to be sent many times: without
// OPT, with its question in lower case, every name's length as on the wire.
type packed struct {
	key  string
	msg  []byte
	ttls []uint16 // where in msg the TTLs are
	born time.Time
	life time.Duration // 0: not to be cached
}

// pack makes an upstream's answer to q ready: NOERROR or NXDOMAIN. It changes m.
func pack(q *query, m *dns.Msg, now time.Time) (*packed, error) {
	m.Question = []dns.Question{{Name: q.name.String(), Qtype: q.qtype, Qclass: dns.ClassINET}}
	m.Extra = dropOPT(m.Extra)
	p := &packed{key: string(q.key(nil)), born: now, life: lifetime(m)}
	m.Compress = true
	var err error
	if p.msg, err = m.Pack(); err != nil {
		return nil, fmt.Errorf("pack answer: %w", err)
	}
	// The library reads records cut to nothing, and writes nonsense for them.
	if err := new(dns.Msg).Unpack(p.msg); err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	if p.ttls, err = ttlOffsets(p.msg); err != nil {
		return nil, err
	}
	if len(p.msg) > maxCachedSize {
		p.life = 0
	}
	return p, nil
}

func dropOPT(rrs []dns.RR) []dns.RR {
	kept := rrs[:0]
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, rr)
		}
	}
	return kept
}

// lifetime is how long an answer may be cached. It caps the TTLs in m.
func lifetime(m *dns.Msg) time.Duration {
	life := maxTTL
	soa := false
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			h := rr.Header()
			if h.Ttl > 1<<31-1 { // RFC 2181 section 8
				h.Ttl = 0
			}
			h.Ttl = min(h.Ttl, uint32(maxTTL/time.Second))
			life = min(life, time.Duration(h.Ttl)*time.Second)
		}
	}
	for _, rr := range m.Ns {
		if r, ok := rr.(*dns.SOA); ok {
			soa = true
			r.Hdr.Ttl = min(r.Hdr.Ttl, r.Minttl, uint32(maxNegativeTTL/time.Second))
			life = min(life, time.Duration(r.Hdr.Ttl)*time.Second)
		}
	}
	negative := m.Rcode == dns.RcodeNameError || len(m.Answer) == 0
	if negative && !soa { // RFC 2308 section 5: not to be cached
		return 0
	}
	return life
}

// ttlOffsets finds the TTLs in a message that was just packed.
func ttlOffsets(msg []byte) ([]uint16, error) {
	var ttls []uint16
	off := headerSize
	for range binary.BigEndian.Uint16(msg[4:]) {
		off = skipName(msg, off) + 4
	}
	count := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:])) + int(binary.BigEndian.Uint16(msg[10:]))
	for range count {
		off = skipName(msg, off)
		if off+10 > len(msg) {
			return nil, fmt.Errorf("answer of %d octets ends within a record", len(msg))
		}
		ttls = append(ttls, uint16(off+4))
		off += 10 + int(binary.BigEndian.Uint16(msg[off+8:]))
	}
	return ttls, nil
}

// skipName is the offset behind the name at off. Where no name can be read there,
// or less than two octets are left, it is len(msg) or more. Pointers have to lead
// back (RFC 1035 section 4.1.4), and are not followed.
func skipName(msg []byte, off int) int {
	for start := off; off+1 < len(msg) && off-start < maxName; {
		switch l := int(msg[off]); {
		case l == 0:
			return off + 1
		case l <= maxLabel:
			off += 1 + l
		case l >= 0xC0 && int(binary.BigEndian.Uint16(msg[off:])&0x3FFF) < start:
			return off + 2
		default:
			return len(msg)
		}
	}
	return max(off, len(msg))
}

// answer writes the answer for one client: its ID, its spelling of the
// question, TTLs counted down to now, within limit.
func (p *packed) answer(out, msg []byte, q *query, limit int) int {
	if q.opt {
		limit -= optSize
	}
	size := len(p.msg)
	truncated := size > limit
	if truncated { // what fits is not worth telling: the client asks again by TCP
		size = q.end
	}
	copy(out, p.msg[:size])
	copy(out[headerSize:], msg[headerSize:q.end])
	copy(out, msg[:2])
	out[2] = flagQR | msg[2]&flagRD
	out[3] = flagRA | msg[3]&flagCD | p.msg[3]&0x0F
	if q.ad || q.do { // RFC 6840 section 5.8
		out[3] |= p.msg[3] & flagAD
	}
	if truncated {
		out[2] |= flagTC
		clear(out[6:headerSize])
	} else {
		age := uint32(time.Since(p.born) / time.Second)
		for _, at := range p.ttls {
			ttl := binary.BigEndian.Uint32(out[at:])
			binary.BigEndian.PutUint32(out[at:], ttl-min(ttl, age))
		}
	}
	if q.opt {
		return appendOPT(out, size, q.do)
	}
	return size
}

// cache keeps answers of upstreams, the latest used of them.
type cache struct {
	seed maphash.Seed
	lru  *lru.Cache[uint64, *packed] // by hash of the key
}

func newCache(size int) (*cache, error) {
	l, err := lru.New[uint64, *packed](size)
	if err != nil {
		return nil, fmt.Errorf("DNS cache of %d answers: %w", size, err)
	}
	return &cache{seed: maphash.MakeSeed(), lru: l}, nil
}

// maxKey is the longest key: a name, a type and two bits.
const maxKey = maxName + 3

// key is what answers are told apart by. The class is always IN.
func (q *query) key(b []byte) []byte {
	b = append(b, q.name.whole()...)
	b = binary.BigEndian.AppendUint16(b, q.qtype)
	var bits byte
	if q.do {
		bits |= 1
	}
	if q.cd {
		bits |= 2
	}
	return append(b, bits)
}

// get is the answer to q, or nil. It does not allocate.
func (c *cache) get(q *query) *packed {
	var b [maxKey]byte
	key := q.key(b[:0])
	p, ok := c.lru.Get(maphash.Bytes(c.seed, key))
	if !ok || p.key != string(key) || time.Since(p.born) >= p.life {
		return nil
	}
	return p
}

func (c *cache) put(p *packed) {
	if p.life > 0 {
		c.lru.Add(maphash.String(c.seed, p.key), p)
	}
}
