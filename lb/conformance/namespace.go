package conformance

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace with a thread in it.
type namespace struct {
	name string
	addr netip.Addr // by which others reach it
	work chan func()
	ns   netns.NsHandle
	port atomic.Uint32                  // the last that UDP was sent from
	last atomic.Pointer[sync.WaitGroup] // what its last words wait for, see [namespace.answerLate]
}

// newNamespace makes one, whose thread joins a host if join is not nil.
func newNamespace(t *testing.T, name string, addr netip.Addr, join func() error) *namespace {
	t.Helper()
	n := &namespace{name: name, addr: addr, work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.ns, err = netns.Get()
		}
		if err == nil && join != nil {
			err = join()
		}
		ready <- err
		for f := range n.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	n.must(t, func() error { return up("lo") })
	return n
}

func (n *namespace) close() {
	close(n.work)
	n.ns.Close()
}

// do runs f in the namespace.
func (n *namespace) do(f func() error) (err error) {
	done := make(chan struct{})
	n.work <- func() { defer close(done); err = f() }
	<-done
	return err
}

func (n *namespace) must(t *testing.T, f func() error) {
	t.Helper()
	if err := n.do(f); err != nil {
		t.Fatalf("%s: %v", n.name, err)
	}
}

// sh runs a shell command in the namespace.
func (n *namespace) sh(t *testing.T, command string) (out string) {
	t.Helper()
	n.must(t, func() (err error) { out, err = shell(command); return err })
	return out
}

// set sets kernel parameters, "net/ipv4/ip_forward".
func (n *namespace) set(t *testing.T, value string, names ...string) {
	t.Helper()
	for _, name := range names {
		n.must(t, func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0) })
	}
}

// plug joins the namespace to a bridge of another, as its device eth0.
func (n *namespace) plug(t *testing.T, to *namespace, bridge, port string, addr netip.Prefix, gateway netip.Addr) {
	t.Helper()
	to.must(t, func() error {
		b, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: b.Attrs().Index, Flags: net.FlagUp},
			PeerName:  "eth0", PeerNamespace: netlink.NsFd(n.ns),
		})
	})
	n.must(t, func() error {
		if err := address("eth0", addr); err != nil || !gateway.IsValid() {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: everywhere, Gw: gateway.AsSlice()})
	})
}

var everywhere = &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}

// The rest acts in the namespace of the calling thread.

func shell(command string) (string, error) {
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", command, err, out)
	}
	return string(out), err
}

func iptables(script string) error {
	cmd := exec.Command("iptables-restore", "--noflush")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("iptables-restore: %w: %s", err, out)
	}
	return nil
}

func up(device string) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// address gives a device an address, and has it up.
func address(device string, a netip.Prefix) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(a)}); err != nil {
		return fmt.Errorf("give %s the address %s: %w", device, a, err)
	}
	return netlink.LinkSetUp(l)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// makeBridge makes a bridge that is up.
func makeBridge(name string) error {
	return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, Flags: net.FlagUp}})
}
