package ipset

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"shoal/kernel"
)

// Set is a set as it is made.
type Set struct {
	Name    string // at most 31 characters
	Type    string // "hash:ip", "hash:ip,port", "hash:net", "hash:net,net", "hash:net,iface", "hash:mac"
	Mark    bool   // entries carry marks (skbinfo)
	Mask    uint32 // the bits of a packet's mark that those marks replace; 0: all
	MaxElem uint32 // of a hash: the most entries; 0: the kernel's 65536
}

// Entry is one element. The fields that the set's type does not have are zero.
type Entry struct {
	Net   netip.Prefix // the address, or the (first) network
	Net2  netip.Prefix // the second network
	Proto uint8        // IANA number; with Port
	Port  uint16
	MAC   [6]byte // an Ethernet address
	Iface string  // a device
}

// String names the entry as the program ipset does, without what is zero.
func (e Entry) String() string {
	var parts []string
	for _, p := range []netip.Prefix{e.Net, e.Net2} {
		switch {
		case p.IsSingleIP():
			parts = append(parts, p.Addr().String())
		case p.IsValid():
			parts = append(parts, p.String())
		}
	}
	if e.Proto != 0 {
		parts = append(parts, fmt.Sprintf("%d:%d", e.Proto, e.Port))
	}
	if e.MAC != ([6]byte{}) {
		parts = append(parts, net.HardwareAddr(e.MAC[:]).String())
	}
	if e.Iface != "" {
		parts = append(parts, e.Iface)
	}
	return strings.Join(parts, ",")
}

// Addr is the entry of one address.
func Addr(a netip.Addr) Entry { return Entry{Net: netip.PrefixFrom(a, a.BitLen())} }

// AddrPort is the entry of one port of an address.
func AddrPort(a netip.Addr, proto uint8, port uint16) Entry {
	e := Addr(a)
	e.Proto, e.Port = proto, port
	return e
}

// Pair is the entry of two addresses.
func Pair(a, b netip.Addr) Entry {
	e := Addr(a)
	e.Net2 = netip.PrefixFrom(b, b.BitLen())
	return e
}

// NetIface is the entry of a network by way of a device.
func NetIface(n netip.Prefix, dev string) Entry { return Entry{Net: n.Masked(), Iface: dev} }

// Ether is the entry of one Ethernet address.
func Ether(mac [6]byte) Entry { return Entry{MAC: mac} }

// ErrNotExist is the error of a set that is not there.
var ErrNotExist = errors.New("no such set")

// revisions are the lowest revisions of the types with what is used here
// (net/netfilter/ipset/ip_set_*.c). Kernels know a range of them.
var revisions = map[string]struct{ plain, mark uint8 }{
	"hash:ip":        {1, 4},
	"hash:ip,port":   {1, 5},
	"hash:net":       {2, 6},
	"hash:net,net":   {0, 2},
	"hash:net,iface": {2, 6},
	"hash:mac":       {0, 0}, // both since Linux 3.18
}

// Create makes a set that does not exist.
func Create(s Set) error {
	kernel.Wrote("ipset", 1)
	return Try(s)
}

// Try is as [Create], in a network namespace that is thrown away: it is not
// counted as a write.
func Try(s Set) error {
	r := revisions[s.Type].plain
	if s.Mark {
		r = revisions[s.Type].mark
	}
	o := netlink.IpsetCreateOptions{Revision: r, Skbinfo: s.Mark, MaxElements: s.MaxElem}
	if err := netlink.IpsetCreate(s.Name, s.Type, o); err != nil {
		return fmt.Errorf("create set %s (%s): %w", s.Name, s.Type, err)
	}
	return nil
}

// Destroy removes a set; one that is not there is not an error. It fails
// while a rule refers to the set.
func Destroy(name string) error {
	err := netlink.IpsetDestroy(name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	kernel.Wrote("ipset", 1)
	if err != nil {
		return fmt.Errorf("destroy set %s: %w", name, err)
	}
	return nil
}

// Names are the names of all sets there are. Their entries are not read.
func Names() ([]string, error) {
	var names []string
	err := dump("", listNames, func(msg []byte) {
		if name, _ := decodeHeader(msg); name != "" {
			names = append(names, name)
		}
	})
	return names, err
}

// Sizes is how many entries each set has that there is, by name; -1 where the
// kernel does not tell. They are counted, which is many times faster than to read
// them.
func Sizes() (map[string]int, error) {
	sizes := map[string]int{}
	err := dump("", listHeaders, func(msg []byte) {
		if name, size := decodeHeader(msg); name != "" {
			sizes[name] = size
		}
	})
	return sizes, err
}

// List reads a set: every entry with its mark, zero where it has none.
// It is [ErrNotExist] if there is no such set.
func List(name string) (map[Entry]uint32, error) {
	found := map[Entry]uint32{}
	err := dump(name, listAll, func(msg []byte) {
		decode(msg, func(_ string, e Entry, mark uint32, entry bool) {
			if entry {
				found[e] = mark
			}
		})
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// What a dump has of each set: flags of the command (include/uapi/linux/netfilter/ipset/ip_set.h,
// IPSET_FLAG_LIST_SETNAME and IPSET_FLAG_LIST_HEADER).
const (
	listAll     = 0
	listNames   = 1 << 1
	listHeaders = 1 << 2
)

// dump reads one set, or all. Visit is called with the attributes of each message.
func dump(name string, flags byte, visit func(msg []byte)) error {
	req := request(nl.IPSET_CMD_LIST)
	var b []byte
	if name != "" {
		b = attrString(b, nl.IPSET_ATTR_SETNAME, name)
	}
	if flags != listAll {
		b = attr(b, nl.IPSET_ATTR_FLAGS|netOrder, 0, 0, 0, flags)
	}
	req.AddRawData(b)
	err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(msg []byte) bool {
		if len(msg) > nl.SizeofNfgenmsg {
			visit(msg[nl.SizeofNfgenmsg:])
		}
		return true
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("set %s: %w", name, ErrNotExist)
	case err != nil:
		return fmt.Errorf("list set %s: %w", name, known(err))
	}
	return nil
}

// perMessage keeps a batch below the 64 KiB of a netlink attribute.
const perMessage = 500

// Put adds entries with their marks; one that is there gets the new mark.
// Sets that carry no marks ignore them. On error the entries that the kernel
// refused are returned with its reasons, the others are in.
func Put(s Set, entries map[Entry]uint32) map[Entry]error {
	return change(nl.IPSET_CMD_ADD, s, entries)
}

// Remove takes entries out; one that is not there is not an error.
func Remove(s Set, entries map[Entry]uint32) map[Entry]error {
	return change(nl.IPSET_CMD_DEL, s, entries)
}

func change(cmd int, s Set, entries map[Entry]uint32) map[Entry]error {
	var failed map[Entry]error
	kernel.Wrote("ipset", len(entries))
	batch := make([]Entry, 0, min(len(entries), perMessage))
	flush := func() {
		if len(batch) == 0 || send(cmd, s, batch, entries) == nil {
			batch = batch[:0]
			return
		}
		// The kernel stops at the first entry it refuses: find which.
		for i := range batch {
			if err := send(cmd, s, batch[i:i+1], entries); err != nil {
				if failed == nil {
					failed = map[Entry]error{}
				}
				failed[batch[i]] = err
			}
		}
		batch = batch[:0]
	}
	for e := range entries {
		if batch = append(batch, e); len(batch) == perMessage {
			flush()
		}
	}
	flush()
	return failed
}

func send(cmd int, s Set, batch []Entry, marks map[Entry]uint32) error {
	req := request(cmd)
	req.AddRawData(encode(s, batch, marks, cmd == nl.IPSET_CMD_ADD))
	if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil {
		return fmt.Errorf("change set %s: %w", s.Name, known(err))
	}
	return nil
}

func request(cmd int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(cmd|unix.NFNL_SUBSYS_IPSET<<8, nl.GetIpsetFlags(cmd))
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_PROTOCOL, nl.Uint8Attr(nl.IPSET_PROTOCOL)))
	return req
}

// known turns ipset's own error numbers into words.
func known(err error) error {
	var no syscall.Errno
	if errors.As(err, &no) && int(no) >= nl.IPSET_ERR_PRIVATE {
		return nl.IPSetError(no)
	}
	return err
}
