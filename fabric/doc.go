// Package fabric lets containers of different hosts reach each other by their
// own addresses.
//
// In: Snapshots, through [Fabric.Reconcile]: of each host its address and the
// subnet of its containers. Out: the kernel of this host, and the problems of
// the hosts that it could not reach.
//
// It owns, in the network namespace of the host: the routes of the main table
// with protocol [RouteProtocol], those of the local table that lead to one address
// each, and the devices whose names begin with "shoal." with everything on them. [Down] takes all of that away. It touches no other
// route or device, no kernel parameter but those of its own devices, and nothing
// inside a container. The rules that let its packets pass are written by a
// [Firewall]. Making the containers' network is the engine's work; [MTU] tells
// what it must look like.
//
// # How a host is reached
//
// Every host is reached by one route, "SUBNET via ADDRESS dev DEVICE", the
// address being the one that all hosts know it by. Transports differ in the
// device. Each is a package of its own, which tells ([transport.Transport]) and
// does not decide:
//
//	host-gw  the network card that has the peer on its link; nothing is added to a packet
//	vxlan    shoal.vxlan: Ethernet in UDP (RFC 7348), 50 octets
//	ipip     shoal.ipip: IP in IP (RFC 2003), 20 octets
//	auto     a peer at a time: host-gw if it is on a link of ours that carries what
//	         containers send, else vxlan
//
// With vxlan a peer takes a neighbour and a forwarding entry too, both static:
// nothing is learnt, asked for or flooded. The Ethernet address of a host's
// tunnel end is made of its IP address ([vxlan.VTEPMAC]), so whoever knows one knows
// the other. What grows with the cluster grows with hosts, never with
// containers.
//
// Hosts on one link must agree on its prefix, so that each thinks the other
// near. Whether the link carries what containers send, which many clouds drop,
// auto finds out by pings from subnet to subnet ([Fabric.Prove]): each host has an
// address of its subnet for that ([model.Node].Probe), by a local route, and with auto a
// route to that of each peer straight over the link. With every backend that address
// serves to find out how large packets are that arrive ([Carried]). A peer of an earlier
// version has none, and is reached by host-gw as it was. Hosts may choose
// differently for a while: with auto, packets of a peer on a link are let past
// whichever of the two ways they come.
//
// A host that is down keeps its routes, as its records are kept.
//
// # Whom to trust
//
// A container's address in a packet proves nothing. Packets of other hosts'
// containers are let past the rules by which the engine shields containers
// (FORWARD; raw from version 28 on) only if they come from that host's subnet
// and over the device that leads to it ([lb.Between]). Packets to the tunnels are
// taken from addresses of hosts of the cluster only; from others they are
// dropped. So whoever is behind a router, off the hosts' own link, cannot pass
// for a container by its source address, unless the routers between let him pass
// for a host too. On a link that is shared with others, host-gw believes whoever
// sends from a container's address: nothing tells such packets from a host's.
// Tunnels are neither encrypted nor signed. What is not trusted is not dropped
// either; it meets the engine's own rules.
//
// With iptables, the jumps to these rules stand first in the built-in chains, in
// filter FORWARD before DOCKER-USER: what is let past does not come by
// DOCKER-USER, all else does. A rule that must hold for packets of other hosts'
// containers too belongs in mangle FORWARD, which comes before filter and where
// nothing is ours.
//
// The port of vxlan must therefore be shoal's alone, and with ipip no other
// IPIP tunnel can end on the host, unless its far end is a host of the cluster.
//
// IPv4 only: subnets, and the addresses of hosts.
package fabric
