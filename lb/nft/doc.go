// Package nft is the data plane by nftables: one table of maps, and a constant
// number of rules that look things up in them.
//
// In: changes of frontends and tasks, through [Plane.Reconcile], and what passes
// between hosts, through [Plane.Between]. Out: the kernel of one network
// namespace.
//
// It owns the table "ip shoal" and, where there is a program iptables, two chains
// of it called SHOAL-PASS; the local route of the pool of VIPs; the conntrack
// entries of its own connections. What is the host's and is changed for the
// table (parameters, bridges) shoal/lb/host keeps and puts back. [Down] takes all
// of it away. No other table, rule or route is touched, and nothing inside a
// container. There is no second network namespace.
//
// # The way of a packet
//
//	raw prerouting       127.0.0.1 is closed to the links; what shall pass by the engine's rules is marked
//	mangle prerouting    a connection remembers the host by whose published port it came; replies are marked
//	dstnat-1             to a VIP or a published port: services → balancer → slots → DNAT to a task
//	filter in, forward   what is no service is refused; connections of the mesh are marked to pass
//	srcnat-1             masqueraded if the task is the client or its answer would not come this way; else untouched
//
// A lookup in services, by the address, protocol and port that a packet is sent
// to, gives the number of a balancer. A balancer is a chain that is shared by all
// frontends which are alike in form, scheduler, number of slots and affinity: it
// chooses a slot, looks it up in slots, and changes the destination. These steps
// are made once for a connection, and cost the same for one service and for ten
// thousand. What the kernel does with later packets is conntrack's.
//
// The map from services to balancers has numbers, not verdicts. For each verdict
// in a map the kernel checks, at every change of any such map, that no chain leads
// back to itself: it would walk all services eight times over for one that
// changes. So a change is some entries, removed and put in one transaction:
// packets see the frontend as it was or as it is to be. The transaction takes
// tens of microseconds; a balancer that has not been there takes two more.
//
// # Schedulers
//
// See schedule.go. Slots are filled with backends by their weights, and taken in
// turn (rr, wrr), by a hash of an address (sh, mh, dh), or there is one (fo). The
// schedulers of IPVS that count connections do not exist here; [Plane.Scheduler]
// tells the nearest.
//
// What is taken in turn needs a counter, and a rule has one. If frontends shared
// it, a client that calls two services in turn would have the same task of each
// every time. So each frontend has a lane for itself, 64 of them for frontends
// that are alike; those beyond share a balancer that takes slots at random. Among
// very many slots a change makes no lane, and takes one that is there and free. The
// lane is part of the chain's name, and stays with the frontend over a restart.
//
// # Affinity
//
// A balancer with affinity puts (client, frontend) → backend into a map whose
// entries expire, and looks there first. What it finds counts while the backend
// takes connections. The time runs from the client's last new connection: IPVS
// also waits for connections that are open. A map has room for 131,072 clients;
// one beyond is served without.
//
// # Tasks that leave
//
// See leaving.go. Netfilter chooses at a connection's first packet, so a backend
// of weight 0 has no slots and keeps what it has. The map backends holds those
// too: it tells a new process what its predecessor had.
//
// # Addresses that change hands
//
// The address of a task that has left may be another container's before the other
// hosts know that it left. So it rests for a while ([lb.Delta].Resting), in the set
// resting. What other hosts and their containers newly send there is refused, and so
// is every datagram, as a sender that never pauses is of before; see static.go. This
// host and its containers know who has the address, and use it. The set is usually
// empty, and the rules are four for any number of services.
//
// # Published ports
//
// They are in services as 0.0.0.0, or as an address of the host, and only packets
// to the host's own addresses are looked up there. A connection is marked with
// [lb.ConnMark]. A client outside the cluster keeps its address; one inside, or
// the host itself, is masqueraded, as the task's host would answer it directly.
//
// On the task's host such a connection is known by the sender's Ethernet address,
// or by the outer packet in a tunnel of IP in IP: only packets to a target of a
// published port are looked at, and none from inside the cluster. The connection
// is marked with the number of the host, and its replies with [lb.PacketMark] and
// that number, after the rules of others that restore a packet's mark. Routing
// rules, which are not this package's, lead them back.
//
// A process of the host that connects to 127.0.0.1 leaves the host from that
// address before it is masqueraded, which the kernel allows on devices with
// route_localnet=1 only. That would let in what a link sends to 127.0.0.1: the
// first rules drop it.
//
// # Among the rules of others
//
// In netfilter a drop is final, and an accept ends one chain, not the others of
// the same hook. An engine that uses iptables drops packets between its bridges,
// and from version 28 on whatever comes to a container from elsewhere than its
// bridge; firewalls drop what they do not know. So a chain just before those of
// iptables sets one bit in the mark of packets that are to pass, a rule in front
// of all others of iptables accepts what has it, and a chain just after takes it
// off again. Nothing else sees the bit 0x00800000, and what comes with it from
// elsewhere loses it first. Which packets pass is told in static.go: they do not
// come by DOCKER-USER. What a rule must drop too belongs in mangle FORWARD.
//
// What is sent to a container of the mesh from the link or from another bridge,
// and is none of these, is dropped here: an engine may have been made to let it
// pass.
//
// A container cannot pose as a host, or as another container of the mesh, towards other
// hosts, which could not tell. What it sends into another host's tunnel is dropped, as
// the engine would masquerade it with this host's address. So is what is sent there
// from the address of a host that is reached by another device, and what comes from
// the address of a container of the mesh by another device than its own.
//
// Chains of nftables that others have made are not passed by. One that drops, at
// whatever priority, drops these packets as well. Where those are the engine's,
// engine.go tells what is done about it.
//
// NAT is done once for a connection, by who comes first: the chains for it stand
// before those of iptables. A connection that is to keep its destination or
// source, whatever rules of others say, is changed to the one that it has.
//
// # DNS
//
// Where port 53 of all addresses is another process's, a socket for one address
// cannot be bound beside. The agent then answers on another port, and the
// connection is led there before anything else is looked up ([lb.Base.DNSPorts]).
//
// # Repair
//
// The kernel tells of changes of the table by others, and a full pass follows:
// see monitor.go. It lists the table and writes what differs. A rule is known
// again by a hash in its comment; a chain in which anything differs is made anew.
// While the kernel tells of none, a full pass lists nothing. Rules of iptables
// are compared in every full pass; the agent runs one when they change.
//
// # Limits
//
// How long an idle connection is remembered is conntrack's to say:
// [lb.PlaneOptions].Timeouts are not applied. For TCP it is five days, for UDP
// two minutes.
//
// A process of this host that is a task, and is reached by UDP, answers from
// whichever of the host's addresses is nearest to the client. By a published port
// it answers from the right one all the same (see static.go); by a VIP a
// container is not answered unless the process is bound to the host's address.
//
// Connections are counted, packets and bytes are not.
//
// IPv4 only. Linux 5.10 or later.
package nft
