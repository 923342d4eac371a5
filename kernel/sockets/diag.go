package sockets

import (
	"encoding/binary"

	"shoal/model"
)

// Requests and answers of sock_diag(7), struct inet_diag_req_v2 and struct
// inet_diag_msg (include/uapi/linux/inet_diag.h). Both have the struct
// inet_diag_sockid: ports, addresses, the device and the cookie.
const (
	diagRequestLen = 56
	diagMessageLen = 72

	requestID = 8  // where a request has the sockid
	messageID = 4  // where an answer has it
	idLen     = 48 // its length
	idCookie  = 40 // where in it the cookie is: two words, the low one first

	messageState = 1  // where an answer has the state
	messageUID   = 64 // where an answer has the user ID of the socket
	messageInode = 68 // where an answer has the inode

	diagV6Only = 11 // INET_DIAG_SKV6ONLY, an attribute of listening sockets of IPv6
)

// States of sockets, as of include/net/tcp_states.h. UDP and SCTP use the same numbers.
const (
	diagEstablished = 1 // a UDP socket that is connected, too
	diagSynSent     = 2
	diagFinWait1    = 4
	diagFinWait2    = 5
	diagClose       = 7 // a UDP socket that is connected to nobody
	diagCloseWait   = 8
	diagLastAck     = 9
	diagListen      = 10
	diagClosing     = 11
)

// table is a table of the kernel's: a family and a protocol.
type table struct {
	family uint8 // AF_INET, AF_INET6
	proto  model.Protocol
}

// request asks for the table's sockets in these states, a bit each.
func (t table) request(states States) []byte {
	b := make([]byte, diagRequestLen)
	b[0], b[1] = t.family, uint8(t.proto)
	binary.NativeEndian.PutUint32(b[4:], uint32(states))
	return b
}
