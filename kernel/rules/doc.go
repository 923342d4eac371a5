// Package rules keeps chains of iptables rules, by way of go-iptables.
//
// In: chains with their rules, and the built-in chains that jump to them. Out:
// the same in the kernel, with the jumps in front of everybody else's rules.
// It owns the chains it is given, and the jumps to them; it touches no other
// rule.
//
// One program is run to read a table, and one for each edit. So a table is read
// again only when the kernel says that it has changed, which takes no program;
// where it cannot say, always. A chain that differs is made anew beside the old
// one, and then the jumps are swapped, so that no packet passes half of it.
// Nothing is done by the number of a rule in a chain that is shared with others,
// as they may edit it at the same time.
//
// iptables-restore would do all edits of a table in one program, but nothing here
// needs it: each edit by itself leaves the table fit for packets.
//
// IPv4 only.
package rules
