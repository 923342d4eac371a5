// Package socket leads clients to tasks in connect(): a program of the kernel
// chooses the task once, and puts its address in the place of the VIP before the
// kernel picks a route and a source port. From then on it is a connection to the
// task itself: nothing is done to its packets, no table remembers it, and the
// task sees the client's own address.
//
// In: frontends, as package lb decides them. Out: programs and maps in the kernel,
// and the same frontends, for another plane. It is a decorator: [Plane] wraps the
// plane that carries everything, passes every call on, and serves the VIP's
// clients besides. What it does not lead goes on as if it were not there:
//
//   - published ports, and the address of the other hosts' DNS servers
//   - processes outside of its control group
//   - UDP sockets that are not connected, and all of them without [Options.Reconnect]
//   - every other protocol; MPTCP connects past the programs
//   - services whose scheduler slots cannot keep (package slots)
//   - services with a task on a host's own network: the host's firewall may let in
//     what comes by the VIP, and no direct connection
//   - a VIP without a task in rotation: the plane behind refuses at once
//   - sockets that a map has no room for
//
// # Programs
//
// They are attached to a cgroup of version 2, and see the sockets that its
// processes make, in any network namespace.
//
//	connect4, connect6      lead a socket to a task; connect6 IPv4-mapped addresses only
//	peername4, peername6    getpeername() says the VIP
//	recvmsg4, recvmsg6      so does recvmsg(), for datagrams
//	sendmsg4                a connected UDP socket that names the VIP means its task
//	release                 forgets a socket that ends
//
// Those for datagrams are there with [Options.Reconnect] only.
//
// They are assembled in Go, by package asm of github.com/cilium/ebpf, when the agent
// starts. What the kernel runs is in connect.go and names.go, to be read and
// reviewed; there is no generated object that could differ from its source, and no
// clang where shoal is built, tested or run. They are small, and use nothing that
// Linux 5.10 lacks.
//
// # Maps
//
//	services  VIP, port, protocol → frontend, its slots, how one is chosen
//	slots     filling, index → task
//	counts    frontend → connections so far; the next turn is taken from it
//	affinity  frontend, client → the task it keeps, and until when
//	backends  filling, task: who is in rotation, for services with affinity
//	peers     cookie of a socket → VIP and task
//
// A frontend with a port is looked up before that for every port, and has an entry
// even if it is not led: else its connections would be led as the other's are.
//
// A change of a frontend's tasks gets slots of its own, a new filling; then the
// entry of services is replaced, in one step; then the old slots go. A client is a
// network namespace, and the address that its socket is bound to, if it is. A datagram
// socket that is connected once more counts as bound to none: as a rule the kernel chose
// the address that it has.
//
// # Life
//
// Programs and maps are pinned: killing the agent changes nothing, and a new one
// adopts what it finds and writes the difference. Programs of another version are
// replaced one by one, each at once. A layout of maps that changed has another
// folder ([layout]), and sockets that were led by the former are forgotten, those of UDP
// once they are connected to their VIPs.
// Programs that were not attached before are proven by a
// connection before [New] returns.
//
// # Tasks that are gone
//
// A connection that is led has nobody on the way who could reset it. Where a task
// is gone for good, is past the deadline of its drain, or is on a host that has been
// considered dead for ten seconds, its sockets are closed at their client:
// [Options.Destroy]. What a host that is considered dead has not answered yet is closed at
// once, so that the client tries again and comes to another task. By a data plane that
// would be so without an error; here the socket is the task's already.
//
// A socket that is in no table of the kernel when it is looked for has ended, or its connect() was
// led and has not gone on since. It is looked for once more, a second later, before it is forgotten.
//
// UDP knows no such end: a flow through a data plane moves to another task as soon as its
// own leaves the rotation, and drains or not, the client need not know. So do sockets that
// are led. They are connected to their VIP once more ([Options.Reconnect]), in the place of
// their process, which notices nothing: connect() of a datagram socket may be repeated, and
// the programs run for the socket's own control group. They choose a task in rotation, for a client
// with affinity the one that it keeps. If there is none they leave the socket alone, which then
// is connected to the VIP itself: the plane behind refuses what it sends, and carries it once a task
// comes, for as long as it lives. That is done at the end of a pass, when the maps have the
// new tasks, for all sockets at once. What the former task has still to say is dropped by
// the kernel, as it comes from an address that the socket is not connected to.
//
// A socket that cannot be connected is closed, as with TCP: else its client would send to
// nobody. [Down] connects all that are led to their VIPs, as nobody watches their tasks any more.
package socket
