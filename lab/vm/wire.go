package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Network is what the wire's addresses are of. The neighbour has the first one, and machines those of their number.
var Network = netip.MustParsePrefix("192.168.77.0/24")

// address is the n-th of the wire.
func address(n int) netip.Addr {
	a := Network.Addr().As4()
	a[3] += byte(n)
	return netip.AddrFrom4(a)
}

// bridge is the wire itself, in its namespace.
const bridge = "wire"

// Wire is a link that machines are plugged into. It is the neighbour as well: a network namespace with an address on it.
type Wire struct {
	ns netns.NsHandle
}

// NewWire makes a link in a network namespace of its own, which nothing else of this machine is joined to.
func NewWire() (*Wire, error) {
	w := &Wire{ns: netns.None()}
	if err := apart(func() (err error) { w.ns, err = netns.New(); return err }); err != nil {
		return nil, fmt.Errorf("make a network namespace for the wire (it needs root): %w", err)
	}
	if err := w.lay(); err != nil {
		return nil, errors.Join(fmt.Errorf("make the wire: %w", err), w.Close())
	}
	return w, nil
}

func (w *Wire) lay() error {
	h, err := netlink.NewHandleAt(w.ns)
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	// Groups are no matter here, and a bridge that learns them delays what it floods.
	snooping := false
	link := &netlink.Bridge{
		LinkAttrs:         netlink.LinkAttrs{Name: bridge, HardwareAddr: net.HardwareAddr{0x52, 0x54, 0, 0x77, 0, 1}},
		MulticastSnooping: &snooping,
	}
	if err := h.LinkAdd(link); err != nil {
		return err
	}
	own, err := netlink.ParseAddr(netip.PrefixFrom(w.Addr(), Network.Bits()).String())
	if err != nil {
		return err
	}
	return errors.Join(h.AddrAdd(link, own), h.LinkSetUp(link), h.LinkSetUp(lo))
}

// Close removes the wire. Machines on it are unplugged.
func (w *Wire) Close() error { return w.ns.Close() }

// Addr is the neighbour's address.
func (w *Wire) Addr() netip.Addr { return address(1) }

// tap makes a network card's other end, plugged into the wire. QEMU is given the file.
func (w *Wire) tap(name string) (file *os.File, err error) {
	err = w.do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		file = os.NewFile(uintptr(fd), name)
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	})
	if err == nil {
		err = w.plug(name)
	}
	if err != nil {
		if file != nil {
			file.Close()
		}
		return nil, fmt.Errorf("make the device %s: %w", name, err)
	}
	return file, nil
}

func (w *Wire) plug(name string) error {
	h, err := netlink.NewHandleAt(w.ns)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	master, err := h.LinkByName(bridge)
	if err != nil {
		return err
	}
	return errors.Join(h.LinkSetMaster(link, master), h.LinkSetUp(link))
}

// Exec runs a command as the neighbour and returns its output.
func (w *Wire) Exec(ctx context.Context, args ...string) (string, error) {
	var out, errs strings.Builder
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := w.do(cmd.Start); err != nil {
		return "", fmt.Errorf("neighbour: start %s: %w", args[0], err)
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("neighbour: %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

// do calls f in the wire's namespace.
func (w *Wire) do(f func() error) error {
	return apart(func() error {
		if err := netns.Set(w.ns); err != nil {
			return err
		}
		return f()
	})
}

// apart calls f on a thread that nothing runs on afterwards, as its namespace is changed.
func apart(f func() error) (err error) {
	var done sync.WaitGroup
	done.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err = f()
	})
	done.Wait()
	return err
}
