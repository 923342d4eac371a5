// Package iptables lets what the fabric carries past the rules of a host, by
// iptables and IP sets.
//
// In: who sends what to whom between hosts ([fabric.Between]). Out: the
// iptables chains SHOAL-FABRIC and SHOAL-FABRIC-IN, whose number of rules does not
// grow with hosts, and the sets SHOAL-FABRIC-* that they ask. It owns those in
// the network namespace of the calling thread; [Down] takes them away.
package iptables
