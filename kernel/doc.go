// Package kernel holds thin wrappers of kernel facilities, each in a folder of
// its own: ipset, ipvs, rules (iptables), sysctl, bridge, sockets, conntrack, cgroups,
// watch. What several packages ask of rtnetlink is here.
//
// In: what an object of the kernel should be. Out: that object, or an error
// that says what was being done to what. A wrapper decides nothing and keeps no
// belief of its own about the kernel; the packages that use it do.
//
// Every write is counted in [Writes], so that a restart with nothing changed
// can be shown to write nothing. A wrapper acts in the network namespace of the
// thread that calls it.
package kernel
