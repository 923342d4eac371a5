package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"shoal/lb"
	"shoal/lb/nft"
)

var nftPlane = plane{
	name: "nftables", unused: "10.97.100.0",
	open: func(o lb.PlaneOptions) (lb.DataPlane, error) { return nft.New(o) },
	down: nft.Down,
	look: func() (look, error) {
		c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return nftLook{c}, err
	},
}

// nftLook reads the table shoal: the set vips, which is the last to be filled, and the
// map slots, from a frontend and a number to a backend.
type nftLook struct{ *netlink.Conn }

const nftTable = "shoal"

func (l nftLook) vips() (map[netip.Addr]bool, error) {
	t := &nftables.Table{Name: nftTable, Family: nftables.TableFamilyIPv4}
	held, err := new(nftables.Conn).GetSetElements(&nftables.Set{Table: t, Name: "vips", KeyType: nftables.TypeIPAddr})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	all := map[netip.Addr]bool{}
	for _, e := range held {
		if addr, ok := netip.AddrFromSlice(e.Key); ok {
			all[addr] = true
		}
	}
	return all, err
}

// rotation asks for one slot after the other until there is none. With tasks of
// one weight, as here, each has one.
func (l nftLook) rotation(vip netip.Addr) (n int, err error) {
	for ; ; n++ {
		_, err := l.Execute(slot(vip, n))
		if errors.Is(err, unix.ENOENT) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// slot asks for the backend of a slot of a VIP's TCP ports
// (linux/netfilter/nf_tables.h, NFT_MSG_GETSETELEM). Each part of a key has four
// bytes or a multiple.
func slot(vip netip.Addr, n int) netlink.Message {
	addr := vip.As4()
	key := slices.Concat(addr[:], []byte{unix.IPPROTO_TCP, 0, 0, 0}, make([]byte, 4), binary.NativeEndian.AppendUint32(nil, uint32(n)))
	e := netlink.NewAttributeEncoder()
	e.String(unix.NFTA_SET_ELEM_LIST_TABLE, nftTable)
	e.String(unix.NFTA_SET_ELEM_LIST_SET, "slots")
	e.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(e *netlink.AttributeEncoder) error {
		e.Nested(unix.NFTA_LIST_ELEM, func(e *netlink.AttributeEncoder) error {
			e.Nested(unix.NFTA_SET_ELEM_KEY, func(e *netlink.AttributeEncoder) error {
				e.Bytes(unix.NFTA_DATA_VALUE, key)
				return nil
			})
			return nil
		})
		return nil
	})
	b, _ := e.Encode() // no part of it can fail
	return netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSETELEM, Flags: netlink.Request},
		Data:   append([]byte{unix.NFPROTO_IPV4, unix.NFNETLINK_V0, 0, 0}, b...),
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
