// Package sockets finds sockets of other processes: those that wait for clients, with
// the processes that have them, and connected ones by their cookies, which it closes, or
// connects again.
//
// In: protocols, cookies. Out: what the kernel says (sock_diag(7)), and /proc.
// [Listeners] is about the network namespace of the calling thread, [ListenersOf]
// about that of a process, [Destroy] and [Reconnect] about those of all processes. It
// writes nothing but what these two do to the sockets that they are told.
package sockets
