// Package ingress is the routing mesh around the data plane: who may publish
// which port, on the cluster and on this host, and the way back of replies.
//
// In: Snapshots. Out: claims for the catalog ([Claims]), the published ports
// that this host must leave to others ([Ingress.Admit]), routing rules and
// routes ([Ingress.Reconcile]), and problems. Published ports themselves are
// balanced by a data plane (package lb): it takes the client's connection,
// chooses a task, and keeps the client's address.
//
// # The way back
//
// The task's host recognises a connection that another host's published port
// has sent, by the sender's Ethernet address, and remembers that host's number in the
// connection's mark; the data plane gives replies the number as their packets'
// mark. Here a routing rule for each host leads by that mark to a table of its
// own, whose only route is the one by which that host's containers are reached:
// so a reply goes back through the host that the client talks to, and not
// straight to the client, who would not know it. With a thousand hosts a reply
// meets some sixty rules (rules.go).
//
// It owns the routing rules of priorities 539 and 541 to 574, the table that each
// leads to, and where a device that mesh packets come in by checks sources strictly,
// its rp_filter, whose former value it keeps in a file. [Down] takes all of that
// away and puts the values back.
//
// # What is somebody else's
//
// A port that a process of the host listens on, or that a rule of others (such
// as Docker's -p) sends elsewhere, is not taken on that host, and is a problem
// that names the one who has it. Who comes later wins as well: it is looked once a
// second who listens on the published ports, and at the rules when a container of the
// host comes or goes; then the port is given up.
//
// Some ports are not for labels at all, whoever listens on them: see [Policy].
//
// # Limits
//
// A task sees the client's address and port, and no more of which host the
// client talked to. If one client uses the same port of its own for two
// connections at once, to two hosts or two published ports, and both are given
// the same task and target, then a data plane that does not tell hosts apart
// cannot tell the two apart there, and the later one fails: IPVS does not,
// nftables does. Clients choose ports at random among 28,000 or so.
//
// A host that connects from an address that its record does not have is taken
// for a client outside; it is not answered if a task on that very host is
// chosen.
//
// IPv4 only.
package ingress
