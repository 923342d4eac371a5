package nft

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// Registers of 32 bits. What is looked up together lies in registers that
// follow each other.
const (
	r0 uint32 = unix.NFT_REG32_00 + iota
	r1
	r2
	r3
	r4
	r5
	r6
	r7
	r8
)

// does is a part of a rule: what is loaded, matched or done.
type does []expr.Any

// rule is what a packet meets; words say what it is for.
type rule struct {
	words string
	exprs does
}

func on(words string, parts ...does) rule {
	r := rule{words: words}
	for _, p := range parts {
		r.exprs = append(r.exprs, p...)
	}
	return r
}

// comment is the rule's words and the hash of what it does. By the hash a rule
// is known again.
func (r rule) comment() string {
	h := fnv.New32a()
	for _, e := range r.exprs {
		b, err := marshal(e)
		if err != nil {
			panic(fmt.Sprintf("rule %q: %v", r.words, err)) // of a kind that the library does not know
		}
		h.Write(b)
	}
	return fmt.Sprintf("%s #%08x", r.words, h.Sum32())
}

func (r rule) in(chain string) *nftables.Rule {
	return &nftables.Rule{
		Table: table, Chain: &nftables.Chain{Name: chain, Table: table}, Exprs: r.exprs,
		UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment()),
	}
}

// chain is a chain of the table, and where it is hooked in.
type chain struct {
	name     string
	hook     *nftables.ChainHook // nil: others jump here
	kind     nftables.ChainType
	priority int32
	rules    []rule
}

func (c *chain) comments() (all []string) {
	for _, r := range c.rules {
		all = append(all, r.comment())
	}
	return all
}

// Loads.

func payload(base expr.PayloadBase, offset, length, reg uint32) does {
	return does{&expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: length}}
}

func ethSource(reg uint32) does { return payload(expr.PayloadBaseLLHeader, 6, 6, reg) }
func source(reg uint32) does    { return payload(expr.PayloadBaseNetworkHeader, 12, 4, reg) }
func dest(reg uint32) does      { return payload(expr.PayloadBaseNetworkHeader, 16, 4, reg) }
func fromPort(reg uint32) does  { return payload(expr.PayloadBaseTransportHeader, 0, 2, reg) }
func toPort(reg uint32) does    { return payload(expr.PayloadBaseTransportHeader, 2, 2, reg) }
func tcpFlags(reg uint32) does  { return payload(expr.PayloadBaseTransportHeader, 13, 1, reg) }
func icmpType(reg uint32) does  { return payload(expr.PayloadBaseTransportHeader, 0, 1, reg) }
func icmpCode(reg uint32) does  { return payload(expr.PayloadBaseTransportHeader, 1, 1, reg) }

func meta(key expr.MetaKey, reg uint32) does { return does{&expr.Meta{Key: key, Register: reg}} }

func protocol(reg uint32) does   { return meta(expr.MetaKeyL4PROTO, reg) }
func inDevice(reg uint32) does   { return meta(expr.MetaKeyIIFNAME, reg) }
func outDevice(reg uint32) does  { return meta(expr.MetaKeyOIFNAME, reg) }
func packetMark(reg uint32) does { return meta(expr.MetaKeyMARK, reg) }

func ct(key expr.CtKey, reg uint32) does { return does{&expr.Ct{Key: key, Register: reg}} }

func connMark(reg uint32) does     { return ct(expr.CtKeyMARK, reg) }
func originalDest(reg uint32) does { return ct(expr.CtKeyDST, reg) } // of the first packet, before NAT

// addressType is of a destination, or a source: RTN_LOCAL is the host's own.
func addressType(source bool, reg uint32) does {
	return does{&expr.Fib{Register: reg, ResultADDRTYPE: true, FlagSADDR: source, FlagDADDR: !source}}
}

// astray matches a packet whose sender is not reached by the device that it came in by.
var astray = does{&expr.Fib{Register: r0, ResultOIF: true, FlagSADDR: true, FlagIIF: true}, &expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: u32(0)}}

// value loads a constant, which must be as long as what it stands for: nft(8)
// ends with a failed assertion else. The rest of the register is zero.
func value(reg uint32, b []byte) does { return does{&expr.Immediate{Register: reg, Data: b}} }

// frontendOf loads address, protocol and port of what a packet is sent to.
func frontendOf(reg uint32) does {
	return append(append(dest(reg), protocol(reg+1)...), toPort(reg+2)...)
}

// senderOf loads them of where a packet comes from.
func senderOf(reg uint32) does {
	return append(append(source(reg), protocol(reg+1)...), fromPort(reg+2)...)
}

// byDevice loads the device that a packet comes in by, and its source.
func byDevice(reg uint32) does { return append(inDevice(reg), source(reg+4)...) }

// Values.

func u32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
func be16(v uint16) []byte {
	return binary.BigEndian.AppendUint16(nil, v)
}

// name16 is the name of a device as a key.
func name16(s string) []byte {
	b := make([]byte, 16)
	copy(b, s)
	return b
}

// Matches.

func compare(op expr.CmpOp, load func(uint32) does, v []byte) does {
	return append(load(r0), &expr.Cmp{Op: op, Register: r0, Data: v})
}

func equal(load func(uint32) does, v []byte) does { return compare(expr.CmpOpEq, load, v) }
func not(load func(uint32) does, v []byte) does   { return compare(expr.CmpOpNeq, load, v) }

func masked(op expr.CmpOp, load func(uint32) does, mask, v []byte) does {
	return append(load(r0),
		&expr.Bitwise{SourceRegister: r0, DestRegister: r0, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))},
		&expr.Cmp{Op: op, Register: r0, Data: v})
}

// within matches an address in a network.
func within(load func(uint32) does, p netip.Prefix) does {
	if p.Bits() == 32 {
		return equal(load, p.Addr().AsSlice())
	}
	return masked(expr.CmpOpEq, load, maskOf(p), p.Masked().Addr().AsSlice())
}

func outsideOf(load func(uint32) does, p netip.Prefix) does {
	return masked(expr.CmpOpNeq, load, maskOf(p), p.Masked().Addr().AsSlice())
}

func maskOf(p netip.Prefix) []byte {
	return binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
}

// marked matches a mark under a mask.
func marked(load func(uint32) does, value, mask uint32) does {
	return masked(expr.CmpOpEq, load, u32(mask), u32(value))
}

// has matches where any of the bits is set.
func has(load func(uint32) does, bits uint32) does {
	return masked(expr.CmpOpNeq, load, u32(bits), u32(0))
}

// lacks matches where none of the bits is set.
func lacks(load func(uint32) does, bits uint32) does { return marked(load, 0, bits) }

func ctState(reg uint32) does  { return ct(expr.CtKeySTATE, reg) }
func ctStatus(reg uint32) does { return ct(expr.CtKeySTATUS, reg) }

// Flags of TCP (RFC 9293 section 3.1).
const (
	tcpSYN = 0x02
	tcpACK = 0x10
)

// Bits of a connection's status (include/uapi/linux/netfilter/nf_conntrack_common.h).
const statusDNAT = 1 << 5 // IPS_DST_NAT: its destination was changed

// Directions of a packet in its connection (enum ip_conntrack_dir).
var (
	isRequest = equal(func(r uint32) does { return ct(expr.CtKeyDIRECTION, r) }, []byte{0})
	isReply   = equal(func(r uint32) does { return ct(expr.CtKeyDIRECTION, r) }, []byte{1})
)

// in matches what is loaded if the set has it.
func in(load func(uint32) does, s *set) does {
	return append(load(r0), &expr.Lookup{SourceRegister: r0, SetName: s.name})
}

func notIn(load func(uint32) does, s *set) does {
	return append(load(r0), &expr.Lookup{SourceRegister: r0, SetName: s.name, Invert: true})
}

// lookUp reads what a map has for what lies from a register on; the rule ends
// where it has nothing. The verdict of a map of verdicts is taken.
func lookUp(from uint32, s *set, to uint32) does {
	if s.isVerdict() {
		to = unix.NFT_REG_VERDICT
	}
	return does{&expr.Lookup{SourceRegister: from, SetName: s.name, DestRegister: to, IsDestRegSet: true}}
}

// visible leaves a register as it is. What was read from a map is not looked up
// again by anything that nft(8) writes itself, and it has no words for it: asked
// for the rules, it ends with a failed assertion (1.0.6). So the value goes
// through the packet's mark, which has its own again in the same rule.
func visible(reg uint32) does {
	set := func(from uint32) expr.Any {
		return &expr.Meta{Key: expr.MetaKeyMARK, Register: from, SourceRegister: true}
	}
	get := func(to uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyMARK, Register: to} }
	return does{get(r7), set(reg), get(reg), set(r7)}
}

// Actions.

func verdictOf(kind expr.VerdictKind) does { return does{&expr.Verdict{Kind: kind}} }

var (
	accept = verdictOf(expr.VerdictAccept)
	drop   = verdictOf(expr.VerdictDrop)
)

func jump(chain string) does { return does{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}} }
func goTo(chain string) does { return does{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}} }

// withBits clears the bits of a mask and sets those of a value.
func withBits(reg, value, mask uint32) does {
	return does{&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: u32(^mask), Xor: u32(value)}}
}

func setPacketMark(value, mask uint32) does {
	return append(append(packetMark(r0), withBits(r0, value, mask)...), &expr.Meta{Key: expr.MetaKeyMARK, Register: r0, SourceRegister: true})
}

func setConnMark(value, mask uint32) does {
	return append(append(connMark(r8), withBits(r8, value, mask)...), &expr.Ct{Key: expr.CtKeyMARK, Register: r8, SourceRegister: true})
}

// dnat sends a connection to what lies in registers; without a port it keeps
// its own.
func dnat(address, port uint32) does {
	return does{&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: address, RegProtoMin: port}}
}

// keepDest and keepSource have a connection keep its addresses, whatever rules
// of others say later.
var (
	keepDest   = append(dest(r0), dnat(r0, 0)...)
	keepSource = append(source(r0), &expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: r0})
	masquerade = does{&expr.Masq{}}
)

func reject(kind uint32, code uint8) does { return does{&expr.Reject{Type: kind, Code: code}} }
