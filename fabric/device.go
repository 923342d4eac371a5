package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/kernel/sysctl"
	"shoal/model"
)

// readDevice is one of our devices as it is; false: it is not there.
func readDevice(name string) (d device, index int, exists bool, err error) {
	l, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return device{}, 0, false, nil
	}
	if err != nil {
		return device{}, 0, false, fmt.Errorf("read the device %s: %w", name, err)
	}
	at := l.Attrs()
	d = device{name: name, kind: l.Type(), mtu: at.MTU, up: at.Flags&net.FlagUp != 0}
	switch l := l.(type) {
	case *netlink.Vxlan:
		vxlanDevice(l, &d)
		on, err := txChecksum(name)
		if err != nil {
			return device{}, 0, false, err
		}
		d.checksumOff = !on
	case *netlink.Iptun:
		ipipDevice(l, &d)
	}
	addrs, err := retry(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_V4) })
	if err != nil {
		return device{}, 0, false, fmt.Errorf("list the addresses of %s: %w", name, err)
	}
	if len(addrs) == 1 { // more than one is as wrong as none
		d.addr = addrOf(addrs[0].IP)
	}
	rpFilter, err := sysctl.Get(sysctl.IPv4(name, "rp_filter"))
	if err != nil {
		return device{}, 0, false, err
	}
	d.loose = rpFilter == "2"
	return d, at.Index, true, nil
}

// makeDevice makes a device that is not there, ready for use.
func makeDevice(d device) error {
	l, hint := ipipLink(&d), ipipHint
	if d.kind == "vxlan" {
		l, hint = vxlanLink(&d), func(err error) error { return vxlanHint(&d, err) }
	}
	kernel.Wrote("link", 1)
	if err := netlink.LinkAdd(l); err != nil {
		return fmt.Errorf("make the device %s: %w", d.name, hint(err))
	}
	have, _, _, err := readDevice(d.name)
	if err == nil {
		err = setDevice(have, d)
	}
	if err != nil {
		return hint(err)
	}
	return nil
}

// setDevice changes what can be changed.
func setDevice(have, want device) error {
	l, err := netlink.LinkByName(want.name)
	if err != nil {
		return fmt.Errorf("find the device %s: %w", want.name, err)
	}
	do := func(facility, what string, differ bool, f func() error) {
		if err == nil && differ {
			kernel.Wrote(facility, 1)
			if err = f(); err != nil {
				err = fmt.Errorf("device %s: %s: %w", want.name, what, err)
			}
		}
	}
	do("link", fmt.Sprintf("set its MTU to %d", want.mtu), have.mtu != want.mtu, func() error {
		return netlink.LinkSetMTU(l, want.mtu)
	})
	if err == nil && have.loose != want.loose {
		err = sysctl.Set(sysctl.IPv4(want.name, "rp_filter"), "2")
	}
	do("link", "set checksum offload", have.checksumOff != want.checksumOff, func() error {
		return setTxChecksum(want.name, !want.checksumOff)
	})
	do("link", "give it the address "+want.addr.String(), have.addr != want.addr, func() error {
		return setAddr(l, want.addr)
	})
	do("link", "set it up", have.up != want.up, func() error { return netlink.LinkSetUp(l) })
	return err
}

// setAddr makes that address the device's only one.
func setAddr(l netlink.Link, a netip.Addr) error {
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, old := range addrs {
		if err := netlink.AddrDel(l, &old); err != nil {
			return err
		}
	}
	return netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen()))})
}

// dropDevice removes a device; one that is not there is not an error.
func dropDevice(name string) error {
	l, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		kernel.Wrote("link", 1)
		err = netlink.LinkDel(l)
	}
	if err != nil {
		return fmt.Errorf("remove the device %s: %w", name, err)
	}
	return nil
}

// readLinks are the addresses of this host's devices, but for its tunnels and
// the loopback device.
func readLinks() ([]link, error) {
	list, err := retry(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	byIndex := map[int]*netlink.LinkAttrs{}
	for _, l := range list {
		byIndex[l.Attrs().Index] = l.Attrs()
	}
	addrs, err := retry(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var links []link
	for _, a := range addrs {
		at := byIndex[a.LinkIndex]
		if at == nil || at.Flags&net.FlagLoopback != 0 || ownDevice(at.Name) || !prefixOf(a.IPNet).IsValid() {
			continue
		}
		l := link{dev: at.Name, addr: addrOf(a.IP), net: prefixOf(a.IPNet).Masked(), mtu: at.MTU}
		if a.Peer != nil && prefixOf(a.Peer).IsValid() { // point to point: the far end's network
			l.net = prefixOf(a.Peer).Masked()
		}
		if len(at.HardwareAddr) == len(l.mac) && at.EncapType == "ether" {
			l.mac, l.ether = model.MAC(at.HardwareAddr), true
		}
		links = append(links, l)
	}
	return links, nil
}

func ownDevice(name string) bool { return name == vxlanName || name == ipipName }

// Card is a device of this host.
type Card struct {
	Name     string
	MAC      model.MAC // zero: it has none
	MTU      int       // octets
	Prefixes []netip.Prefix
}

// NIC is the device of this host that has the address.
func NIC(addr netip.Addr) (Card, error) {
	links, err := readLinks()
	if err != nil {
		return Card{}, err
	}
	own := linkOf(addr, links)
	if own == nil {
		return Card{}, fmt.Errorf("no device of this host has the address %s: name one that is with --advertise", addr)
	}
	c := Card{Name: own.dev, MAC: own.mac, MTU: own.mtu}
	for _, l := range links {
		if l.dev == own.dev {
			c.Prefixes = append(c.Prefixes, netip.PrefixFrom(l.addr, l.net.Bits()))
		}
	}
	return c, nil
}

// deviceNames are the names of all devices by index.
func deviceNames() (map[int]string, error) {
	list, err := retry(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	names := map[int]string{}
	for _, l := range list {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names, nil
}

// retry asks again where the kernel's answer was cut short by a change that
// came between (NLM_F_DUMP_INTR).
func retry[T any](list func() ([]T, error)) (found []T, err error) {
	for range 5 {
		if found, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return found, err
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addrOf(n.IP), bits)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
