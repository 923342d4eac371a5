package socket

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"golang.org/x/sys/unix"

	"shoal/lb"
	"shoal/model"
)

// proofVIP is led while the programs are proven. It is of TEST-NET-1, which
// nobody has (RFC 5737).
var proofVIP = netip.MustParseAddrPort("192.0.2.53:7")

// proofLimit is how long, in milliseconds, the connection of a proof may take.
const proofLimit = 2000

// prove connects by TCP, and UDP if that is led, to an address that leads to this process, and
// looks where it gets. A UDP socket connects twice, as one does whose task leaves.
func (p *Plane) prove() error {
	runtime.LockOSThread() // a thread may be of another cgroup, or network namespace, than the process
	defer runtime.UnlockOSThread()
	protos := []model.Protocol{model.TCP}
	if p.around.udp {
		protos = append(protos, model.UDP)
	}
	for _, proto := range protos {
		if err := p.proveOne(proto); err != nil {
			return model.KernelIncomplete.Errorf("a connection by %s, tried by a process of the cgroup %s: %w", proto, p.opts.Cgroup, err)
		}
	}
	return nil
}

func (p *Plane) proveOne(proto model.Protocol) (err error) {
	kind, times := unix.SOCK_STREAM, 1
	if proto == model.UDP {
		kind, times = unix.SOCK_DGRAM, 2 // it is connected again when its task leaves
	}
	client, err := proofSocket(kind)
	if err != nil {
		return err
	}
	defer unix.Close(client)
	k := lb.Key{VIP: proofVIP.Addr(), Protocol: proto, Port: proofVIP.Port()}
	defer func() { err = errors.Join(err, p.table.remove(k)) }()
	for range times {
		if err := p.proveTo(k, client, kind); err != nil {
			return err
		}
	}
	return nil
}

// proveTo connects the client to a server of its own.
func (p *Plane) proveTo(k lb.Key, client, kind int) error {
	server, err := proofSocket(kind)
	if err != nil {
		return err
	}
	defer unix.Close(server)
	if err := unix.Bind(server, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return fmt.Errorf("bind to 127.0.0.1: %w", err)
	}
	at, err := unix.Getsockname(server)
	if err != nil {
		return err
	}
	if k.Protocol == model.TCP {
		if err := unix.Listen(server, 1); err != nil {
			return fmt.Errorf("listen on 127.0.0.1: %w", err)
		}
	}
	if err := p.table.put(k, wanted{slots: []target{targetOf(addrPortOf(at))}}); err != nil {
		return err
	}
	return proveBy(client, server, k.Protocol)
}

func proofSocket(kind int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	return fd, nil
}

// proveBy connects the client to the VIP, and expects that at the server.
func proveBy(client, server int, proto model.Protocol) error {
	vip := &unix.SockaddrInet4{Addr: proofVIP.Addr().As4(), Port: int(proofVIP.Port())}
	if err := unix.Connect(client, vip); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect: %w", err)
	}
	if proto == model.UDP {
		if _, err := unix.Write(client, []byte{0}); err != nil {
			return fmt.Errorf("send a datagram: %w", err)
		}
	}
	if err := readable(server); err != nil {
		return fmt.Errorf("it was not led by connect(): %w", err)
	}
	if proto == model.UDP {
		_, from, err := unix.Recvfrom(server, make([]byte, 1), 0)
		if err != nil {
			return fmt.Errorf("receive a datagram: %w", err)
		}
		if err := unix.Sendto(server, []byte{0}, 0, from); err != nil {
			return fmt.Errorf("answer a datagram: %w", err)
		}
		if err := readable(client); err != nil {
			return fmt.Errorf("the answer to a datagram: %w", err)
		}
		_, from, err = unix.Recvfrom(client, make([]byte, 1), 0)
		if err != nil {
			return fmt.Errorf("receive the answer to a datagram: %w", err)
		}
		if got := addrPortOf(from); got != proofVIP {
			return fmt.Errorf("recvmsg() says that %s answers, and should say %s", got, proofVIP)
		}
	}
	peer, err := unix.Getpeername(client)
	if err != nil {
		return fmt.Errorf("getpeername: %w", err)
	}
	if got := addrPortOf(peer); got != proofVIP {
		return fmt.Errorf("getpeername() says %s, and should say %s", got, proofVIP)
	}
	return nil
}

// readable waits until a socket has something to read, or somebody to accept.
func readable(fd int) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, proofLimit)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("nothing arrived within %d s", proofLimit/1000)
		default:
			return nil
		}
	}
}

func addrPortOf(a unix.Sockaddr) netip.AddrPort {
	in, ok := a.(*unix.SockaddrInet4)
	if !ok {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port))
}
