// Package fleet simulates a cluster of many hosts on one machine, and prints what it
// costs and how fast it is: make fleet.
//
// In: how many hosts, tasks and servers of the store, and which phases. Out: a table
// in Markdown, and a sentence that says what breaks first.
//
// What runs is real: a store as hosts serve it (package store, with mutual TLS and a
// process of its own for etcd), a [shoal/catalog.Catalog] and a
// [shoal/cluster.Liveness] for each host. What is simulated is the hosts. Each has
// an address of its own on the loopback device, and many share a process: those of
// the catalogs have nothing else in them, and neither have those of liveness, so that
// the processor's time is told apart by part. No containers, no kernel tables, no DNS.
//
//	driver (this process) ─┬─ worker store 1 … 3     ── its etcd
//	                       ├─ worker catalogs 1 … n  hosts of the fleet
//	                       └─ worker liveness 1 … n  the same hosts
//
// The driver tells the workers what to do by lines of JSON (message.go). All of them are
// in a network namespace that the driver makes, and nowhere else. It counts
// bytes there by nftables rules, and drops packets for a partition or a dead host.
//
// A host has a further address for each server of the store. Packets to that are redirected
// to the server, so that a host's connections to the store can be told from
// another's: clients of etcd do not choose the address they connect from.
//
// Asking all others costs a host a constant rate, but a thousand such hosts ask more
// than one machine can answer. So only some hosts may do that ([Options].Askers): all
// take part in gossip and answer, the askers judge as hosts do, and the others ask one
// host each.
//
// The phases are in phases.go, in their order.
package fleet
