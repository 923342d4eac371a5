// Package agent puts shoal together on one host.
//
// It wires the one-way flow: dockerwatch tells catalog of this host's
// containers, catalog makes Snapshots, and each consumer (vip, dnsd, lb, fabric,
// ingress) is handed the newest one in a loop of its own, so a slow one delays
// nobody.
// The consumers that write to the kernel are run again on a slow timer, to
// repair what others broke.
//
// It also fills what package api serves on a unix socket and what package
// diagnose reads from. Agents of different hosts ask each other over mutual TLS
// what only each one's kernel tells: what it holds to a task, and its part of a
// trace. No other package knows two of the parts, but for diagnose, which only
// reads from them.
package agent
