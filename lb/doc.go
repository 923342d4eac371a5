// Package lb decides what is balanced: for each service that a host knows, its
// VIP and its published ports, to which tasks, and with which weights. It changes
// no kernel.
//
// In: a [model.Snapshot] of the cluster, through [Balancer.Reconcile]. Out: a
// [Delta] for a [DataPlane] with the frontends that are new, changed or gone,
// and what became of them: problems, and statistics.
//
// Data planes are folders beside this file, shoal/lb/ipvs and shoal/lb/nft; a
// third is one more folder. What they need of the host, and give back,
// shoal/lb/host keeps. What holds of each of them, shoal/lb/conformance tests with
// real packets.
//
// Marks of packets and connections, which several packages agree on, are in
// marks.go. How a service becomes frontends is in decide.go.
package lb
