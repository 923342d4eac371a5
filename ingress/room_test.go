//go:build e2e

package ingress

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// room is a network namespace with a thread in it.
type room struct {
	work chan func()
	ns   netns.NsHandle
}

// newRoom makes one that lasts as long as the test.
func newRoom(t *testing.T) *room {
	t.Helper()
	r := openRoom(t)
	t.Cleanup(r.close)
	return r
}

func openRoom(t *testing.T) *room {
	t.Helper()
	r := &room{work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			r.ns, err = netns.Get()
		}
		ready <- err
		for f := range r.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	r.must(t, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return r
}

func (r *room) close() {
	close(r.work)
	r.ns.Close()
}

func (r *room) do(f func()) {
	done := make(chan struct{})
	r.work <- func() { defer close(done); f() }
	<-done
}

func (r *room) try(f func() error) (err error) {
	r.do(func() { err = f() })
	return err
}

func (r *room) must(t *testing.T, f func() error) {
	t.Helper()
	if err := r.try(f); err != nil {
		t.Fatal(err)
	}
}

func (r *room) set(t *testing.T, name, value string) {
	t.Helper()
	r.must(t, func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0) })
}

// plug joins a room to a bridge of another, with an address and a gateway.
func plug(t *testing.T, bridge *room, br string, r *room, addr, gw string) (unplug func() error) {
	t.Helper()
	ip := netip.MustParsePrefix(addr).Addr().As4()
	port := fmt.Sprintf("p%x", ip)
	bridge.must(t, func() error {
		b, err := netlink.LinkByName(br)
		if err != nil {
			return err
		}
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: b.Attrs().Index, Flags: net.FlagUp},
			PeerName:  "eth0", PeerNamespace: netlink.NsFd(r.ns),
			// The next one with that address has it too, as with an engine.
			PeerHardwareAddr: net.HardwareAddr{2, 0x42, ip[0], ip[1], ip[2], ip[3]},
		})
	})
	r.must(t, func() error { return configure("eth0", addr, gw) })
	return func() error {
		return bridge.try(func() error { return netlink.LinkDel(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: port}}) })
	}
}

func configure(dev, addr, gw string) error {
	l, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(l, a); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return err
	}
	if gw == "" {
		return nil
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: everywhere, Gw: net.ParseIP(gw)})
}

func bridge(t *testing.T, r *room, name string) {
	t.Helper()
	r.must(t, func() error {
		l := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
		if err := netlink.LinkAdd(l); err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	})
}

// serve answers on ports, TCP and UDP, until it is stopped or the test ends:
// "NAME CLIENT'S-ADDRESS PORT".
func (r *room) serve(t *testing.T, name string, ports ...int) (stop func()) {
	t.Helper()
	var open []io.Closer
	stop = func() {
		for _, c := range open {
			c.Close()
		}
	}
	t.Cleanup(stop)
	for _, p := range ports {
		r.must(t, func() error {
			l, err := net.Listen("tcp4", fmt.Sprintf(":%d", p))
			if err != nil {
				return err
			}
			u, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", p))
			if err != nil {
				return err
			}
			open = append(open, l, u)
			go serveTCP(l, name, p)
			go serveUDP(u, name, p)
			return nil
		})
	}
	return stop
}

// serveTCP greets, and counts what it is sent.
func serveTCP(l net.Listener, name string, port int) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			fmt.Fprintf(c, "%s %s %d\n", name, c.RemoteAddr().(*net.TCPAddr).IP, port)
			n, _ := io.Copy(io.Discard, c)
			fmt.Fprintf(c, "%d\n", n)
		}()
	}
}

func serveUDP(u net.PacketConn, name string, port int) {
	b := make([]byte, 2000)
	for {
		_, from, err := u.ReadFrom(b)
		if err != nil {
			return
		}
		u.WriteTo(fmt.Appendf(nil, "%s %s %d\n", name, from.(*net.UDPAddr).IP, port), from)
	}
}

// answer is what a task said: who it is, whom it saw, on which port.
type answer struct {
	task string
	seen netip.Addr
	port int
}

const patience = 10 * time.Second

// ask makes one request from the room.
func (r *room) ask(network, addr string) (answer, error) {
	return r.askWithin(patience, network, addr)
}

func (r *room) askWithin(limit time.Duration, network, addr string) (a answer, err error) {
	r.do(func() {
		var c net.Conn
		if c, err = net.DialTimeout(network+"4", addr, limit); err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(limit))
		if network == "udp" {
			if _, err = c.Write([]byte("?")); err != nil {
				return
			}
		}
		b := make([]byte, 200)
		var n int
		if n, err = c.Read(b); err != nil {
			return
		}
		var ip string
		if _, err = fmt.Sscanf(string(b[:n]), "%s %s %d", &a.task, &ip, &a.port); err == nil {
			a.seen = netip.MustParseAddr(ip)
		}
	})
	return a, err
}

// refused tells whether an error says that nobody is there.
func refused(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }
