// Package rules keeps chains of iptables rules, by way of go-iptables and
// iptables-restore.
//
// In: chains with their rules, and the built-in chains that jump to them. Out:
// the same in the kernel, with the jumps in front of everybody else's rules.
// It owns the chains it is given, and the jumps to them; it touches no other
// rule.
//
// A table is read by one program, and again only when the kernel says that it
// has changed, which takes no program; where it cannot say, always. All edits of
// a table are one transaction of iptables-restore, which go-iptables does not
// have: so no packet passes half a chain, an agent that is killed leaves nothing
// half done, and a flushed host is mended by four programs, not by one a rule.
// Nothing is done by the number of a rule in a chain that is shared with others,
// as they may edit it at the same time.
//
// IPv4 only.
package rules
