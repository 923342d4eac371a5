// Package connlimit keeps clients that are not trusted from taking all connections of a
// server.
//
// In: addresses, connections and requests. Out: whether there is room for them. [Places]
// counts what is taken, in all and by each site; [Listener] closes the connections that
// find no place, and [Requests] refuses such requests; [NoBody] refuses requests whose bodies would keep a connection waiting.
//
// The package owns nothing in the kernel and knows nothing of who belongs to a cluster.
package connlimit
