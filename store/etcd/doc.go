// Package etcd makes clients of etcd as shoal needs them: they reconnect within
// a second or two however long etcd was away, notice a connection that died
// silently, and can abandon an endpoint at once.
//
// In: endpoints and credentials. Out: a [Client], which is the one of
// go.etcd.io/etcd/client/v3 with its connections at hand. Package store decides
// which endpoints a client has; package catalog uses the client and knows
// nothing of them. The package owns TCP and unix connections, nothing else.
package etcd
