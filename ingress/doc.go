// Package ingress is the routing mesh: a published port answers on every host,
// and the task sees the client's own address.
//
// In: Snapshots, through [Ingress.Reconcile]. Out: the kernel of this host, and
// the problems of the ports that it could not serve. [Claims] says, of a
// Snapshot alone, which ports this host should claim or release in the catalog.
//
// It owns a network namespace, the sandbox, with all that is in it; and on the
// host: the device shoal-ingress, the ipsets SHOAL-IN-…, the iptables chains
// SHOAL-IN…, routing rules of priority 540 by marks 0x54…, with the table that
// each leads to, a route to the sandbox, and a few kernel parameters whose
// former values it keeps in a file. [Down] takes all of that away and puts the
// values back. It touches no other rule, set, route or device, and nothing
// inside a container.
//
// # The way of a request
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
// go straight there by the routes; what a connection remembers becomes the
// reply's mark, and a routing rule for each host leads by the mark to the host
// whose sandbox it came from, and there into the sandbox. An ICMP error that a
// host on the way has to say about the connection goes by the same rules, so
// that a client learns of a smaller MTU in words that it understands.
//
// Rules, routing rules and tables grow with the hosts of the cluster, never
// with ports, services or tasks.
//
// # Which tasks
//
// A port leads to the tasks that publish it, of the service that holds it, with
// the weights and states they have: one that drains, fails its health check or
// is lost with its host takes no new connections and keeps those it has, but
// UDP flows, which never end, go to others at once. A service may have each host
// lead to its own tasks only (PublishLocal), or to its own while there are any
// (PreferLocal). A task of another host whose address is neither that host's
// nor of the subnet leased to it is left out, as packets would not reach it; its
// own host serves it and says so.
//
// # Who sent it
//
// With host-gw a packet has the Ethernet address of the sender's network card,
// in a vxlan tunnel that of its tunnel end. In IP-in-IP there is none: there the
// outer packet is marked by its source address, and the inner one inherits the
// mark. Only packets to a published target are looked at, and none from inside
// the cluster: connections between containers are left alone.
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
// # Marks
//
// In the sandbox a mark is the port itself and its protocol; nothing has to be
// remembered. On the host it is 0x54 and a host's number, in packets and in
// connections; the eight bits between are left to others.
//
// # What is somebody else's
//
// A port that a process of the host listens on, or that a rule of others (such
// as Docker's -p) sends elsewhere, is not redirected on that host, and is a
// problem that names the one who has it. A port that is redirected stays so
// whoever comes later.
//
// # Limits
//
// A task sees the client's address and port, and no more of which host the
// client talked to. If one client uses the same port of its own for two
// connections at once, to two hosts or two published ports, and both are given
// the same task and target, then the two cannot be told apart there, and the
// later one fails. Clients choose ports at random among 28,000 or so.
//
// A host that connects from an address that its record does not have is taken
// for a client outside; it is not answered if a task on that very host is
// chosen.
//
// IPv4 only.
package ingress
