// Package bench measures shoal against what it stands in for, and prints a
// table in Markdown. It runs in the lab: make bench.
//
// In: a lab (package shoal/lab) whose data plane is nftables or IPVS; in it the
// plane by itself, then engines and whole agents on one host, then on three. Out: rows, each with what shoal did, what something else did in the
// same run, and the ratio of the two; an aim where there is one, and whether it
// is met.
//
// Absolute figures say little: the machine is shared; and IPVS may run in User-Mode
// Linux, which has one processor, and where system calls and context switches are
// dear.
// So whatever is compared is measured in turns, a few requests at a time, with
// the order reversed from turn to turn. A round is some turns; its ratio is that of
// the median times, which a request that was held up does not move. The table has
// the median of all rounds' ratios, and their quartiles. Nothing is forked while
// the clock runs.
//
// What is measured is in files of their own, each with functions that return rows:
//
//	path.go       one path / another: requests, throughput, latency
//	dataplane.go  the plane and the balancer by themselves: from empty, a change, a restart
//	world.go      one host: through the VIP / straight to the task
//	straight.go   straight to the task, after many connections to its VIP
//	restart.go    the agent started again, and from empty
//	rules.go      the same with an iptables rule for each service
//	change.go     a container's start and death as clients see them
//	dns.go        the DNS server / other servers that answer as much
//	agent.go      memory, processor, and changes of one task among many
//	cluster.go    three hosts: published ports, VIPs, the network between hosts
//	death.go      a host cut off, and its return
//	socket.go     connections that are led in connect(), through the VIP / straight to the task
//	connect.go    connect() with more and more services
//	processor.go  processor time: led in connect() / by the data plane / straight to the task
//	loss.go       until a client knows that its task is gone: led in connect() / by the data plane
//
// All but the last four are about the data plane: their agents lead nobody in connect(),
// and the bench is outside of the hosts' control groups. For the last four it moves
// into them and out again (group.go).
//
// To add a row, find two paths and call contest, or add a function to the list of
// oneHost or manyHosts.
//
// On the one host the kernel and the agent hold services without containers too
// (fill.go). They are records in the agent's store, as another host would write
// them, so all that the agent makes of them is real: rules, sets, virtual services,
// names.
//
// What the bench reads from the kernel itself is behind an interface with one
// implementation a plane (plane.go).
package bench
