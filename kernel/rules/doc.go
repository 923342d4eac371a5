// Package rules keeps chains of iptables rules.
//
// In: chains with their rules, and the built-in chains that jump to them. Out:
// the same in the kernel, with the jumps in front of everybody else's rules.
// It owns the chains it is given, and the jumps to them; it touches no other
// rule.
//
// All tables are read with one iptables-save and all changes written with one
// iptables-restore --noflush: two programs run, however many rules, and a table
// changes at one moment, so that no packet meets half a chain.
//
// IPv4 only.
package rules
