// Package lb is the balancer: it makes the kernel carry what is sent to a VIP
// to the tasks of the service.
//
// In: Snapshots, through [Balancer.Reconcile]. Out: the kernel of this host,
// and the problems of the services that it could not serve.
//
// It owns, in the network namespace of the host: one local route for the pool
// of VIPs; the ipsets and the iptables chains whose names begin with SHOAL-, but
// for those with SHOAL-FABRIC and SHOAL-IN, the fabric's and the ingress's;
// the IPVS services whose mark begins with 0x53; a few sysctls, the IPVS
// timeouts and the hairpin mode of bridge ports, whose former values it keeps in
// files. [Down] takes all of that
// away and puts the values back. It touches no other rule, set, route or
// service, and nothing inside a container.
//
// # The way of a packet to a VIP
//
//	mangle PREROUTING/OUTPUT  set SHOAL-VIP… gives the packet the mark of its front
//	nat PREROUTING/OUTPUT     passed by, before Docker's rules for -p can take it
//	local route               every address of the pool is this host's
//	filter INPUT              from elsewhere than this host and its containers, or for no service: refused
//	IPVS                      the service of that mark chooses a task, destination NAT
//	nat POSTROUTING           masqueraded if the task is the client, else untouched
//	filter FORWARD            the task's replies pass, before Docker's rules drop them
//
// These are 38 rules at most, the jumps to them included, for one service or ten
// thousand.
//
// # Among the rules of others
//
// The jumps to these chains stand first in the built-in ones, so before
// DOCKER-USER in filter FORWARD, and what is accepted there does not come by
// DOCKER-USER: replies of tasks, and what containers of this host send to tasks
// on it over another of its bridges. All else meets DOCKER-USER and Docker's own
// rules as if shoal were not there, connections that a task makes and those that
// are made to its address from outside among them. A rule that must hold for
// what is accepted too belongs in mangle FORWARD, which comes before filter and
// where nothing is ours. What goes to a VIP passes INPUT and OUTPUT, not FORWARD;
// its place is mangle PREROUTING, where no chain of ours accepts.
//
// No packet is let in for its source address alone, which whoever is on the
// host's link can forge: that of a container counts only if the packet comes by
// its bridge (set SHOAL-BRIDGES), that of a task only in a reply. What comes from
// other hosts' containers is the fabric's and the ingress's to let in.
//
// A container on a network that other hosts know nothing of, docker0 say, is
// masqueraded by Docker when its packets go to a task of another host, and that
// task sees the host's address.
//
// # DNS
//
// On one address of the pool the agent of this host answers. A second one leads,
// by IPVS, to the DNS servers of the other hosts that live, each at the first
// address of its containers' subnet ([model.Plan]), where only hosts of the
// cluster and their containers are let in; to this host's own, if there are no
// others. While the agent is away a resolver is told so, and goes on to the second
// address; where there are no others it hears nothing, and asks again.
//
// # Fronts
//
// What of a VIP is balanced together is a front, with a mark and an IPVS
// service of its own: a named port; every other TCP and SCTP port; every other
// UDP port. UDP stands apart since an IPVS destination cannot be closed for one
// protocol: when a task drains, its TCP connections stay with it at weight 0,
// and its UDP flows must move at once. IPVS looks a flow up before it looks
// at weights or marks, so a steady UDP sender stays with a destination of weight
// 0 for ever (tried); only deleting the destination frees it, and that
// would cut TCP connections of the same destination. When a destination is deleted the
// kernel drops its connections and their conntrack entries within a tick (with
// expire_nodest_conn=1; tried); a datagram in that tick is lost, the next goes
// to another task.
//
// IPVS knows an answer by its ends: task and client, address and port. So a
// client that sends to a task's own address from the port from which it sent
// to the VIP, while IPVS keeps that connection, has its answer from the VIP, which
// it did not ask (tried, UDP and TCP). With ports of the kernel's choice one request
// in some 28,000 meets one port that is kept. There is no rule by which a
// packet could pass IPVS by on its way out.
//
// # The kernel remembers
//
// The sets are the only record of which front has which mark: a restarted
// agent reads them back. A front that takes no new connections but still holds
// some (its last task drains, or is unhealthy) keeps its entry with the bit
// [parked] in the mark: filter lets established connections in, refuses new ones,
// and the mark is not lost over a restart.
//
// IPv4 only: the pool, and the tasks behind it.
package ipvs
