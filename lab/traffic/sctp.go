package traffic

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Go's net has no SCTP. One-to-one style sockets (RFC 6458, section 4) work like those of TCP, so that a descriptor and
// its addresses are all that a net.Conn needs.
type sctpConn struct {
	*os.File
	local, remote netip.AddrPort
}

func (c *sctpConn) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c *sctpConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

func dialSCTP(ctx context.Context, addr string, o Options) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	number, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return nil, err
	}
	to := netip.AddrPortFrom(addrs[0].Unmap(), uint16(number))
	fd, err := sctpSocket(to.Addr())
	if err != nil {
		return nil, err
	}
	fail := func(err error) (net.Conn, error) {
		unix.Close(fd)
		return nil, fmt.Errorf("dial sctp %s: %w", addr, err)
	}
	if o.Port != nil {
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(netip.IPv4Unspecified(), o.Port()))); err != nil {
			return fail(err)
		}
	}
	// A connect that waits is cut short by any signal, the runtime's own as well; so it is begun, and waited for apart.
	if err := unix.SetNonblock(fd, true); err != nil {
		return fail(err)
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil && err != unix.EINPROGRESS && err != unix.EINTR {
		return fail(err)
	}
	c := &sctpConn{File: os.NewFile(uintptr(fd), "sctp")}
	if err := c.established(time.Now().Add(o.Timeout)); err != nil {
		c.Close()
		return nil, fmt.Errorf("dial sctp %s: %w", addr, err)
	}
	return c, nil
}

// established waits until the connection that was begun is there, and then knows its addresses.
func (c *sctpConn) established(deadline time.Time) error {
	if err := c.SetWriteDeadline(deadline); err != nil {
		return err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 {
			err = unix.Errno(errno)
		}
		if err == unix.ENOPROTOOPT {
			err = unix.ECONNREFUSED // an ICMP "protocol unreachable", of which a connect that blocks says so
		}
		if err == nil {
			c.local, c.remote, err = addresses(int(fd))
			if err == unix.ENOTCONN {
				return false
			}
		}
		failed = err
		return true
	})
	return cmp.Or(err, failed)
}

// ListenSCTP serves every connection to port in a goroutine of its own. It returns only when it fails.
func ListenSCTP(port uint16, serve func(net.Conn)) error {
	at := netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	fd, err := sctpSocket(at.Addr())
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, sockaddr(at)); err != nil {
		return fmt.Errorf("bind sctp port %d: %w", port, err)
	}
	if err := unix.Listen(fd, 128); err != nil {
		return fmt.Errorf("listen on sctp port %d: %w", port, err)
	}
	for {
		peer, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		switch err {
		case nil:
		case unix.EINTR, unix.ECONNABORTED:
			continue
		default:
			return fmt.Errorf("accept on sctp port %d: %w", port, err)
		}
		conn, err := newSCTP(peer)
		if err != nil {
			continue // it is gone already
		}
		go serve(conn)
	}
}

func sctpSocket(addr netip.Addr) (int, error) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return -1, fmt.Errorf("make an SCTP socket: %w", err)
	}
	return fd, nil
}

// newSCTP makes a connection of a connected descriptor, which it owns from here on.
func newSCTP(fd int) (net.Conn, error) {
	local, remote, err := addresses(fd)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("SCTP connection: %w", err)
	}
	return &sctpConn{os.NewFile(uintptr(fd), "sctp"), local, remote}, nil
}

func addresses(fd int) (local, remote netip.AddrPort, err error) {
	l, err := unix.Getsockname(fd)
	if err != nil {
		return local, remote, err
	}
	r, err := unix.Getpeername(fd)
	if err != nil {
		return local, remote, err
	}
	return addrPort(l), addrPort(r), nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
