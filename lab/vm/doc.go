// Package vm makes virtual machines of stock distributions, to test shoal on what people have: their kernel, their engine,
// their init system, their firewalls. QEMU emulates them in software, so that no virtualization is needed; root is.
//
//	wire, err := vm.NewWire()                                // a link, and a neighbour on it: 192.168.77.1
//	image, err := vm.Suite("trixie").Image(ctx, cache, say)  // from the cache, or made there by debootstrap
//	a, err := vm.Start(ctx, vm.Config{Name: "a", Image: image, Wire: wire, Number: 11, Dir: dir})
//	out, err := a.Run(ctx, "docker version")
//
// # What there is
//
//	neighbour 192.168.77.1      a 192.168.77.11       b 192.168.77.12     ...
//	      └──────────────────────────┴──────── wire ──────────┴───
//
// The wire is a bridge in a network namespace of its own; that namespace is the neighbour: somebody on the link who belongs
// to no cluster, and who may send what he likes. Each machine has two network cards: eth0 leads to QEMU alone, for ssh by a
// forwarded port of the loopback device and nothing else; eth1 is plugged into the wire, and is the way of the default route.
//
// # Images
//
// An [Image] is a kernel, its initial file system and a disk, made of a suite of Debian by debootstrap, from the mirror that
// this machine's apt uses. It is cached by a key of the suite, the packages and the recipe. Machines write to overlays of
// their own, which are gone with them.
package vm
