//go:build e2e

package ipvs

import (
	"net"
	"net/netip"
	"os"
	"syscall"
)

// Go's net package makes no SCTP sockets, but takes them: with one stream they
// are used like TCP's (RFC 6458 section 4).

func socketSCTP() (*os.File, int, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, syscall.IPPROTO_SCTP)
	return os.NewFile(uintptr(fd), "sctp"), fd, os.NewSyscallError("SCTP socket", err)
}

func listenSCTP(port int) (net.Listener, error) {
	f, fd, err := socketSCTP()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: port}); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	if err := syscall.Listen(fd, 5); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	return net.FileListener(f)
}

func dialSCTP(to netip.AddrPort) (net.Conn, error) {
	f, fd, err := socketSCTP()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// A connect that nobody answers would wait for minutes.
	syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &syscall.Timeval{Sec: 2})
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(f)
}
