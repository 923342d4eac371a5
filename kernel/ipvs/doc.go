// Package ipvs reads and writes the kernel's virtual services, those that are
// known by a firewall mark.
//
// In: services and destinations. Out: the same in the kernel, by netlink
// (github.com/moby/ipvs); the whole table is read by socket options, which is
// many times faster. IPv4 only.
//
// It touches no service that has an address instead of a mark.
package ipvs
