package firewall

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Packet is the first one of a connection, as far as it is known.
type Packet struct {
	In, Out  string // devices; "": none, or not known
	InIndex  uint32 // their numbers; 0: not known
	OutIndex uint32
	Src, Dst netip.Addr
	Protocol uint8
	Port     uint16 // destination; 0: not known
	DNAT     bool   // its destination was changed
	Local    bool   // it is for this host
}

// value is what a register holds, with a bit for each byte that is known.
type value struct {
	b     []byte
	known bool
}

func known(b []byte) value { return value{b, true} }

func native(v uint32) value { return known(binary.NativeEndian.AppendUint32(nil, v)) }

// meta is what is known of a packet beside its bytes.
func (p *Packet) meta(key expr.MetaKey) value {
	device := func(name string) value {
		if name == "" {
			return value{}
		}
		b := make([]byte, 16)
		copy(b, name)
		return known(b)
	}
	number := func(index uint32) value {
		if index == 0 {
			return value{}
		}
		return native(index)
	}
	switch key {
	case expr.MetaKeyIIF: // what nft(8) makes of iif, which a rule has more often than iifname
		return number(p.InIndex)
	case expr.MetaKeyOIF:
		return number(p.OutIndex)
	case expr.MetaKeyIIFNAME:
		return device(p.In)
	case expr.MetaKeyOIFNAME:
		return device(p.Out)
	case expr.MetaKeyL4PROTO:
		return known([]byte{p.Protocol})
	case expr.MetaKeyNFPROTO:
		return known([]byte{unix.NFPROTO_IPV4})
	case expr.MetaKeyPROTOCOL:
		return known([]byte{0x08, 0x00})
	}
	return value{}
}

// payload is a part of a packet's headers.
func (p *Packet) payload(base expr.PayloadBase, offset, length uint32) value {
	switch {
	case base == expr.PayloadBaseNetworkHeader && offset == 9 && length == 1:
		return known([]byte{p.Protocol})
	case base == expr.PayloadBaseNetworkHeader && offset >= 12 && offset+length <= 20 && p.Src.Is4() && p.Dst.Is4():
		src, dst := p.Src.As4(), p.Dst.As4()
		addrs := append(src[:], dst[:]...)
		return known(addrs[offset-12 : offset-12+length])
	case base == expr.PayloadBaseTransportHeader && offset == 2 && length == 2 && p.Port != 0:
		return known(binary.BigEndian.AppendUint16(nil, p.Port))
	}
	return value{}
}

// statusDNAT is IPS_DST_NAT.
const statusDNAT = 1 << 5

// ct is what is known of the packet's connection: it is new.
func (p *Packet) ct(key expr.CtKey) value {
	switch key {
	case expr.CtKeySTATE:
		return native(expr.CtStateBitNEW)
	case expr.CtKeyDIRECTION:
		return known([]byte{0})
	case expr.CtKeySTATUS:
		if p.DNAT {
			return native(statusDNAT)
		}
		return native(0)
	}
	return value{}
}

// fib is what the routes say of the packet.
func (p *Packet) fib(e *expr.Fib) value {
	if e.ResultADDRTYPE && e.FlagDADDR && !e.FlagIIF && !e.FlagOIF {
		if p.Local {
			return native(unix.RTN_LOCAL)
		}
		return native(unix.RTN_UNICAST)
	}
	return value{}
}
