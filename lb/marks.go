package lb

// Marks of the mesh. A connection that came through a published port of a host
// remembers that host's number; a reply to it carries the number to the routing
// rules, which lead it back through that host.
//
// The two have different values, so that a rule of others that restores a
// packet's mark from its connection's (wg-quick(8) with a default route does)
// sends no request where only replies go. The eight bits between are left to
// others.
const (
	ConnMark   uint32 = 0x54000000 // of connections: and the host's number; 0 for this host's own ports
	PacketMark uint32 = 0x55000000 // of replies: likewise
	MarkKind   uint32 = 0xff000000 // what makes a mark one of these
	MarkNumber uint32 = 0x0000ffff // the host's number
	MarkMask          = MarkKind | MarkNumber
)

// RuleProtocol is the protocol that the routing rules by these marks have. It is
// RTPROT_KERNEL: systemd-networkd, when it starts, deletes every rule of another
// one that it did not make.
const RuleProtocol = 2
