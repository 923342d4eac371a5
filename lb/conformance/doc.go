// Package conformance is one suite of tests that every data plane must pass:
// real packets, in network namespaces of the machine's own kernel.
//
// In: a [Plane], which says how one is made and what the kernel lacks here. Out:
// a test for each promise of [shoal/lb.DataPlane]. It needs root.
//
// # The world
//
//	client ─┬─ host a ─┬─ bridge mesh:  a1 a2 a3 a4
//	        │          └─ bridge other: x1 x2
//	        ├─ host b ─── bridge mesh:  b1 b2
//	        └─ host c ─── bridge mesh:  c1
//
// The client is outside the cluster, on the hosts' link. Hosts a and b, and b
// and c, reach each other's containers by routes; a and c by a vxlan tunnel. Each
// host has the rules of a careful engine and firewall: policies DROP, bridges
// kept apart, addresses of containers closed to all but their own bridge. Every
// container answers on a few ports with its name, the client's address that it
// sees, and the port.
//
// The tests share one world. A test begins with no service, and a world in
// which one failed is thrown away.
package conformance
