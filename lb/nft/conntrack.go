package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/lb"
	"shoal/model"
)

// flow is a connection that the kernel remembers.
type flow struct {
	protocol model.Protocol
	dest     netip.AddrPort // where the client sent to
	backend  netip.AddrPort // who answers
	mark     uint32
	state    uint8  // of TCP or SCTP
	tuple    []byte // by which it is deleted: attributes of CTA_TUPLE_ORIG
	id       []byte
}

// States of a TCP connection, and of an SCTP association
// (include/uapi/linux/netfilter/nf_conntrack_{tcp,sctp}.h).
const (
	tcpSynSent      = 1
	tcpEstablished  = 3
	tcpCloseWait    = 5
	sctpCookieWait  = 2
	sctpEstablished = 4
)

// unanswered tells whether it is a connection that the backend has not answered.
func (f *flow) unanswered() bool {
	return f.protocol == model.TCP && f.state == tcpSynSent || f.protocol == model.SCTP && f.state == sctpCookieWait
}

// established tells whether it is a connection that both ends have open.
func (f *flow) established() bool {
	switch f.protocol {
	case model.TCP:
		return f.state == tcpEstablished
	case model.SCTP:
		return f.state == sctpEstablished
	}
	return false
}

// busy tells whether a connection may still carry something: one end of it may
// have closed it, and what that end said before may still be on its way.
func (f *flow) busy() bool {
	return f.established() || f.protocol == model.TCP && f.state > tcpEstablished && f.state <= tcpCloseWait
}

// Attributes that golang.org/x/sys does not have
// (include/uapi/linux/netfilter/nfnetlink_conntrack.h), and the parts of a tuple
// that a listing may be asked by (net/netfilter/nf_internals.h).
const (
	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaProtoInfo  = 4
	ctaMark       = 8
	ctaID         = 12
	ctaStatusMask = 26

	ctaFilter           = 25 // CTA_FILTER, from Linux 5.8 on; ignored before
	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2

	ctaProtoInfoTCP  = 1
	ctaProtoInfoSCTP = 3

	bySource    = 1 << 0
	byProtocol  = 1 << 3
	byDestPort  = 1 << 5
	ctnetlink   = unix.NFNL_SUBSYS_CTNETLINK << 8
	ctGet       = 1 // IPCTNL_MSG_CT_GET
	ctDelete    = 2 // IPCTNL_MSG_CT_DELETE
	ctaTupleIP  = 1
	ctaTupleL4  = 2
	ctaIPSource = 1
	ctaIPDest   = 2
	ctaL4Number = 1
	ctaL4Source = 2
	ctaL4Dest   = 3
)

// query is which flows the kernel is asked for.
type query []byte

// answeredBy are those that one of some addresses answers. For more than one the
// kernel is asked for all that were sent elsewhere than to where the client meant.
func answeredBy[V any](backends map[netip.Addr]V) query {
	if len(backends) != 1 {
		b := attr(nil, ctaStatus, be32(statusDNAT))
		return attr(b, ctaStatusMask, be32(statusDNAT))
	}
	for a := range backends {
		b := nested(nil, ctaTupleReply, func(b []byte) []byte {
			return nested(b, ctaTupleIP, func(b []byte) []byte { return attr(b, ctaIPSource, a.AsSlice()) })
		})
		return filter(b, 0, bySource)
	}
	return nil
}

func onlyBy(backend netip.Addr) query { return answeredBy(map[netip.Addr]bool{backend: true}) }

// of are those of a protocol.
func of(p model.Protocol) query {
	b := nested(nil, ctaTupleOrig, func(b []byte) []byte {
		return nested(b, ctaTupleL4, func(b []byte) []byte { return attr(b, ctaL4Number, []byte{byte(p)}) })
	})
	return filter(b, byProtocol, 0)
}

// sentTo are those to a port.
func sentTo(p model.Protocol, port uint16) query {
	b := nested(nil, ctaTupleOrig, func(b []byte) []byte {
		return nested(b, ctaTupleL4, func(b []byte) []byte {
			return attr(attr(b, ctaL4Number, []byte{byte(p)}), ctaL4Dest, be16(port))
		})
	})
	return filter(b, byProtocol|byDestPort, 0)
}

func filter(b []byte, orig, reply uint32) query {
	return nested(b, ctaFilter, func(b []byte) []byte {
		return attr(attr(b, ctaFilterOrigFlags, u32(orig)), ctaFilterReplyFlags, u32(reply))
	})
}

// flows lists those that the kernel remembers; all for no query. An older kernel
// may list more than it was asked for. However few they are, the kernel looks
// through all that it remembers: 20 ms for a table of 262,144 buckets.
func (c *conn) flows(q query, visit func(*flow)) error {
	found, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: ctnetlink | ctGet, Flags: netlink.Request | netlink.Dump},
		Data:   message(q),
	})
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("list connections: %w", err)
	}
	for _, m := range found {
		if len(m.Data) > 4 {
			visit(readFlow(m.Data[4:]))
		}
	}
	return nil
}

func readFlow(b []byte) *flow {
	f := &flow{}
	each(b, func(kind uint16, b []byte) {
		switch int(kind) {
		case ctaTupleOrig:
			f.tuple = b
			_, f.dest, f.protocol = readTuple(b)
		case ctaTupleReply:
			f.backend, _, _ = readTuple(b)
		case ctaMark:
			if len(b) == 4 {
				f.mark = binary.BigEndian.Uint32(b)
			}
		case ctaID:
			f.id = b
		case ctaProtoInfo:
			each(b, func(kind uint16, b []byte) {
				if kind != ctaProtoInfoTCP && kind != ctaProtoInfoSCTP {
					return
				}
				if s := inner(b, 1); len(s) == 1 { // the state, of both
					f.state = s[0]
				}
			})
		}
	})
	return f
}

func readTuple(b []byte) (from, to netip.AddrPort, p model.Protocol) {
	ip, l4 := inner(b, ctaTupleIP), inner(b, ctaTupleL4)
	end := func(addr, port []byte) netip.AddrPort {
		a, _ := netip.AddrFromSlice(addr)
		n := uint16(0)
		if len(port) == 2 {
			n = binary.BigEndian.Uint16(port)
		}
		return netip.AddrPortFrom(a, n)
	}
	if n := inner(l4, ctaL4Number); len(n) == 1 {
		p = model.Protocol(n[0])
	}
	return end(inner(ip, ctaIPSource), inner(l4, ctaL4Source)), end(inner(ip, ctaIPDest), inner(l4, ctaL4Dest)), p
}

// flows lists them by a socket of its own.
func flows(q query, visit func(*flow)) error {
	c, err := open()
	if err != nil {
		return err
	}
	defer c.Close()
	return c.flows(q, visit)
}

// forget deletes flows. One that is gone by itself is no error.
func (c *conn) forget(fs []*flow) error {
	if len(fs) == 0 {
		return nil
	}
	kernel.Wrote("conntrack", len(fs))
	var errs []error
	for _, f := range fs {
		b := message(nil)
		b = nested(b, ctaTupleOrig, func(b []byte) []byte { return append(b, f.tuple...) })
		b = attr(b, ctaID, f.id)
		_, err := c.Execute(netlink.Message{Header: netlink.Header{Type: ctnetlink | ctDelete, Flags: netlink.Request | netlink.Acknowledge}, Data: b})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("forget connections: %w", err)
	}
	return nil
}

// forgetAll drops what the kernel remembers of connections through VIPs and
// published ports.
func forgetAll(pool netip.Prefix) error {
	c, err := open()
	if err != nil {
		return err
	}
	defer c.Close()
	var gone []*flow
	err = c.flows(nil, func(f *flow) {
		if f.mark&lb.MarkKind == lb.ConnMark || pool.IsValid() && pool.Contains(f.dest.Addr()) {
			gone = append(gone, f)
		}
	})
	return errors.Join(err, c.forget(gone))
}

// through tells whether a flow came by a frontend, to whichever of its backends.
// A named port has none of those of all ports.
func (f *flow) through(k lb.Key, named func(lb.Key) bool) bool {
	switch {
	case k.Protocol != f.protocol && !(formOf(k) == ofTCP && f.protocol == model.SCTP):
		return false
	case k.Published():
		return f.mark&lb.MarkMask == lb.ConnMark && f.dest.Port() == k.Port
	case f.dest.Addr() != k.VIP:
		return false
	case k.Port != 0:
		return f.dest.Port() == k.Port
	}
	return !named(lb.Key{VIP: k.VIP, Protocol: f.protocol, Port: f.dest.Port()})
}

// at tells whether a backend answers.
func (f *flow) at(backend netip.AddrPort) bool {
	return f.backend.Addr() == backend.Addr() && (backend.Port() == 0 || backend.Port() == f.backend.Port())
}
