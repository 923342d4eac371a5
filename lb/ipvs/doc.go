// Package ipvs is the data plane that balances by IPVS, with ipsets and
// iptables rules around it.
//
// In: deltas of frontends, endpoints and their base ([Plane.Reconcile]), and
// what passes between hosts ([Plane.Between]). Out: the kernel of this host, and
// dated failures.
//
// It owns, in the network namespace of the host: the ipsets and iptables chains
// whose names begin with SHOAL-, the virtual services whose mark begins with
// 0x53, the device shoal-ingress, a routing rule of priority 540 by the packet mark
// 0x55000000 with the table that it leads to, and a route of protocol 84 to the
// sandbox; and a network namespace, the sandbox, with all that is in it. [Down]
// takes all of that away. It sets parameters of IPVS and its timeouts, whose
// former values it keeps in files. What is the host's is kept by package
// [shoal/lb/host]. It touches no other rule, set, route or service, and nothing
// inside a container.
//
// # The path of a packet to a VIP
//
//	nat PREROUTING/OUTPUT     passed by, before Docker's rules for -p can take it
//	local route               every address of the pool is this host's
//	mangle INPUT/OUTPUT       set SHOAL-VIP… gives the packet the mark of its frontend
//	filter INPUT              from elsewhere than this host and its containers, or for no service: refused
//	IPVS                      the service of that mark chooses a task, destination NAT
//	nat POSTROUTING           masqueraded if the task is the client, else untouched
//	filter FORWARD            the task's replies pass, before Docker's rules drop them
//
// IPVS takes the packets of containers at the end of INPUT, and those of this
// host's own processes in OUTPUT, after mangle. Marks are given no earlier than
// there, so that rules of others that restore marks in PREROUTING (wg-quick(8)'s)
// take none away. What a process of the host sends to an address of the pool that
// is no service's passes OUTPUT as it is, comes back over lo, and is refused in
// INPUT.
//
// The ports by which agents of hosts speak to each other are guarded in front of all
// that, by chains of their own in filter INPUT and FORWARD (guard.go), some twenty
// rules: a set has the hosts that are let in.
//
// These are 38 rules at most, the jumps to them included, for one service or ten
// thousand, and six more where port 53 is another process's.
//
// # The path of a request to a published port
//
//	on the host the client talks to
//	  nat PREROUTING/OUTPUT   to an address of the host, set SHOAL-IN-PUBLISHED: DNAT to the sandbox, port kept
//	in its sandbox
//	  mangle PREROUTING       set SHOAL-IN-PORTS gives the port's mark
//	  IPVS                    the service of that mark chooses a task: DNAT to TASK:TARGET
//	  nat POSTROUTING         a client inside the cluster is given the sandbox's address; any other keeps its own
//	on the host again
//	  mangle PREROUTING       the connection remembers: from our sandbox
//	  route                   to the task, here or by the way its containers are reached
//	  nat POSTROUTING         the sandbox's own address becomes that of the device it leaves by
//	on the task's host, if that is another
//	  raw, mangle, filter     known by the sender's Ethernet address: let in, and remembered with its number
//
// The way back is the same backwards. A task's reply to a client outside would
// go straight there by the routes. What the connection remembers becomes the mark
// of the reply's packets, and a routing rule for each host leads by that mark to
// the host whose sandbox the connection came from, and there into the sandbox. The
// rule into this host's own sandbox is kept here, those to other hosts by the
// ingress. An ICMP error that a host on the way has to say about the connection
// goes by the same rules, so that a client learns of a smaller MTU in words that
// it understands.
//
// Rules are as many for any number of ports, services, tasks and hosts.
//
// # Who sent it
//
// With host-gw a packet has the Ethernet address of the sender's network card,
// in a vxlan tunnel that of its tunnel end. In IP-in-IP there is none: there the
// outer packet is marked by its source address, and the inner one inherits the
// mark. Only packets to a published target are looked at, and none from inside
// the cluster: connections between containers are left alone.
//
// A set has each such address with the mark of its host: SHOAL-IN-SENDERS
// (hash:mac), SHOAL-IN-OUTERS (hash:ip). A set can mark packets only, so the
// connection takes the mark over from the packet, which loses it at once. Of a
// mark that the packet had before, such as one that a rule in the table raw gave
// it, the bits 0xff00ffff are lost by that; the others stay.
//
// # The sandbox's address
//
// The link to the sandbox has link-local addresses, the same on every host. No
// address of a container's network is taken, which an engine might give to a
// container one day, and nothing has to answer ARP for it there. The host
// masquerades it, so that whoever gets a packet in the sandbox's name can answer
// it. Packets from elsewhere to that address are dropped: a port of 127.0.0.1
// would be open by it.
//
// # Among the rules of others
//
// The jumps to these chains stand first in the built-in ones, so before
// DOCKER-USER in filter FORWARD, and what is accepted there does not come by
// DOCKER-USER: replies of tasks, and what containers of this host send to tasks
// on it over another of its bridges. All else meets DOCKER-USER and Docker's own
// rules as if shoal were not there, connections that a task makes among them; but
// what is sent to a container of the mesh from the link or from another bridge,
// and is none of these, is dropped (closed.go). A rule that must hold for
// what is accepted too belongs in mangle FORWARD, which comes before filter and
// where nothing is ours. What goes to a VIP passes INPUT and OUTPUT, not FORWARD;
// its place is mangle PREROUTING, where no chain of ours accepts.
//
// No packet is let in for its source address alone, which whoever is on the
// host's link can forge: that of a container counts only if the packet comes by
// its bridge (set SHOAL-BRIDGES), that of a task only in a reply.
//
// A container cannot pose as a host, or as another container of the mesh, towards other
// hosts, which could not tell: SHOAL-FABRIC-OUT and SHOAL-FABRIC-THROUGH in between.go
// drop that.
//
// A container on a network that other hosts know nothing of, docker0 say, is
// masqueraded by Docker when its packets go to a task of another host, and that
// task sees the host's address.
//
// # DNS
//
// On one address of the pool the agent of this host answers. A second one leads,
// by IPVS, to the DNS servers of the other hosts that live, where only hosts of
// the cluster and their containers are let in. While the agent is away a resolver
// is told so, and goes on to the second address; where there are no others it
// hears nothing, and asks again.
//
// Where port 53 of all addresses is another process's, a socket for one address
// cannot be bound beside. The agent then answers on another port, and nat leads
// there what is sent to port 53 ([lb.Base.DNSPorts]).
//
// # UDP
//
// UDP is balanced apart from TCP since an IPVS destination cannot be closed for
// one protocol: when a task drains, its TCP connections stay with it at weight 0,
// and its UDP flows must move at once. IPVS looks a flow up before it looks at
// weights or marks, so a steady UDP sender stays with a destination of weight 0
// for ever (tried); only deleting the destination frees it, and that would cut TCP
// connections of the same destination. When a destination is deleted the kernel
// drops its connections and their conntrack entries within a tick (with
// expire_nodest_conn=1; tried); a datagram in that tick is lost, the next goes to
// another task.
//
// A task whose host is considered dead drains for [lb.LostGrace]. A client that it
// has not answered sends its first packet again, and is given another destination:
// with expire_nodest_conn=1 the kernel asks again for a SYN whose destination has
// weight 0 (tried).
//
// # Limits
//
// IPVS knows an answer by its ends: task and client, address and port. So a
// client that sends to a task's own address from the port from which it sent
// to the VIP, while IPVS keeps that connection, has its answer from the VIP, which
// it did not ask (tried, UDP and TCP). With ports of the kernel's choice one request
// in some 28,000 meets one port that is kept. There is no rule by which a
// packet could pass IPVS by on its way out.
//
// # Addresses that change hands
//
// The address of a task that has left may be another container's before the other
// hosts know that it left. So it rests for a while ([lb.Delta].Resting), in the set
// SHOAL-RESTING. What other hosts and their containers newly send there is refused,
// and so is every datagram, as a sender that never pauses is of before; see
// resting.go. This host and its containers know who has the address, and use it. The
// set is usually empty, and the rules are as many for any number of services.
//
// # Repair
//
// The kernel tells of routes, routing rules and the sandbox's link, and of
// iptables' rules where they are nftables'. Of sets and virtual services it tells
// nothing: full passes look, as often as they are made ([shoal/reconcile.Loop]).
//
// Each of them keeps the rules, routes and parameters, makes sets that are missing,
// and reads how many entries each set and how many services each namespace has.
// Where that is not what is known, all of the set, or all services, are read at
// once. What was replaced or changed and left the number as it was is found by
// reading: a pass reads a share, [auditShare] services with their destinations or
// eight times as many entries of sets, and passes go round. Up to some 400
// services, each with two frontends and two tasks, are one share. Ten thousand are
// 26: with a pass every ten seconds, a round takes four minutes and a half.
//
// # The kernel remembers
//
// The sets are the only record of which frontend of a VIP has which mark: a
// restarted agent reads them back. A frontend that takes no new connections but
// still holds some (its last task drains, or is unhealthy) keeps its entry with
// the bit [noNewConns] in the mark: filter lets established connections in, refuses new
// ones, and the mark is not lost over a restart. In the sandbox a mark is the port
// itself and its protocol, and nothing has to be remembered.
//
// IPv4 only: the pool, and the tasks behind it.
package ipvs
