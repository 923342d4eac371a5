package fabric

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel"
)

// SHOAL-FABRIC-LINKS is a set of type hash:net,iface: a source and the device
// its packets come in by. linksRevision is that of its type with prefixes of
// every length (net/netfilter/ipset/ip_set_hash_netiface.c).
const linksRevision = 2

// readLinkSet reads the set; exists tells whether it is there.
func readLinkSet() (found map[linkEntry]struct{}, exists bool, err error) {
	found = map[linkEntry]struct{}{}
	set, err := netlink.IpsetList(setLinks)
	switch {
	case errors.Is(err, unix.ENOENT):
		return found, false, nil
	case err != nil:
		return nil, false, fmt.Errorf("list set %s: %w", setLinks, err)
	}
	for _, e := range set.Entries {
		a := addrOf(e.IP)
		bits := int(e.CIDR)
		if bits == 0 {
			bits = a.BitLen()
		}
		found[linkEntry{netip.PrefixFrom(a, bits), e.IFace}] = struct{}{}
	}
	return found, true, nil
}

func createLinkSet() error {
	kernel.Wrote("ipset", 1)
	if err := netlink.IpsetCreate(setLinks, "hash:net,iface", netlink.IpsetCreateOptions{Revision: linksRevision}); err != nil {
		return fmt.Errorf("create set %s (hash:net,iface): %w; run `modprobe ip_set_hash_netiface` on the host, or install the package with the kernel's extra modules", setLinks, err)
	}
	return nil
}

// changeLinkSet adds an entry, or takes it out.
func changeLinkSet(e linkEntry, add bool) error {
	entry := &netlink.IPSetEntry{IP: e.net.Addr().AsSlice(), CIDR: uint8(e.net.Bits()), IFace: e.dev, Replace: true}
	change := netlink.IpsetDel
	if add {
		change = netlink.IpsetAdd
	}
	kernel.Wrote("ipset", 1)
	if err := change(setLinks, entry); err != nil {
		return fmt.Errorf("change set %s, entry %s,%s: %w", setLinks, e.net, e.dev, err)
	}
	return nil
}
