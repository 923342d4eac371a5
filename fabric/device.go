package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"

	"shoal/fabric/transport"
	"shoal/kernel"
	"shoal/kernel/sysctl"
	"shoal/model"
)

// readDevice is a device as it is; nil: no tunnel knows of what kind it is.
func readDevice(name string, t transport.Tunnel) (d transport.Device, err error) {
	fail := func(what string, err error) (transport.Device, error) {
		return transport.Device{}, fmt.Errorf("read the device %s: %s%w", name, what, err)
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fail("", err)
	}
	at := l.Attrs()
	d = transport.Device{Name: name, MTU: at.MTU, Up: at.Flags&net.FlagUp != 0}
	if t != nil {
		if d.Made, d.Feature, err = t.Read(l); err != nil {
			return fail("", err)
		}
	}
	addrs, err := kernel.Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_V4) })
	if err != nil {
		return fail("list its addresses: ", err)
	}
	if len(addrs) == 1 { // more than one is as wrong as none
		d.Addr = addrOf(addrs[0].IP)
	}
	rpFilter, err := sysctl.Get(sysctl.IPv4(name, "rp_filter"))
	if err != nil {
		return fail("", err)
	}
	d.Loose = rpFilter == "2"
	return d, nil
}

// makeDevice makes a device that is not there, ready for use.
func makeDevice(t transport.Tunnel, d transport.Device) error {
	kernel.Wrote("link", 1)
	if err := netlink.LinkAdd(t.Link(d)); err != nil {
		return fmt.Errorf("make the device %s: %w", d.Name, t.Hint(d, err))
	}
	have, err := readDevice(d.Name, t)
	if err == nil {
		err = setDevice(t, have, d)
	}
	if err != nil {
		return t.Hint(d, err)
	}
	return nil
}

// setDevice changes what can be changed.
func setDevice(t transport.Tunnel, have, want transport.Device) error {
	l, err := netlink.LinkByName(want.Name)
	if err != nil {
		return fmt.Errorf("find the device %s: %w", want.Name, err)
	}
	do := func(what string, differ bool, f func() error) {
		if err == nil && differ {
			kernel.Wrote("link", 1)
			if err = f(); err != nil {
				err = fmt.Errorf("device %s: %s%w", want.Name, what, err)
			}
		}
	}
	do(fmt.Sprintf("set its MTU to %d: ", want.MTU), have.MTU != want.MTU, func() error { return netlink.LinkSetMTU(l, want.MTU) })
	if err == nil && have.Loose != want.Loose {
		err = sysctl.Set(sysctl.IPv4(want.Name, "rp_filter"), "2")
	}
	do("", have.Feature != want.Feature, func() error { return t.SetFeature(want) })
	do("give it the address "+want.Addr.String()+": ", have.Addr != want.Addr, func() error { return setAddr(l, want.Addr) })
	do("set it up: ", have.Up != want.Up, func() error { return netlink.LinkSetUp(l) })
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

// readAddrs are the addresses of this host's devices, but for its tunnels and
// the loopback device.
func readAddrs() ([]transport.Addr, error) {
	list, err := kernel.Dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	byIndex := map[int]*netlink.LinkAttrs{}
	for _, l := range list {
		byIndex[l.Attrs().Index] = l.Attrs()
	}
	addrs, err := kernel.Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var found []transport.Addr
	for _, a := range addrs {
		at := byIndex[a.LinkIndex]
		if at == nil || at.Flags&net.FlagLoopback != 0 || ownDevice(at.Name) || !prefixOf(a.IPNet).IsValid() {
			continue
		}
		l := transport.Addr{Device: at.Name, Addr: addrOf(a.IP), Net: prefixOf(a.IPNet).Masked(), MTU: at.MTU}
		if a.Peer != nil && prefixOf(a.Peer).IsValid() { // point to point: the far end's network
			l.Net = prefixOf(a.Peer).Masked()
		}
		if len(at.HardwareAddr) == len(l.MAC) && at.EncapType == "ether" {
			l.MAC, l.Ether = model.MAC(at.HardwareAddr), true
		}
		found = append(found, l)
	}
	return found, nil
}

// find is the entry of one of this host's addresses; nil: it has it not.
func find(a netip.Addr, addrs []transport.Addr) *transport.Addr {
	for i := range addrs {
		if addrs[i].Addr == a {
			return &addrs[i]
		}
	}
	return nil
}

func ownDevice(name string) bool { return strings.HasPrefix(name, transport.Prefix) }

// Card is a device of this host.
type Card struct {
	Name     string
	MAC      model.MAC // zero: it has none
	MTU      int       // octets
	Prefixes []netip.Prefix
}

// NIC is the device of this host that has the address.
func NIC(addr netip.Addr) (Card, error) {
	addrs, err := readAddrs()
	if err != nil {
		return Card{}, err
	}
	own := find(addr, addrs)
	if own == nil {
		return Card{}, fmt.Errorf("no device of this host has the address %s: name one that is with --advertise", addr)
	}
	c := Card{Name: own.Device, MAC: own.MAC, MTU: own.MTU}
	for _, a := range addrs {
		if a.Device == own.Device {
			c.Prefixes = append(c.Prefixes, netip.PrefixFrom(a.Addr, a.Net.Bits()))
		}
	}
	return c, nil
}

// deviceNames are the names of all devices by index.
func deviceNames() (map[int]string, error) {
	list, err := kernel.Dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	names := map[int]string{}
	for _, l := range list {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names, nil
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
