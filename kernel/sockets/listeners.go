package sockets

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"shoal/internal/printable"
	"shoal/kernel"
	"shoal/model"
)

// Listener is a socket that waits for clients.
//
// Its UID is the number that the user has in the user namespace of the calling process
// (from_kuid_munged in inet_diag_msg_attrs_fill, net/ipv4/inet_diag.c). Whoever is root in
// a user namespace of his own is not 0 here, unless he is root here too. A user without a
// number here has that of fs.overflowuid, 65534.
type Listener struct {
	Protocol model.Protocol
	Addr     netip.AddrPort // "::" takes IPv4 clients too, as a rule
	Inode    uint32         // of the socket, by which [Processes] knows it
	UID      uint32         // of the user who made the socket
	V6Only   bool           // it takes no IPv4 clients, though its address is "::"
}

// Listeners are the sockets that wait for clients of these protocols, in the
// network namespace of the calling thread. The kernel is asked for no others,
// however many connections there are.
func Listeners(protos map[model.Protocol]bool) (found []Listener, err error) {
	for proto := range protos {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			ls, err := listening(family, proto)
			switch {
			case proto == model.SCTP && errors.Is(err, unix.ENOENT):
				// No SCTP in this kernel, no listeners.
			case err != nil:
				return nil, fmt.Errorf("list the host's %s sockets: %w; the kernel's module %s_diag is needed", proto, err, proto)
			}
			found = append(found, ls...)
		}
	}
	return found, nil
}

// ListenersOf are the sockets that wait for clients of these protocols, in the
// network namespace of a process.
func ListenersOf(pid int, protos map[model.Protocol]bool) (found []Listener, err error) {
	err = kernel.InNetwork(pid, func() (err error) {
		found, err = Listeners(protos)
		return err
	})
	return found, err
}

func listening(family uint8, proto model.Protocol) (found []Listener, err error) {
	state := States(1) << diagListen
	if proto == model.UDP {
		state = 1 << diagClose
	}
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddRawData(table{family, proto}.request(state))
	err = req.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(m []byte) bool {
		if l, ok := parseListener(m, proto); ok {
			found = append(found, l)
		}
		return true
	})
	return found, err
}

// parseListener reads one answer. The address "::" takes IPv4 clients too, as
// a rule, and a listener there is taken for one on every address.
func parseListener(m []byte, proto model.Protocol) (l Listener, ok bool) {
	if len(m) < diagMessageLen {
		return l, false
	}
	var addr netip.Addr
	switch m[0] {
	case unix.AF_INET:
		addr = netip.AddrFrom4([4]byte(m[8:12]))
	case unix.AF_INET6:
		addr = netip.AddrFrom16([16]byte(m[8:24])).Unmap()
	default:
		return l, false
	}
	attrs, _ := nl.ParseRouteAttr(m[diagMessageLen:])
	only := false
	for _, a := range attrs {
		only = only || a.Attr.Type == diagV6Only && len(a.Value) > 0 && a.Value[0] != 0
	}
	return Listener{
		V6Only:   only,
		Protocol: proto,
		Addr:     netip.AddrPortFrom(addr, binary.BigEndian.Uint16(m[4:])),
		Inode:    binary.NativeEndian.Uint32(m[messageInode:]),
		UID:      binary.NativeEndian.Uint32(m[messageUID:]),
	}, true
}

// Processes names those that have the sockets, "nginx (pid 123)", in one walk
// through the open files of all processes, which ends when all sockets are found. Of
// several processes that have the same socket, it names the first one. In a container
// without the host's process namespace none can be found.
func Processes(inodes map[uint32]bool) map[uint32]string {
	names := map[uint32]string{}
	left := maps.Clone(inodes)
	pids, _ := processes()
	for _, pid := range pids {
		if len(left) == 0 {
			break
		}
		openSockets(context.Background(), pid, left, func(_ int, inode uint32) (more bool) {
			name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			if err != nil {
				return false // the process has ended
			}
			names[inode] = fmt.Sprintf("%s (pid %d)", printable.Line(strings.TrimSpace(string(name))), pid)
			delete(left, inode)
			return len(left) > 0
		})
	}
	return names
}
