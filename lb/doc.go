// Package lb is the balancer: it makes the kernel carry what is sent to a VIP
// to the tasks of the service.
//
// In: Snapshots, through [Balancer.Reconcile]. Out: the kernel of this host,
// and the problems of the services that it could not serve.
//
// It owns, in the network namespace of the host: one local route for the pool
// of VIPs; the ipsets and the iptables chains whose names begin with SHOAL-;
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
//	filter INPUT              marked: in; anything else for the pool: refused
//	IPVS                      the service of that mark chooses a task, destination NAT
//	nat POSTROUTING           masqueraded if the task is the client, else untouched
//	filter FORWARD            the task's replies pass, before Docker's rules drop them
//
// With one DNS address these are 30 rules, for one service or ten thousand.
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
// # The kernel remembers
//
// The sets are the only record of which front has which mark: a restarted
// agent reads them back. A front that takes no new connections but still holds
// some (its last task drains, or is unhealthy) keeps its entry with the bit
// [parked] in the mark: filter lets established connections in, refuses new ones,
// and the mark is not lost over a restart.
//
// IPv4 only: the pool, and the tasks behind it.
package lb
