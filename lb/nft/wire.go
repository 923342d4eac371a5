package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel"
)

// Entries are written and listed in messages made here, where the library makes
// tables, chains and rules: it has no counter for an entry that it puts, names no
// generation in a transaction, waits for an answer a message, and takes some
// three times as long for ten thousand services.

// conn is a socket to nf_tables, of the network namespace of the thread that
// opened it. One goroutine at a time may use it.
type conn struct {
	*netlink.Conn
	port uint32
}

// Buffers of the socket: a transaction is one write, and its answers, errors
// among them, must not get lost.
const socketBuffer = 8 << 20

func open() (*conn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open a socket to nf_tables: %w", err)
	}
	port, err := prepare(c)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("open a socket to nf_tables: %w", err)
	}
	return &conn{c, port}, nil
}

// prepare gives a socket its buffers, and tells its port: what is written by it
// comes back by that, as a notification.
func prepare(c *netlink.Conn) (port uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		for _, o := range []struct{ force, plain int }{{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}} {
			// Not allowed to root of a user namespace: then as much as anybody may have.
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o.force, socketBuffer) != nil {
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o.plain, socketBuffer)
			}
		}
		var sa unix.Sockaddr
		if sa, inner = unix.Getsockname(int(fd)); inner == nil {
			port = sa.(*unix.SockaddrNetlink).Pid
		}
	})
	return port, errors.Join(err, inner)
}

// generation is the number of the last transaction of anybody in the namespace.
func (c *conn) generation() (uint32, error) {
	found, err := c.Execute(netlink.Message{Header: header(unix.NFT_MSG_GETGEN, netlink.Request), Data: message(nil)})
	if err != nil || len(found) == 0 {
		return 0, fmt.Errorf("read the generation of nf_tables: %w", err)
	}
	gen := uint32(0)
	each(found[0].Data[4:], func(kind uint16, b []byte) {
		if kind == unix.NFTA_GEN_ID && len(b) == 4 {
			gen = binary.BigEndian.Uint32(b)
		}
	})
	return gen, nil
}

func header(kind int, flags netlink.HeaderFlags) netlink.Header {
	return netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: flags}
}

// message is one of nf_tables for IPv4 (struct nfgenmsg, then attributes).
func message(attrs []byte) []byte {
	return append([]byte{unix.NFPROTO_IPV4, unix.NFNETLINK_V0, 0, 0}, attrs...)
}

// answerTime is the longest that a transaction may take.
const answerTime = 30 * time.Second

// errStale tells that somebody else wrote since the generation was read.
var errStale = errors.New("somebody else changed the rules of this host at the same time")

// write does steps in one transaction, all or nothing. If a generation is given
// the transaction must follow it; then the next is the generation after it.
func (c *conn) write(steps []step, after uint32) error {
	var ms []netlink.Message
	n := 0
	for _, s := range steps {
		kind, flags := unix.NFT_MSG_DELSETELEM, netlink.Request
		if s.put {
			kind, flags = unix.NFT_MSG_NEWSETELEM, netlink.Request|netlink.Create
		}
		n += len(s.values)
		ms = append(ms, netlink.Message{Header: header(kind, flags), Data: s.message()})
	}
	kernel.Wrote("nftables", n)
	return c.transaction(ms, after)
}

// transaction sends messages as one, likewise.
func (c *conn) transaction(inner []netlink.Message, after uint32) error {
	batch := binary.BigEndian.AppendUint16([]byte{unix.NFPROTO_UNSPEC, unix.NFNETLINK_V0}, unix.NFNL_SUBSYS_NFTABLES)
	begin := bytes.Clone(batch)
	if after != 0 {
		begin = attr(begin, unix.NFNL_BATCH_GENID, be32(after))
	}
	ms := append([]netlink.Message{{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: netlink.Request}, Data: begin}}, inner...)
	ms[len(ms)-1].Header.Flags |= netlink.Acknowledge
	ms = append(ms, netlink.Message{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_END, Flags: netlink.Request}, Data: batch})
	c.SetDeadline(time.Now().Add(answerTime))
	defer c.SetDeadline(time.Time{})
	if _, err := c.SendMessages(ms); err != nil {
		return err
	}
	// One answer if it succeeded; else one for each message that did not, and then
	// the socket is not used any more.
	_, err := c.Receive()
	if errors.Is(err, unix.ERESTART) {
		return errStale
	}
	return err
}

// message is the step without its header.
func (s step) message() []byte {
	b := message(nil)
	b = attr(b, unix.NFTA_SET_ELEM_LIST_TABLE, []byte(tableName+"\x00"))
	b = attr(b, unix.NFTA_SET_ELEM_LIST_SET, []byte(s.set.name+"\x00"))
	return nested(b, unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(b []byte) []byte {
		for _, e := range s.values {
			b = s.set.encode(b, e, s.put)
		}
		return b
	})
}

// encode appends an entry. A plain range is two entries: its first address, and
// the one after its last.
func (s *set) encode(b []byte, e entry, put bool) []byte {
	elem := func(key, end []byte, flags uint32) {
		b = nested(b, unix.NFTA_LIST_ELEM, func(b []byte) []byte {
			if flags != 0 {
				b = attr(b, unix.NFTA_SET_ELEM_FLAGS, be32(flags))
			}
			b = nested(b, unix.NFTA_SET_ELEM_KEY, func(b []byte) []byte { return attr(b, unix.NFTA_DATA_VALUE, key) })
			if end != nil {
				b = nested(b, nftables.NFTA_SET_ELEM_KEY_END, func(b []byte) []byte { return attr(b, unix.NFTA_DATA_VALUE, end) })
			}
			if put && e.packets > 0 {
				b = nested(b, unix.NFTA_SET_ELEM_EXPR, func(b []byte) []byte {
					b = attr(b, unix.NFTA_EXPR_NAME, []byte("counter\x00"))
					return nested(b, unix.NFTA_EXPR_DATA, func(b []byte) []byte {
						b = attr(b, unix.NFTA_COUNTER_BYTES, make([]byte, 8))
						return attr(b, unix.NFTA_COUNTER_PACKETS, binary.BigEndian.AppendUint64(nil, e.packets))
					})
				})
			}
			if !put || !s.isMap() {
				return b
			}
			return nested(b, unix.NFTA_SET_ELEM_DATA, func(b []byte) []byte {
				if !s.isVerdict() {
					return attr(b, unix.NFTA_DATA_VALUE, []byte(e.value))
				}
				return nested(b, unix.NFTA_DATA_VERDICT, func(b []byte) []byte {
					code := int32(expr.VerdictGoto)
					b = attr(b, unix.NFTA_VERDICT_CODE, be32(uint32(code)))
					return attr(b, unix.NFTA_VERDICT_CHAIN, []byte(e.value+"\x00"))
				})
			})
		})
	}
	if !s.interval {
		elem([]byte(e.key), nil, 0)
		return b
	}
	half := len(e.key) / 2
	first, last := []byte(e.key[:half]), []byte(e.key[half:])
	if s.concatenated() {
		elem(first, last, 0)
		return b
	}
	elem(first, nil, 0)
	if after := binary.BigEndian.Uint32(last) + 1; after != 0 { // else it ends with the addresses
		elem(be32(after), nil, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	return b
}

// list reads a set.
func (c *conn) list(s *set, visit func(entry)) error {
	b := message(nil)
	b = attr(b, unix.NFTA_SET_ELEM_LIST_TABLE, []byte(tableName+"\x00"))
	b = attr(b, unix.NFTA_SET_ELEM_LIST_SET, []byte(s.name+"\x00"))
	found, err := c.dump(unix.NFT_MSG_GETSETELEM, b)
	if err != nil {
		return fmt.Errorf("list the set %s: %w", s.name, err)
	}
	var bounds []bound
	for _, m := range found {
		s.entries(m, func(e entry, end string, isEnd bool) {
			switch {
			case s.interval && !s.concatenated():
				bounds = append(bounds, bound{binary.BigEndian.Uint32([]byte(e.key)), isEnd})
			case s.interval:
				visit(entry{key: e.key + end})
			default:
				visit(e)
			}
		})
	}
	for _, key := range pairs(bounds) {
		visit(entry{key: key})
	}
	return nil
}

// comments lists the table's rules, by chain: the comment of each. The library
// fails to read some of the rules that it writes.
func (c *conn) comments() (map[string][]string, error) {
	found, err := c.dump(unix.NFT_MSG_GETRULE, attr(message(nil), unix.NFTA_RULE_TABLE, []byte(tableName+"\x00")))
	if err != nil {
		return nil, fmt.Errorf("list the rules of the table %s: %w", tableName, err)
	}
	all := map[string][]string{}
	for _, m := range found {
		if len(m.Data) < 4 {
			continue
		}
		chain := string(bytes.TrimRight(inner(m.Data[4:], unix.NFTA_RULE_CHAIN), "\x00"))
		words, _ := userdata.GetString(inner(m.Data[4:], unix.NFTA_RULE_USERDATA), userdata.TypeComment)
		all[chain] = append(all[chain], words)
	}
	return all, nil
}

// dump asks for a listing. One that a change came into is repeated.
func (c *conn) dump(kind int, data []byte) (found []netlink.Message, err error) {
	for range 10 {
		found, err = c.Execute(netlink.Message{Header: header(kind, netlink.Request|netlink.Dump), Data: data})
		if !errors.Is(err, unix.EINTR) && !interrupted(found) {
			break
		}
	}
	return found, err
}

// interrupted tells whether the kernel says that the listing is of no one state.
func interrupted(ms []netlink.Message) bool {
	for _, m := range ms {
		if m.Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
			return true
		}
	}
	return false
}

// entries are those in a message.
func (s *set) entries(m netlink.Message, visit func(e entry, end string, isEnd bool)) {
	if len(m.Data) < 4 {
		return
	}
	each(m.Data[4:], func(kind uint16, b []byte) {
		if kind == unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			each(b, func(_ uint16, b []byte) { visit(s.decode(b)) })
		}
	})
}

func (s *set) decode(b []byte) (e entry, end string, isEnd bool) {
	each(b, func(kind uint16, b []byte) {
		switch int(kind) {
		case unix.NFTA_SET_ELEM_KEY:
			e.key = string(inner(b, unix.NFTA_DATA_VALUE))
		case nftables.NFTA_SET_ELEM_KEY_END:
			end = string(inner(b, unix.NFTA_DATA_VALUE))
		case unix.NFTA_SET_ELEM_FLAGS:
			isEnd = len(b) == 4 && binary.BigEndian.Uint32(b)&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_DATA:
			if s.isVerdict() {
				e.value = string(bytes.TrimRight(inner(inner(b, unix.NFTA_DATA_VERDICT), unix.NFTA_VERDICT_CHAIN), "\x00"))
			} else {
				e.value = string(inner(b, unix.NFTA_DATA_VALUE))
			}
		case unix.NFTA_SET_ELEM_EXPR:
			if p := inner(inner(b, unix.NFTA_EXPR_DATA), unix.NFTA_COUNTER_PACKETS); len(p) == 8 {
				e.packets = binary.BigEndian.Uint64(p)
			}
		}
	})
	return e, end, isEnd
}

// counted reads the packets that entries of services have counted.
func (c *conn) counted(keys []string) (map[string]uint64, error) {
	packets := map[string]uint64{}
	for part := range slices.Chunk(keys, most) {
		var es []entry
		for _, k := range part {
			es = append(es, entry{key: k})
		}
		m := netlink.Message{Header: header(unix.NFT_MSG_GETSETELEM, netlink.Request|netlink.Acknowledge), Data: step{set: services, values: es}.message()}
		if _, err := c.Send(m); err != nil {
			return nil, fmt.Errorf("read the counters of services: %w", err)
		}
		// An answer for each, then that it is done.
		for done := false; !done; {
			found, err := c.Receive()
			if err != nil {
				return nil, fmt.Errorf("read the counters of services: %w", err)
			}
			for _, m := range found {
				if done = m.Header.Type == netlink.Error; !done {
					services.entries(m, func(e entry, _ string, _ bool) { packets[e.key] = e.packets })
				}
			}
		}
	}
	return packets, nil
}

// Attributes (struct nlattr): length, type, value, padded to four bytes.

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func attr(b []byte, kind int, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, uint16(kind))
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func nested(b []byte, kind int, inside func([]byte) []byte) []byte {
	at := len(b)
	b = binary.NativeEndian.AppendUint16(b, 0)
	b = binary.NativeEndian.AppendUint16(b, uint16(kind|unix.NLA_F_NESTED))
	b = inside(b)
	binary.NativeEndian.PutUint16(b[at:], uint16(len(b)-at))
	return b
}

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

// inner is an attribute's value.
func inner(b []byte, kind int) (value []byte) {
	each(b, func(k uint16, v []byte) {
		if int(k) == kind {
			value = v
		}
	})
	return value
}
