// Package conntrack lists the IPv4 connections that the kernel tracks.
//
// In: nothing. Out: one entry a connection, of the network namespace of the
// calling thread. It writes nothing. The messages are those of
// include/uapi/linux/netfilter/nfnetlink_conntrack.h.
package conntrack
