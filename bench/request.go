package bench

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// A caller works by plain system calls on blocking sockets: whatever it did
// beyond that would hide what is measured.

// replySize is how many bytes a task is asked for where the number does not
// matter. Asked for who it is, it would ask the kernel for its addresses.
const replySize = 100

// path is the way from an address of a caller's to a port. Those that lead to the
// same task begin at different addresses: it is told the client's own through a
// VIP too, and could not tell one from the other where they happen to have one port.
type path struct {
	*caller
	from netip.Addr // invalid: the kernel's choice
	to   netip.AddrPort
}

// dial opens a connection. No call on it takes longer than limit.
func (p path) dial(limit time.Duration) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	tv := unix.NsecToTimeval(limit.Nanoseconds())
	for _, opt := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} { // the second is connect's too, socket(7)
		if err == nil {
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, opt, &tv)
		}
	}
	if err == nil && p.from.IsValid() {
		err = bind(fd, p.from)
	}
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(p.to.Port()), Addr: p.to.Addr().As4()})
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect from %s to %s: %w", p.from, p.to, err)
	}
	return fd, nil
}

// bind gives a socket an address. The port is connect's to choose: among those free
// towards where it goes, ip(7).
func bind(fd int, from netip.Addr) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()})
}

// request asks for n bytes; keep says whether the connection stays open. Where it
// does not, the server closes it after the answer.
func request(n int, keep bool) []byte {
	version := "1.0"
	if keep {
		version = "1.1"
	}
	return fmt.Appendf(nil, "GET /bytes?n=%d HTTP/%s\r\nHost: web\r\n\r\n", n, version)
}

var (
	requestKept = request(replySize, true)
	requestOnce = request(replySize, false)
	requestBulk = request(bulk, true)
)

// askKept makes a request on a connection that stays open.
func askKept(fd int, buf []byte) error {
	if _, err := unix.Write(fd, requestKept); err != nil {
		return fmt.Errorf("send a request: %w", err)
	}
	for have, want := 0, len(buf); have < want; {
		n, err := read(fd, buf[have:])
		if err != nil {
			return err
		}
		have += n
		if end := bytes.Index(buf[:have], []byte("\r\n\r\n")); end > 0 {
			want = end + 4 + replySize
		}
	}
	return answered(buf)
}

// askBulk transfers many bytes on a connection that stays open. The server sends them
// in chunks, of which the last is empty (RFC 9112, section 7.1).
func askBulk(fd int, buf []byte) error {
	if _, err := unix.Write(fd, requestBulk); err != nil {
		return fmt.Errorf("send a request: %w", err)
	}
	last := []byte("0\r\n\r\n")
	var end []byte // of what has come
	for size := 0; size < bulk || !bytes.HasSuffix(end, last); {
		n, err := read(fd, buf)
		if err != nil {
			return err
		}
		if size == 0 {
			if err := answered(buf); err != nil {
				return err
			}
		}
		size += n
		end = append(end, buf[max(0, n-len(last)):n]...)
		end = end[max(0, len(end)-len(last)):]
	}
	return nil
}

func read(fd int, buf []byte) (n int, err error) {
	n, err = unix.Read(fd, buf)
	switch {
	case err != nil:
		return n, fmt.Errorf("read the answer: %w", err)
	case n == 0:
		return 0, errors.New("the connection was closed before the answer ended")
	}
	return n, nil
}

// askOnce makes a request on a connection of its own, and reads all of the answer
// through buf.
func (p path) askOnce(buf []byte, limit time.Duration) error {
	fd, err := p.dial(limit)
	if err != nil {
		return err
	}
	return finish(fd, buf)
}

// finish makes the only request of a connection, and closes it.
func finish(fd int, buf []byte) error {
	defer unix.Close(fd)
	if _, err := unix.Write(fd, requestOnce); err != nil {
		return fmt.Errorf("send a request: %w", err)
	}
	for size := 0; ; {
		n, err := unix.Read(fd, buf)
		switch {
		case err != nil:
			return fmt.Errorf("read the answer: %w", err)
		case n == 0 && size < replySize:
			return errors.New("the connection was closed before the answer ended")
		case n == 0:
			return nil
		case size == 0:
			if err := answered(buf); err != nil {
				return err
			}
		}
		size += n
	}
}

func answered(reply []byte) error {
	if status := reply[len("HTTP/1.1 "):][:3]; string(status) != "200" {
		return fmt.Errorf("answered with status %s", status)
	}
	return nil
}
