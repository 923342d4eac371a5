// Package ipset reads and writes the kernel's IP sets.
//
// In: sets and their entries. Out: the same in the kernel. Entries go in
// batches, hundreds to a netlink message, and may carry the mark that a rule
// with "-j SET --map-set … --map-mark" gives to a packet (skbinfo), which the
// netlink library can create sets for but cannot write.
//
// It owns no sets; whoever makes one names it.
package ipset
