// Package connlimit keeps clients that are not trusted from taking all connections of a
// server.
//
// In: addresses and connections. Out: whether there is room for them. [Places] counts
// what is taken, in all and by each site; [Listener] closes the connections that find no
// place.
//
// The package owns nothing in the kernel and knows nothing of who belongs to a cluster.
package connlimit
