// Package sockets finds sockets of other processes, and closes them: those that
// wait for clients, with the processes that have them, and connected ones by
// their cookies.
//
// In: protocols, cookies. Out: what the kernel says (sock_diag(7)), and /proc.
// [Listeners] is about the network namespace of the calling thread, [Destroy] about
// those of all processes. It writes nothing but what Destroy closes.
package sockets
