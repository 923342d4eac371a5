//go:build e2e

package socket

import (
	"encoding/binary"
	"errors"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	sockDestroy = 21 // SOCK_DESTROY (include/uapi/linux/sock_diag.h)
	idOffset    = 4  // of struct inet_diag_sockid in an answer (include/uapi/linux/inet_diag.h)
	idLen       = 48
	cookieAt    = 40 // in it
)

// canDestroy tells whether the kernel closes sockets of others
// (CONFIG_INET_DIAG_DESTROY): it is asked to close one that does not exist.
func canDestroy() bool {
	b := make([]byte, 56)
	b[0], b[1] = unix.AF_INET, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], 0xffffffff)
	end := nl.NewNetlinkRequest(sockDestroy, unix.NLM_F_ACK)
	end.AddRawData(b)
	_, err := end.Execute(unix.NETLINK_INET_DIAG, 0)
	return !errors.Is(err, unix.EOPNOTSUPP)
}

// destroy closes the sockets with these cookies in the network namespace of the
// calling thread.
func destroy(cookies map[uint64]bool) (n int, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			request := make([]byte, 56)
			request[0], request[1] = family, proto
			binary.NativeEndian.PutUint32(request[4:], 0xffffffff)
			dump := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
			dump.AddRawData(request)
			var found [][]byte
			if err := dump.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(m []byte) bool {
				id := m[idOffset : idOffset+idLen]
				if cookies[binary.NativeEndian.Uint64(id[cookieAt:])] {
					found = append(found, append([]byte(nil), id...))
				}
				return true
			}); err != nil {
				return n, err
			}
			for _, id := range found {
				b := append([]byte(nil), request...)
				copy(b[8:], id)
				end := nl.NewNetlinkRequest(sockDestroy, unix.NLM_F_ACK)
				end.AddRawData(b)
				if _, err := end.Execute(unix.NETLINK_INET_DIAG, 0); err != nil && !errors.Is(err, unix.ENOENT) {
					return n, err
				}
				n++
			}
		}
	}
	return n, nil
}
