package ipvs

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"shoal/kernel"
)

// sandbox is a network namespace with a name, and its link to the host. The
// name keeps it while no process is in it.
type sandbox struct {
	path string
	ns   netns.NsHandle // netns.None() while it is not open
}

// open finds the sandbox or makes it. Made tells that what was known of the
// kernel in it is not true any more.
func (s *sandbox) open() (made bool, err error) {
	if !isNamespace(s.path) {
		if err := makeNamespace(s.path); err != nil {
			return false, fmt.Errorf("make the network namespace %s: %w", s.path, err)
		}
		kernel.Wrote("netns", 1)
		made = true
	}
	ns, err := netns.GetFromPath(s.path)
	if err != nil {
		return false, fmt.Errorf("open the network namespace %s: %w", s.path, err)
	}
	if made = made || !s.ns.IsOpen() || !s.ns.Equal(ns); !made {
		return false, ns.Close()
	}
	s.close()
	s.ns = ns
	return true, nil
}

func (s *sandbox) close() {
	if s.ns.IsOpen() {
		s.ns.Close()
	}
}

// do calls f in the sandbox.
func (s *sandbox) do(f func() error) error {
	return kernel.OnThread(func() error {
		if err := netns.Set(s.ns); err != nil {
			return fmt.Errorf("enter the network namespace %s: %w", s.path, err)
		}
		return f()
	})
}

// isNamespace tells whether there is a namespace by that name, and not just a
// file that a namespace was once named by.
func isNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// makeNamespace makes one as ip-netns(8) does, so that `ip netns exec` can be
// used to look into it.
func makeNamespace(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	return kernel.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, "")
	})
}

func removeNamespace(path string) error {
	if isNamespace(path) {
		kernel.Wrote("netns", 1)
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("remove the network namespace %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the network namespace %s: %w", path, err)
	}
	return nil
}

// connect keeps the link between the host and the sandbox, with its addresses,
// and the sandbox's way out.
func (s *sandbox) connect() error {
	inside, err := netlink.NewHandleAt(s.ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in the sandbox: %w", err)
	}
	defer inside.Close()
	outside, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer outside.Close()
	if err := s.pair(outside, inside); err != nil {
		return fmt.Errorf("make the link %s to the sandbox: %w", hostDev, err)
	}
	lo, err := inside.LinkByName("lo")
	if err == nil {
		err = up(inside, lo)
	}
	if err == nil {
		err = address(outside, hostDev, hostAddr)
	}
	if err == nil {
		err = address(inside, sandboxDev, sandboxAddr)
	}
	if err == nil {
		err = wayOut(inside)
	}
	if err != nil {
		return fmt.Errorf("set up the sandbox: %w", err)
	}
	return nil
}

// pair makes sure that the two devices are there and are the two ends of one
// link.
func (s *sandbox) pair(outside, inside *netlink.Handle) error {
	here, err := outside.LinkByName(hostDev)
	if err == nil {
		there, err := inside.LinkByName(sandboxDev)
		if err == nil && here.Attrs().ParentIndex == there.Attrs().Index && there.Attrs().ParentIndex == here.Attrs().Index {
			return nil
		}
		if here.Type() != "veth" {
			return fmt.Errorf("the host has a device of that name, of type %s: rename it", here.Type())
		}
		// To a sandbox that is not there any more.
		kernel.Wrote("link", 1)
		if err := outside.LinkDel(here); err != nil {
			return err
		}
	} else if !isNotFound(err) {
		return err
	}
	kernel.Wrote("link", 1)
	return outside.LinkAdd(&netlink.Veth{
		// The link limits no packet: the devices it goes out by do, and say so.
		LinkAttrs:     netlink.LinkAttrs{Name: hostDev, MTU: 65535},
		PeerName:      sandboxDev,
		PeerNamespace: netlink.NsFd(s.ns),
	})
}

// address gives a device its address, with the scope of the link: the kernel
// never chooses it as the source of anything that goes further. And it keeps
// the device up.
func address(h *netlink.Handle, dev string, a netip.Addr) error {
	link, err := h.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("find the device %s: %w", dev, err)
	}
	have, err := h.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list the addresses of %s: %w", dev, err)
	}
	want := netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(linkNet.Bits(), 32)}, Scope: unix.RT_SCOPE_LINK}
	if !slices.ContainsFunc(have, func(h netlink.Addr) bool { return h.IPNet.String() == want.IPNet.String() }) {
		kernel.Wrote("link", 1)
		if err := h.AddrAdd(link, &want); err != nil {
			return fmt.Errorf("give %s the address %s: %w", dev, a, err)
		}
	}
	return up(h, link)
}

func up(h *netlink.Handle, link netlink.Link) error {
	if link.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	kernel.Wrote("link", 1)
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", link.Attrs().Name, err)
	}
	return nil
}

// wayOut is the sandbox's only route: everything goes by way of the host.
func wayOut(h *netlink.Handle) error {
	link, err := h.LinkByName(sandboxDev)
	if err != nil {
		return fmt.Errorf("find the device %s: %w", sandboxDev, err)
	}
	have, err := h.RouteList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list the routes: %w", err)
	}
	gw := net.IP(hostAddr.AsSlice())
	if slices.ContainsFunc(have, func(r netlink.Route) bool { return isDefault(&r) && r.Gw.Equal(gw) }) {
		return nil
	}
	kernel.Wrote("route", 1)
	if err := h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: everywhere, Gw: gw, Protocol: routeProtocol}); err != nil {
		return fmt.Errorf("add the default route: %w", err)
	}
	return nil
}

// everywhere is the destination of a default route.
var everywhere = &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}

func isDefault(r *netlink.Route) bool {
	return r.Dst == nil || r.Dst.String() == everywhere.String()
}

func isNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}
