// Package traffic tells who talks to which service, and how much.
//
// In: the connections that the kernel tracks ([shoal/kernel/conntrack]), a
// Snapshot, and the data plane's counters. Out: on each host a [Count], which
// only grows; for whoever shows traffic, the rates between two of them ([Meter]).
//
// A host counts what its own containers, its own processes and clients of its
// published ports open. So each connection is counted on one host only, though
// the task's host tracks it as well.
//
// Connections are sampled: a [Sampler] looks when it is asked, at most every two
// seconds, and counts the entries that were not there the last time. The kernel
// keeps a closed TCP connection for two minutes, an answered datagram for half a
// minute: a look every few seconds misses hardly any. Nobody asks, nothing is
// looked at. It keeps nothing in the kernel.
package traffic
