// Package managers tells the programs that manage this host's network to leave
// alone what shoal has there.
//
// In: the names of shoal's devices. Out: systemd-networkd gets a file in its
// folder of settings that last until the next boot; NetworkManager is told over
// D-Bus, which lasts as long as the device. Nothing is written below /etc, and
// where one of the two is not there, nothing is done for it. [Down] removes the
// file.
//
// systemd-networkd, when it starts, removes every routing rule that it did not
// make, and every route on the devices that it manages, but for those of protocol
// "kernel" (link_drop_foreign_config in src/network/networkd-link.c). The rules of
// shoal have that protocol; its routes over network cards need the file.
//
// NetworkManager takes a device that others made for one of its own as soon as
// a connection profile fits it, and one that fits any bridge is enough.
package managers
