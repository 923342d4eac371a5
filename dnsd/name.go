package dnsd

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Limits of RFC 1035 section 2.3.4, in octets on the wire.
const (
	maxName  = 255
	maxLabel = 63
	// The longest that stands in front of the zone is _port._sctp.NAME.STACK.
	maxZone = maxName - 4*(maxLabel+1) + (maxLabel - len("_sctp"))
)

// name is a domain name as it goes over the wire, but in lower case.
type name struct {
	wire   [maxName]byte
	size   int                // octets used, the root's included
	labels int                // the root not counted
	starts [maxName / 2]uint8 // where each label's length octet is
}

// read takes the name at the head of b. It reports false where that is cut
// short, too long, or compressed: at the head of a message there is nothing
// a pointer could point to.
func (n *name) read(b []byte) bool {
	n.labels = 0
	for i := 0; i < len(b) && i < maxName; {
		l := int(b[i])
		n.wire[i] = b[i]
		if l == 0 {
			n.size = i + 1
			return true
		}
		if l > maxLabel || i+1+l >= len(b) || i+1+l >= maxName {
			return false
		}
		n.starts[n.labels] = uint8(i)
		n.labels++
		for j := i + 1; j <= i+l; j++ {
			c := b[j]
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			n.wire[j] = c
		}
		i += 1 + l
	}
	return false
}

// parseName reads a name as people write it, with or without the last dot.
func parseName(s string) (n name, err error) {
	var buf [maxName + 1]byte
	end, err := dns.PackDomainName(dns.Fqdn(s), buf[:], 0, nil, false)
	if err != nil || !n.read(buf[:end]) {
		return n, fmt.Errorf("%q is not a domain name", s)
	}
	return n, nil
}

// start is where label i begins, the root being label n.labels.
func (n *name) start(i int) int {
	if i == n.labels {
		return n.size - 1
	}
	return int(n.starts[i])
}

// span is labels i to j-1 with their length octets.
func (n *name) span(i, j int) []byte { return n.wire[n.start(i):n.start(j)] }

// label is label i without its length octet.
func (n *name) label(i int) []byte { return n.wire[n.start(i)+1 : n.start(i+1)] }

// whole is the name with the root.
func (n *name) whole() []byte { return n.wire[:n.size] }

// below tells whether the name is zone or ends in it. The zone is given on
// the wire, in lower case, with its number of labels.
func (n *name) below(zone []byte, labels int) bool {
	return n.labels >= labels && bytes.Equal(n.wire[n.start(n.labels-labels):n.size], zone)
}

// String is the name in lower case, with its last dot.
func (n *name) String() string {
	s, _, err := dns.UnpackDomainName(n.whole(), 0)
	if err != nil {
		return "?"
	}
	return s
}

// text is labels as people write them, "web.shop", without a last dot.
func text(labels []byte) string {
	var parts []string
	for len(labels) > 0 {
		l := int(labels[0])
		parts = append(parts, string(labels[1:1+l]))
		labels = labels[1+l:]
	}
	return strings.Join(parts, ".")
}

// appendLabel adds one label, which must be 1 to 63 octets long.
func appendLabel(b []byte, label string) []byte {
	return append(append(b, byte(len(label))), label...)
}

// kind is the form of a name.
type kind uint8

const (
	kindForeign     kind = iota // none of ours: to be forwarded
	kindNothing                 // inside our zones, of a form that no name has: NXDOMAIN
	kindBetween                 // exists only because names below it may: NODATA
	kindApex                    // the zone itself
	kindService                 // NAME
	kindTasks                   // tasks.NAME
	kindUnderscore              // _port._proto.NAME, _proto.NAME
	kindReverseApex             // the reverse zone of the VIP pool
	kindReverse                 // an address
)

// target is what a name asks for, by its form alone.
type target struct {
	kind    kind
	inside  bool       // in the zone or the pool's reverse zone: never forwarded
	soa     int        // where in the name the SOA's owner begins
	sub     []byte     // kindUnderscore: the labels before NAME
	service []byte     // NAME without stack, one label with its length octet
	full    []byte     // NAME with stack, two labels; nil where no stack is said
	addr    netip.Addr // kindReverse
}

// zone is the part of the name space that is ours.
type zone struct {
	name name
	pool netip.Prefix
}

// classify tells what the name asks for. The result points into n.
func (z *zone) classify(n *name) target {
	if t, ok := z.reverse(n); ok {
		return t
	}
	t := target{}
	k := n.labels // how many labels stand before the zone
	if n.below(z.name.whole(), z.name.labels) {
		k -= z.name.labels
		t.inside, t.soa = true, n.start(k)
		t.kind = kindNothing
		if k == 0 {
			t.kind = kindApex
			return t
		}
	}
	if n.below(resolverARPA, 2) {
		return target{kind: kindNothing, inside: true, soa: n.start(n.labels - 2)}
	}

	i, form := 0, kindService
	switch {
	case k > 0 && string(n.label(0)) == "tasks":
		i, form = 1, kindTasks
		if k == 1 {
			if t.inside {
				t.kind = kindBetween
			}
			return t
		}
	case k > 0 && n.label(0)[0] == '_':
		for form = kindUnderscore; i < k && n.label(i)[0] == '_'; i++ {
		}
		t.sub = n.span(0, i)
	}
	switch k - i {
	case 1:
		t.kind, t.service = form, n.span(i, i+1)
	case 2:
		t.kind, t.service, t.full = form, n.span(i, i+1), n.span(i, i+2)
	}
	return t
}

var (
	inAddrARPA   = []byte("\x07in-addr\x04arpa\x00")
	ip6ARPA      = []byte("\x03ip6\x04arpa\x00")
	resolverARPA = []byte("\x08resolver\x04arpa\x00")
)

// reverse reads a name below in-addr.arpa (RFC 1035 section 3.5) or ip6.arpa
// (RFC 3596 section 2.5), and tells whether it is one.
func (z *zone) reverse(n *name) (target, bool) {
	var a [16]byte
	left := n.labels - 2 // labels not yet read, from the right
	bits, unit, total := 0, 8, 32
	switch {
	case n.below(inAddrARPA, 2):
		for ; left > 0 && bits < total; left-- {
			v, ok := decimalOctet(n.label(left - 1))
			if !ok {
				break
			}
			a[bits/8] = v
			bits += unit
		}
	case n.below(ip6ARPA, 2):
		for unit, total = 4, 128; left > 0 && bits < total; left-- {
			v, ok := nibble(n.label(left - 1))
			if !ok {
				break
			}
			a[bits/8] |= v << (4 - bits%8)
			bits += unit
		}
	default:
		return target{}, false
	}
	addr := netip.AddrFrom16(a)
	if total == 32 {
		addr = netip.AddrFrom4([4]byte(a[:4]))
	}
	t := target{}
	if z.pool.Contains(addr) && bits >= z.pool.Bits() {
		apex := 2 + (z.pool.Bits()+unit-1)/unit // labels of the reverse zone
		t.inside, t.soa = true, n.start(n.labels-apex)
		switch {
		case left > 0:
			t.kind = kindNothing
			return t, true
		case n.labels == apex && bits < total:
			t.kind = kindReverseApex
			return t, true
		case bits < total:
			t.kind = kindBetween
			return t, true
		}
	}
	if left == 0 && bits == total {
		t.kind, t.addr = kindReverse, addr
	}
	return t, true
}

func decimalOctet(l []byte) (byte, bool) {
	if len(l) == 0 || len(l) > 3 || (l[0] == '0' && len(l) > 1) {
		return 0, false
	}
	v := 0
	for _, c := range l {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + int(c-'0')
	}
	return byte(v), v < 256
}

func nibble(l []byte) (byte, bool) {
	if len(l) != 1 {
		return 0, false
	}
	switch c := l[0]; {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}
