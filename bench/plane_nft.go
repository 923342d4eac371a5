package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"shoal/lb"
	"shoal/lb/host"
	"shoal/lb/nft"
)

var nftPlane = plane{
	name: "nftables", unused: "10.97.100.0",
	open: func(o lb.PlaneOptions) (lb.DataPlane, error) { return nft.New(o) },
	down: func(ctx context.Context, o lb.PlaneOptions) error {
		return errors.Join(host.DropRoute(), nft.Down(ctx, o), host.Down(o.StateDir))
	},
	look: func() (look, error) {
		c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return nftLook{c}, err
	},
}

// nftLook reads the table shoal: the set vips, which is the last to be filled, and the
// map slots, from a frontend and a number to a backend.
type nftLook struct{ *netlink.Conn }

func (l nftLook) vips() (map[netip.Addr]bool, error) {
	found, err := l.Execute(elements("vips", netlink.Dump, nil))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	all := map[netip.Addr]bool{}
	for _, m := range found {
		if e := inside(m.Data[4:], unix.NFTA_SET_ELEM_LIST_ELEMENTS); e != nil {
			each(e, func(_ uint16, e []byte) {
				if addr, ok := netip.AddrFromSlice(inside(e, unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE)); ok {
					all[addr] = true
				}
			})
		}
	}
	return all, err
}

// rotation asks for one slot after the other until there is none. With tasks of
// one weight, as here, each has one. Each part of a key has four bytes or a multiple.
func (l nftLook) rotation(vip netip.Addr) (n int, err error) {
	addr := vip.As4()
	for ; ; n++ {
		key := slices.Concat(addr[:], []byte{unix.IPPROTO_TCP, 0, 0, 0}, make([]byte, 4), binary.NativeEndian.AppendUint32(nil, uint32(n)))
		_, err := l.Execute(elements("slots", 0, key))
		if errors.Is(err, unix.ENOENT) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// elements asks for those of a set, or for the one with a key
// (linux/netfilter/nf_tables.h, NFT_MSG_GETSETELEM).
func elements(set string, flags netlink.HeaderFlags, key []byte) netlink.Message {
	e := netlink.NewAttributeEncoder()
	e.String(unix.NFTA_SET_ELEM_LIST_TABLE, "shoal")
	e.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	if key != nil {
		nest(e, func(e *netlink.AttributeEncoder) { e.Bytes(unix.NFTA_DATA_VALUE, key) },
			unix.NFTA_SET_ELEM_LIST_ELEMENTS, unix.NFTA_LIST_ELEM, unix.NFTA_SET_ELEM_KEY)
	}
	b, _ := e.Encode() // nothing of it can fail
	return netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSETELEM, Flags: netlink.Request | flags},
		Data:   append([]byte{unix.NFPROTO_IPV4, unix.NFNETLINK_V0, 0, 0}, b...),
	}
}

// nest writes attributes that are inside others, of which the outermost is the first.
func nest(e *netlink.AttributeEncoder, write func(*netlink.AttributeEncoder), in ...uint16) {
	if len(in) == 0 {
		write(e)
		return
	}
	e.Nested(in[0], func(e *netlink.AttributeEncoder) error {
		nest(e, write, in[1:]...)
		return nil
	})
}

// inside is the attribute that is inside others, of which the outermost is the
// first; nil: there is none.
func inside(b []byte, path ...uint16) []byte {
	for _, want := range path {
		var found []byte
		each(b, func(kind uint16, data []byte) {
			if kind == want {
				found = data
			}
		})
		b = found
	}
	return b
}

// each visits attributes. What cannot be read is left out.
func each(b []byte, visit func(kind uint16, data []byte)) {
	d, err := netlink.NewAttributeDecoder(b)
	for err == nil && d.Next() {
		visit(d.Type(), d.Bytes())
	}
}

func (l nftLook) Close() { _ = l.Conn.Close() }

// rules change the destination, as those of kube-proxy's iptables mode do; only the
// first packet of a connection meets them. They are about addresses beside the
// pool, of which shoal's own table refuses whatever is no VIP.
func (l nftLook) rules(chain string, n int, addr, _, task netip.Addr) (string, error) {
	var s strings.Builder
	fmt.Fprintf(&s, "*nat\n:%s - [0:0]\n", chain)
	for i := range n - 1 {
		fmt.Fprintf(&s, "-A %s -d %s/32 -p tcp -j DNAT --to-destination %s\n", chain, nth("10.97.128.0", i), nth("10.200.0.0", i))
	}
	fmt.Fprintf(&s, "-A %s -d %s/32 -p tcp -j DNAT --to-destination %s\n-I PREROUTING -d %[2]s/32 -j %[1]s\nCOMMIT\n", chain, addr, task)
	return s.String(), nil
}
