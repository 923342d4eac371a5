// Package sockets finds who listens on this host: sockets that wait for clients,
// and the processes that have them.
//
// In: protocols. Out: what the kernel says of the network namespace of the calling
// thread (sock_diag(7)), and /proc. It writes nothing.
package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"shoal/internal/printable"
	"shoal/model"
)

// Listener is a socket that waits for clients.
type Listener struct {
	Protocol model.Protocol
	Addr     netip.AddrPort // "::" takes IPv4 clients too, as a rule
	Inode    uint32         // of the socket, by which [Processes] knows it
}

// Requests and answers of sock_diag(7), struct inet_diag_req_v2 and struct
// inet_diag_msg (include/uapi/linux/inet_diag.h).
const (
	diagRequestLen = 56
	diagMessageLen = 72

	diagListen = 10 // TCP_LISTEN, SCTP_SS_LISTENING
	diagClose  = 7  // TCP_CLOSE: a UDP socket that is connected to nobody
)

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

func listening(family uint8, proto model.Protocol) (found []Listener, err error) {
	state := uint32(1) << diagListen
	if proto == model.UDP {
		state = 1 << diagClose
	}
	b := make([]byte, diagRequestLen)
	b[0], b[1] = family, uint8(proto)
	binary.NativeEndian.PutUint32(b[4:], state)
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddRawData(b)
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
	return Listener{
		Protocol: proto,
		Addr:     netip.AddrPortFrom(addr, binary.BigEndian.Uint16(m[4:])),
		Inode:    binary.NativeEndian.Uint32(m[68:]),
	}, true
}

// Processes names those that have the sockets, "nginx (pid 123)", in one walk
// through the open files of all. In a container without the host's process
// namespace none can be found.
func Processes(inodes map[uint32]bool) map[uint32]string {
	names := map[uint32]string{}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		to, _ := os.Readlink(fd)
		number, isSocket := strings.CutPrefix(to, "socket:[")
		n, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32)
		inode := uint32(n)
		if !isSocket || err != nil || !inodes[inode] || names[inode] != "" {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		if name, err := os.ReadFile("/proc/" + pid + "/comm"); err == nil {
			names[inode] = fmt.Sprintf("%s (pid %s)", printable.Line(strings.TrimSpace(string(name))), pid)
		}
		if len(names) == len(inodes) {
			break
		}
	}
	return names
}
