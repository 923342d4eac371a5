// Package catalog holds what the whole cluster knows: nodes, services and
// tasks, as plain values, and the Snapshots made of them.
//
// In: the containers of this host ([Catalog.SetLocal], told by dockerwatch)
// and the records of every host, kept in etcd (embedded or external).
// Out: immutable [Snapshot] values, each complete, each with a higher
// revision than the one before. Everything that acts (dnsd, lb, ingress,
// fabric) takes a Snapshot and knows neither Docker nor etcd.
//
// What this host's engine says goes into the next Snapshot at once, without a
// round trip to etcd; etcd carries it to the other hosts and remembers what
// must outlive containers: which service has which VIP.
//
// The package owns nothing in the kernel.
package catalog
