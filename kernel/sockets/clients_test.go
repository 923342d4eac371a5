//go:build e2e

package sockets

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// clientsEnv has the test's program be a process with connected sockets.
const clientsEnv = "SHOAL_TEST_CLIENTS"

// kind is a kind of socket that has a peer.
type kind struct {
	name           string
	family, socket int
	peer           unix.Sockaddr // its port is that of the echo server, but for one to whom nobody answers
}

// nobody is the address of a neighbour that does not exist.
var (
	nobody   = [4]byte{192, 0, 2, 2}
	local    = [4]byte{127, 0, 0, 1}
	mapped   = [16]byte{10: 0xff, 11: 0xff, 12: 127, 15: 1} // ::ffff:127.0.0.1
	onDevice = "192.0.2.1/24"
)

var kinds = []kind{
	{"tcp", unix.AF_INET, unix.SOCK_STREAM, &unix.SockaddrInet4{Addr: local}},
	{"tcp-mapped", unix.AF_INET6, unix.SOCK_STREAM, &unix.SockaddrInet6{Addr: mapped}},
	{"tcp-connecting", unix.AF_INET, unix.SOCK_STREAM, &unix.SockaddrInet4{Addr: nobody, Port: 8000}},
	{"udp", unix.AF_INET, unix.SOCK_DGRAM, &unix.SockaddrInet4{Addr: local}},
	{"udp-mapped", unix.AF_INET6, unix.SOCK_DGRAM, &unix.SockaddrInet6{Addr: mapped}},
}

// connecting says that no connection comes about.
func (k kind) connecting() bool {
	to, ok := k.peer.(*unix.SockaddrInet4)
	return ok && to.Addr == nobody
}

// client is one socket.
type client struct {
	kind
	fd int
}

// runClients says the cookie of one socket of each kind, and what its owner, who
// waits for it, is told in the end. On "check" it says how the other ones are.
func runClients() error {
	if err := buildNetwork(); err != nil {
		return err
	}
	tcp, udp, err := serve()
	if err != nil {
		return err
	}
	var left []client
	for _, k := range kinds {
		switch to := k.peer.(type) {
		case *unix.SockaddrInet4:
			if !k.connecting() {
				to.Port = portOf(k, tcp, udp)
			}
		case *unix.SockaddrInet6:
			to.Port = portOf(k, tcp, udp)
		}
		victim, err := connect(k)
		if err != nil {
			return err
		}
		cookie, err := unix.GetsockoptUint64(victim.fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		if err != nil {
			return err
		}
		fmt.Println(k.name, cookie)
		other, err := connect(k)
		if err != nil {
			return err
		}
		left = append(left, other)
		go func() { fmt.Println(k.name, victim.wait()) }()
	}
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		for _, c := range left {
			fmt.Println(c.name, c.how())
		}
	}
	return nil
}

// buildNetwork sets the loopback device up, and a bridge without ports: what is
// sent over that, arrives nowhere.
func buildNetwork() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "nowhere"}}
	addr, err := netlink.ParseAddr(onDevice)
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetUp(lo), netlink.LinkAdd(bridge), netlink.AddrAdd(bridge, addr), netlink.LinkSetUp(bridge),
		netlink.NeighAdd(&netlink.Neigh{
			LinkIndex: bridge.Attrs().Index, IP: net.IP(nobody[:]),
			HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}, State: netlink.NUD_PERMANENT,
		}))
}

// serve sends back what comes by TCP and UDP.
func serve() (tcp, udp int, err error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				b := make([]byte, 1)
				for n, err := c.Read(b); err == nil; n, err = c.Read(b) {
					_, _ = c.Write(b[:n])
				}
			}()
		}
	}()
	u, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	go func() {
		b := make([]byte, 1)
		for n, from, err := u.ReadFrom(b); err == nil; n, from, err = u.ReadFrom(b) {
			_, _ = u.WriteTo(b[:n], from)
		}
	}()
	return l.Addr().(*net.TCPAddr).Port, u.LocalAddr().(*net.UDPAddr).Port, nil
}

func portOf(k kind, tcp, udp int) int {
	if k.socket == unix.SOCK_STREAM {
		return tcp
	}
	return udp
}

// connect opens a socket of a kind, and connects it.
func connect(k kind) (client, error) {
	kind := k.socket | unix.SOCK_CLOEXEC
	if k.connecting() {
		kind |= unix.SOCK_NONBLOCK
	}
	fd, err := unix.Socket(k.family, kind, 0)
	if err != nil {
		return client{}, err
	}
	if err := unix.Connect(fd, k.peer); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return client{}, fmt.Errorf("connect %s: %w", k.name, err)
	}
	return client{k, fd}, nil
}

// wait waits until the socket's owner is told something.
func (c client) wait() error {
	if c.connecting() {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLOUT}}, -1); err != nil {
			return err
		}
		return c.pending()
	}
	n, err := unix.Read(c.fd, make([]byte, 1))
	if err == nil {
		err = fmt.Errorf("%d bytes came", n)
	}
	return err
}

// pending is the error that the socket has.
func (c client) pending() error {
	n, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && n != 0 {
		err = unix.Errno(n)
	}
	return err
}

// how says whether the socket lives: that what it sends comes back.
func (c client) how() string {
	if c.connecting() {
		info, err := unix.GetsockoptTCPInfo(c.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err = errors.Join(err, c.pending()); err != nil {
			return err.Error()
		}
		if info.State != diagSynSent {
			return fmt.Sprintf("is in state %d", info.State)
		}
		return "lives"
	}
	limit := unix.NsecToTimeval((5 * time.Second).Nanoseconds())
	if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err.Error()
	}
	if _, err := unix.Write(c.fd, []byte("x")); err != nil {
		return err.Error()
	}
	if n, err := unix.Read(c.fd, make([]byte, 1)); n != 1 || err != nil {
		return fmt.Sprintf("%d bytes, %v", n, err)
	}
	return "lives"
}
