// Package catalog keeps what the whole cluster knows, nodes, services and tasks, in
// etcd, and makes Snapshots (package model) of it.
//
// In: the containers of this host ([Catalog.SetLocal], told by dockerwatch),
// which hosts are alive ([Catalog.SetAlive]), and the records of every host,
// through a client of etcd (package store knows where that etcd runs).
// Out: immutable [model.Snapshot] values, each complete, each with a higher
// revision than the one before; and claims, of VIPs, ports and subnets, which
// are transactions in etcd. Everything that acts (dnsd, lb, ingress, fabric)
// takes a Snapshot and knows neither Docker nor etcd.
//
// What this host's engine says goes into the next Snapshot at once, without a
// round trip to etcd; etcd carries it to the other hosts and remembers what
// must outlive containers: which service has which VIP.
//
// Nobody is ever handed an empty or half-known state: the first Snapshot waits
// for the cluster's state (from etcd, or after a few seconds from the disk
// cache of the last run) and for this host's containers (from the engine, or
// by [Catalog.RestoreLocal]). From then on the last state stays in use while
// etcd is away, with this host's containers coming and going in it.
//
// Four goroutines share the records, under one lock: publish builds Snapshots
// of them, read follows etcd, write brings etcd in line with this host, and
// keepCache saves the state on disk.
//
// The package owns cache.jsonl in the state folder and, in etcd, everything under
// /shoal/v1/ but servers/; in the kernel it owns nothing.
package catalog
