// Package store runs the etcd in which a cluster keeps its state, and gives out
// the client that reaches it, wherever it is.
//
// A host has a [Role]: it runs an etcd for itself alone, it is one of the
// servers of the cluster's etcd, it is a client of those servers, or it uses an
// etcd that the user runs. [Store.Serve], [Store.Promote] and [Store.Demote]
// change the role while the host runs.
//
// In: how hosts reach and trust each other ([Peers]), which of them are alive
// ([Store.SetAlive]), and where other hosts say the store is ([Store.Found]).
// Out: one client of etcd ([Store.Client]), whose endpoints follow the servers
// as they come, go, move and die. Servers announce themselves by records in
// etcd itself, which every host watches.
//
// The etcd runs in a process of its own ([RunChild]), which ends when the agent
// does. What ends etcd, such as a full disk, does not end the agent: the store is
// away then, and started again ([Store.Health] tells why it is not).
//
// Where the store is lost with every copy of it, a host makes a new one
// ([BeginRecovery]), and the others follow ([Follow]), while no agent runs there.
//
// A server keeps its own etcd from being full: it compacts and defragments it, and
// disarms its alarm, after which etcd would take no more writes for good.
//
// What is kept in etcd besides is not this package's business; package catalog
// has it, and knows only the client.
//
// The package owns, in the state folder, etcd's data (etcd/), its socket
// (etcd.sock), the host's role (store.json), the lock, and what recovery leaves
// (recovery/, etcd.old/); in etcd, what is under
// /shoal/v1/servers/; and on a server TCP ports 2379 and 2380 of the host's
// address.
package store
