package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"shoal/model"
)

// Entry is a connection that the kernel tracks.
type Entry struct {
	ID       uint32 // the kernel's; no two connections that are tracked at a time have the same
	Protocol model.Protocol
	Client   netip.AddrPort // who opened it
	Dest     netip.AddrPort // where the client sent to
	Server   netip.AddrPort // who answers: another than Dest if the destination was translated
	Open     bool           // TCP and SCTP: established; other protocols: it was answered
}

// Attributes that golang.org/x/sys does not have.
const (
	tupleOrig  = 1
	tupleReply = 2
	status     = 3
	protoInfo  = 4
	id         = 12

	tupleIP, tupleProto           = 1, 2
	ipSource, ipDest              = 1, 2
	protoNumber, portFrom, portTo = 1, 2, 3

	protoInfoTCP, protoInfoSCTP = 1, 3
	protoState                  = 1

	get = 1 // IPCTNL_MSG_CT_GET

	seenReply       = 1 << 1 // IPS_SEEN_REPLY
	tcpEstablished  = 3
	sctpEstablished = 4
)

// headerLen is the length of struct nfgenmsg, in front of the attributes.
const headerLen = 4

// List calls visit for each connection, until that returns false. The table may
// change meanwhile: a connection may be missed, or be visited twice. The kernel
// looks through the whole table: 20 ms for 262,144 buckets.
func List(visit func(Entry) (more bool)) error {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|get, unix.NLM_F_DUMP)
	req.AddRawData([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0})
	err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(m []byte) bool {
		e, ok := parse(m)
		return !ok || visit(e)
	})
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("list the connections that the kernel tracks: %w", err)
	}
	return nil
}

// parse reads one message; false: it is none of a connection.
func parse(m []byte) (e Entry, ok bool) {
	if len(m) < headerLen {
		return e, false
	}
	var answered bool
	var state uint8
	each(m[headerLen:], func(kind uint16, b []byte) {
		switch kind {
		case tupleOrig:
			e.Client, e.Dest, e.Protocol = parseTuple(b)
		case tupleReply:
			e.Server, _, _ = parseTuple(b)
		case status:
			answered = len(b) == 4 && binary.BigEndian.Uint32(b)&seenReply != 0
		case id:
			if len(b) == 4 {
				e.ID = binary.BigEndian.Uint32(b)
			}
		case protoInfo:
			state = parseState(b)
		}
	})
	switch e.Protocol {
	case model.TCP:
		e.Open = state == tcpEstablished
	case model.SCTP:
		e.Open = state == sctpEstablished
	default:
		e.Open = answered
	}
	return e, e.Client.IsValid() && e.Dest.IsValid() && e.Server.IsValid()
}

func parseTuple(b []byte) (from, to netip.AddrPort, p model.Protocol) {
	var src, dst netip.Addr
	var sport, dport uint16
	each(b, func(kind uint16, b []byte) {
		switch kind {
		case tupleIP:
			each(b, func(kind uint16, b []byte) {
				switch a, _ := netip.AddrFromSlice(b); kind {
				case ipSource:
					src = a
				case ipDest:
					dst = a
				}
			})
		case tupleProto:
			each(b, func(kind uint16, b []byte) {
				switch {
				case kind == protoNumber && len(b) == 1:
					p = model.Protocol(b[0])
				case kind == portFrom && len(b) == 2:
					sport = binary.BigEndian.Uint16(b)
				case kind == portTo && len(b) == 2:
					dport = binary.BigEndian.Uint16(b)
				}
			})
		}
	})
	return netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport), p
}

func parseState(b []byte) (state uint8) {
	each(b, func(kind uint16, b []byte) {
		if kind != protoInfoTCP && kind != protoInfoSCTP {
			return
		}
		each(b, func(kind uint16, b []byte) {
			if kind == protoState && len(b) == 1 {
				state = b[0]
			}
		})
	})
	return state
}

// each calls visit for each attribute (struct nlattr). It stops at one that is cut
// off.
func each(b []byte, visit func(kind uint16, value []byte)) {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return
		}
		visit(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[4:n])
		b = b[min((n+3)&^3, len(b)):]
	}
}
