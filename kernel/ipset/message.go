package ipset

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
)

// Netlink attributes (include/uapi/linux/netlink.h): length and type in host
// order, the value, padding to four octets. Those of ipset carry numbers in
// network order and say so in their type.

const (
	nested   = nl.NLA_F_NESTED
	netOrder = nl.NLA_F_NET_BYTEORDER
	typeMask = 0x3fff
)

var host = nl.NativeEndian()

func attr(b []byte, typ uint16, value ...byte) []byte {
	b = append(b, 0, 0, 0, 0)
	host.PutUint16(b[len(b)-4:], uint16(4+len(value)))
	host.PutUint16(b[len(b)-2:], typ)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func attrString(b []byte, typ uint16, s string) []byte {
	return attr(b, typ, append([]byte(s), 0)...)
}

// open begins a nested attribute, which done ends.
func open(b []byte, typ uint16) ([]byte, int) {
	return attr(b, typ|nested), len(b)
}

func done(b []byte, start int) []byte {
	host.PutUint16(b[start:], uint16(len(b)-start))
	return b
}

// encode writes the attributes of a message that adds or removes entries.
func encode(s Set, batch []Entry, marks map[Entry]uint32, add bool) []byte {
	b := make([]byte, 0, 64+72*len(batch))
	b = attrString(b, nl.IPSET_ATTR_SETNAME, s.Name)
	b = attr(b, nl.IPSET_ATTR_LINENO|netOrder, 0, 0, 0, 0) // the kernel wants it with ADT
	b, adt := open(b, nl.IPSET_ATTR_ADT)
	for _, e := range batch {
		var data int
		b, data = open(b, nl.IPSET_ATTR_DATA)
		b = appendNet(b, nl.IPSET_ATTR_IP, nl.IPSET_ATTR_CIDR, e.Net)
		b = appendNet(b, nl.IPSET_ATTR_IP2, nl.IPSET_ATTR_CIDR2, e.Net2)
		if e.Iface != "" {
			b = attrString(b, nl.IPSET_ATTR_IFACE, e.Iface)
		}
		if e.Proto != 0 {
			b = attr(b, nl.IPSET_ATTR_PORT|netOrder, byte(e.Port>>8), byte(e.Port))
			b = attr(b, nl.IPSET_ATTR_PROTO, e.Proto)
		}
		if e.MAC != ([6]byte{}) {
			b = attr(b, nl.IPSET_ATTR_ETHER, e.MAC[:]...)
		}
		if add && s.Mark {
			// Mark and mask in one: the bits of the mask are replaced, the others stay.
			b = attr(b, nl.IPSET_ATTR_SKBMARK|netOrder,
				binary.BigEndian.AppendUint64(nil, uint64(marks[e])<<32|uint64(s.mask()))...)
		}
		b = done(b, data)
	}
	return done(b, adt)
}

func (s *Set) mask() uint32 {
	if s.Mask == 0 {
		return 0xffffffff
	}
	return s.Mask
}

func appendNet(b []byte, typ, cidr uint16, p netip.Prefix) []byte {
	if !p.IsValid() {
		return b
	}
	family := uint16(nl.IPSET_ATTR_IPADDR_IPV4)
	if !p.Addr().Is4() {
		family = nl.IPSET_ATTR_IPADDR_IPV6
	}
	b, at := open(b, typ)
	b = attr(b, family|netOrder, p.Addr().AsSlice()...)
	b = done(b, at)
	if p.Bits() != p.Addr().BitLen() {
		b = attr(b, cidr, uint8(p.Bits()))
	}
	return b
}

// attributes calls visit for each attribute of b, its type without flags. It
// stops at what is no attribute.
func attributes(b []byte, visit func(typ uint16, value []byte)) {
	for len(b) >= 4 {
		n := int(host.Uint16(b))
		if n < 4 || n > len(b) {
			return
		}
		visit(host.Uint16(b[2:])&typeMask, b[4:n])
		b = b[min((n+3)&^3, len(b)):]
	}
}

// decode reads one message of a dump: visit is called for the set it is
// about, then for each of its entries.
func decode(msg []byte, visit func(set string, e Entry, mark uint32, entry bool)) {
	name := ""
	attributes(msg, func(typ uint16, value []byte) {
		switch typ {
		case nl.IPSET_ATTR_SETNAME:
			before, _, _ := bytes.Cut(value, []byte{0})
			name = string(before)
			visit(name, Entry{}, 0, false)
		case nl.IPSET_ATTR_ADT:
			attributes(value, func(typ uint16, value []byte) {
				if typ == nl.IPSET_ATTR_DATA {
					e, mark := decodeEntry(value)
					visit(name, e, mark, true)
				}
			})
		}
	})
}

// decodeHeader reads the name of the set that a message of a dump is about, and
// how many entries it has; -1: the message does not tell.
func decodeHeader(msg []byte) (name string, size int) {
	size = -1
	attributes(msg, func(typ uint16, value []byte) {
		switch typ {
		case nl.IPSET_ATTR_SETNAME:
			before, _, _ := bytes.Cut(value, []byte{0})
			name = string(before)
		case nl.IPSET_ATTR_DATA:
			attributes(value, func(typ uint16, value []byte) {
				if typ == nl.IPSET_ATTR_ELEMENTS && len(value) >= 4 {
					size = int(binary.BigEndian.Uint32(value))
				}
			})
		}
	})
	return name, size
}

func decodeEntry(b []byte) (e Entry, mark uint32) {
	var ip, ip2 netip.Addr
	bits, bits2 := -1, -1
	attributes(b, func(typ uint16, v []byte) {
		switch {
		case typ == nl.IPSET_ATTR_IP:
			ip = decodeAddr(v)
		case typ == nl.IPSET_ATTR_IP2:
			ip2 = decodeAddr(v)
		case typ == nl.IPSET_ATTR_CIDR && len(v) >= 1:
			bits = int(v[0])
		case typ == nl.IPSET_ATTR_CIDR2 && len(v) >= 1:
			bits2 = int(v[0])
		case typ == nl.IPSET_ATTR_PROTO && len(v) >= 1:
			e.Proto = v[0]
		case typ == nl.IPSET_ATTR_PORT && len(v) >= 2:
			e.Port = binary.BigEndian.Uint16(v)
		case typ == nl.IPSET_ATTR_ETHER && len(v) >= len(e.MAC):
			copy(e.MAC[:], v)
		case typ == nl.IPSET_ATTR_IFACE:
			name, _, _ := bytes.Cut(v, []byte{0})
			e.Iface = string(name)
		case typ == nl.IPSET_ATTR_SKBMARK && len(v) >= 8:
			mark = binary.BigEndian.Uint32(v)
		}
	})
	e.Net, e.Net2 = prefix(ip, bits), prefix(ip2, bits2)
	return e, mark
}

func decodeAddr(b []byte) (a netip.Addr) {
	attributes(b, func(_ uint16, v []byte) { a, _ = netip.AddrFromSlice(v) })
	return a
}

func prefix(a netip.Addr, bits int) netip.Prefix {
	if !a.IsValid() {
		return netip.Prefix{}
	}
	if bits < 0 {
		bits = a.BitLen()
	}
	return netip.PrefixFrom(a, bits)
}
