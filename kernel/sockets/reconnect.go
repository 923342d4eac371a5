package sockets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/model"
)

// Peer is what a connected UDP socket is connected to.
type Peer struct {
	Named netip.AddrPort // what connect(2) was told, and is told again
	Real  netip.AddrPort // what a BPF program put in the place of that, if one did
}

// ErrElsewhere says that a socket is not connected to its [Peer]: its process has
// connected it to another one, or to none.
var ErrElsewhere = errors.New("its process has connected it elsewhere")

// ErrBusy says that a process keeps the kernel from doing what it is told. What hangs may be
// done later by itself; another call may find out.
var ErrBusy = errors.New("a process has the kernel wait for it")

// errUnheld says that a socket is there, and among the open files of no process.
var errUnheld = errors.New("it is among the open files of no process")

// datagrams are the tables of UDP.
var datagrams = []table{{unix.AF_INET, model.UDP}, {unix.AF_INET6, model.UDP}}

// Limits of what takes microseconds, unless a process does what it can to prevent it: of
// one socket, and of finding them all, for which a lock may be needed that a hanging [Destroy]
// has (sock_diag_mutex, before Linux 6.10).
const (
	reconnectLimit = 200 * time.Millisecond
	listLimit      = 10 * time.Second
)

// Calls that may hang: one for each process, so that it can harm but itself, and one walk
// through the tables.
var (
	ofProcesses = calls[int]{most: 500}
	ofTables    = calls[string]{most: 1}
)

// Reconnect calls connect(2) once more on UDP sockets of other processes, to what
// they are connected to already. A BPF program of connect(2), which may choose
// another task now, runs for the socket's control group, whoever calls (udp_pre_connect
// in net/ipv4/udp.c). Nothing else of the socket changes, and its process notices
// nothing: the datagrams that it sends from then on go to the new peer, and those of
// the former are dropped.
//
// Sockets are known by their cookies, as for [Destroy], in every network namespace
// that a process is in. The result has what became of each that was found: nil,
// [ErrElsewhere], [ErrBusy], or what kept it from being connected. One that is in no table has
// ended, or was overlooked as the tables changed: another call finds it. The error
// concerns all sockets that are not in the result.
//
// For each call there is one walk through the open files of all processes. A copy is
// made of the file (pidfd_getfd(2)), and nothing is done to a copy before its own
// cookie and peer are those that were asked for. A process that connects its socket
// elsewhere in the few microseconds between that look and connect(2) finds it connected
// to the Peer.
//
// led tells where a program has led a socket just now; invalid, or a nil led: nowhere,
// so that it is connected to what was named. It is called from another goroutine. An
// address that the kernel chose as the socket's own stays, unless the kernel would choose
// another one on the way to the new peer: see [rebase].
//
// A side effect is that the socket's class of control groups of version 1 (net_cls,
// net_prio) becomes that of the calling process (__receive_sock in net/core/scm.c).
func Reconnect(ctx context.Context, peers map[uint64]Peer, led func(cookie uint64) netip.AddrPort) (found map[uint64]error, err error) {
	return reconnectIn(ctx, peers, led, func(ctx context.Context, peers map[uint64]Peer) ([]socket, error) {
		return within(ctx, &ofTables, "udp", listLimit, func() ([]socket, error) { return list(ctx, peers, inNamespaces) })
	})
}

// ReconnectHere is [Reconnect] of the sockets in the network namespace of the calling
// thread alone.
func ReconnectHere(ctx context.Context, peers map[uint64]Peer, led func(cookie uint64) netip.AddrPort) (found map[uint64]error, err error) {
	return reconnectIn(ctx, peers, led, func(ctx context.Context, peers map[uint64]Peer) ([]socket, error) {
		return list(ctx, peers, func(_ context.Context, visit func() bool) error { visit(); return nil })
	})
}

func reconnectIn(ctx context.Context, peers map[uint64]Peer, led func(uint64) netip.AddrPort, list func(context.Context, map[uint64]Peer) ([]socket, error)) (map[uint64]error, error) {
	if len(peers) == 0 {
		return nil, nil
	}
	r := &reconnecting{peers: maps.Clone(peers), led: led, left: map[uint64]bool{}, inodes: map[uint32]bool{}, found: map[uint64]error{}}
	found, err := list(ctx, r.peers)
	for _, s := range found {
		r.left[s.cookie], r.inodes[s.inode] = true, true
	}
	if len(r.left) > 0 {
		walked := r.walk(ctx, processShare)
		err = errors.Join(err, walked)
		for cookie := range r.left {
			if walked == nil {
				r.found[cookie] = cmp.Or(r.failed, errUnheld)
			}
		}
	}
	if err != nil {
		err = fmt.Errorf("connect UDP sockets again by their cookies: %w", err)
	}
	return r.found, err
}

// reconnecting is one call of [Reconnect].
type reconnecting struct {
	peers  map[uint64]Peer
	led    func(uint64) netip.AddrPort
	left   map[uint64]bool // cookies of sockets that are in a table, and were found in no process yet
	inodes map[uint32]bool // of these; numbers are used again in the end, and only tell which files to look at
	found  map[uint64]error
	failed error // why a file with such an inode could not be looked at; ErrBusy before all
}

// list finds the sockets in the namespaces that each visits.
func list(ctx context.Context, peers map[uint64]Peer, each func(context.Context, func() (more bool)) error) (all []socket, err error) {
	cookies := make(map[uint64]States, len(peers))
	for cookie := range peers {
		cookies[cookie] = Connected
	}
	var failed []error
	err = each(ctx, func() (more bool) {
		for _, t := range datagrams {
			found, err := kernel.Dump(func() ([]socket, error) { return find(ctx, t, cookies) })
			for _, s := range found {
				delete(cookies, s.cookie)
			}
			all = append(all, found...)
			if err != nil && ctx.Err() == nil {
				failed = append(failed, fmt.Errorf("list UDP sockets: %w", err))
				if errors.Is(err, unix.ENOENT) {
					return false // the kernel's module udp_diag is not there
				}
			}
		}
		return len(cookies) > 0
	})
	return all, errors.Join(append(failed, err, ctx.Err())...)
}

// processShare is how long a walk stays with the open files of one process before it has been to all: one with
// millions of them keeps nobody else's sockets from being found.
const processShare = 200 * time.Millisecond

// walk looks through the open files of all processes for sockets with the inodes. Those that take longer
// than their share come last.
func (r *reconnecting) walk(ctx context.Context, share time.Duration) error {
	pids, err := processes()
	if err != nil {
		return err
	}
	var slow []int
	for _, pid := range pids {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		listing, end := context.WithTimeout(ctx, share)
		r.process(ctx, listing, pid)
		if listing.Err() != nil {
			slow = append(slow, pid)
		}
		end()
		if len(r.left) == 0 {
			return nil
		}
	}
	for _, pid := range slow {
		if r.process(ctx, ctx, pid); len(r.left) == 0 {
			return nil
		}
	}
	return ctx.Err()
}

// process looks through the open files of one process, until listing ends.
func (r *reconnecting) process(ctx, listing context.Context, pid int) {
	openSockets(listing, pid, r.inodes, func(file int, inode uint32) (more bool) {
		ours, err := r.file(ctx, pid, file)
		if errors.Is(err, ErrBusy) {
			r.failed = err
			return false
		}
		if err != nil && !errors.Is(r.failed, ErrBusy) {
			r.failed = err
		}
		if ours {
			delete(r.inodes, inode) // it may be open more than once
		}
		return len(r.left) > 0
	})
}

// outcome is what became of a file.
type outcome struct {
	cookie uint64
	ours   bool // it is a socket that is wanted
	err    error
}

// file connects the socket that a process has open as that file, and tells whether it
// was one of ours. The error says why that is not known.
func (r *reconnecting) file(ctx context.Context, pid, file int) (ours bool, err error) {
	o, err := within(ctx, &ofProcesses, pid, reconnectLimit, func() (outcome, error) {
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return outcome{}, fmt.Errorf("open its process: %w", err)
		}
		defer unix.Close(pidfd)
		fd, err := unix.PidfdGetfd(pidfd, file, 0)
		if err != nil {
			return outcome{}, fmt.Errorf("copy the file of its process: %w", err)
		}
		defer unix.Close(fd)
		cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		if err != nil {
			return outcome{}, nil // it is no socket any more
		}
		peer, ours := r.peers[cookie]
		if !ours {
			return outcome{}, nil
		}
		return outcome{cookie, true, again(fd, cookie, peer, r.led)}, nil
	})
	if o.ours {
		delete(r.left, o.cookie)
		r.found[o.cookie] = o.err
	}
	return o.ours, err
}

// again connects a copy of a socket.
func again(fd int, cookie uint64, peer Peer, led func(uint64) netip.AddrPort) error {
	domain, err := datagramDomain(fd)
	if err != nil {
		return err
	}
	if at, err := nameOf(unix.Getpeername(fd)); err != nil || at != peer.Named && at != peer.Real {
		return ErrElsewhere
	}
	own, err := ownName(fd)
	if err != nil {
		return err
	}
	kernel.Wrote("socket", 1)
	if err := unix.Connect(fd, sockaddrOf(domain, peer.Named)); err != nil {
		return fmt.Errorf("connect it to %s: %w", peer.Named, err)
	}
	was, to := peer.Real, peer.Named
	if !was.IsValid() {
		was = peer.Named
	}
	if led != nil {
		if at := led(cookie); at.IsValid() {
			to = at
		}
	}
	if was.Addr() == to.Addr() || !mustRebase(fd, own.Addr(), was, to) {
		return nil
	}
	return rebase(fd, domain, own, peer.Named)
}

// ownName is a socket's own IPv4 address, and its port. One that has no such address is not
// connected by IPv4 any more: its process has it, too, and may connect it at any time.
func ownName(fd int) (netip.AddrPort, error) {
	own, err := nameOf(unix.Getsockname(fd))
	switch {
	case err != nil:
		return own, fmt.Errorf("ask for its own address: %w", err)
	case !own.Addr().Is4():
		return own, ErrElsewhere
	}
	return own, nil
}

// datagramDomain is AF_INET or AF_INET6, of a UDP socket.
func datagramDomain(fd int) (int, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	proto, err2 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	domain, err3 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err := errors.Join(err, err2, err3); err != nil {
		return 0, fmt.Errorf("ask what kind of socket it is: %w", err)
	}
	if kind != unix.SOCK_DGRAM || proto != unix.IPPROTO_UDP || domain != unix.AF_INET && domain != unix.AF_INET6 {
		return 0, fmt.Errorf("it is no UDP socket: type %d, protocol %d, domain %d", kind, proto, domain)
	}
	return domain, nil
}

// mustRebase tells whether a socket, now connected to the address to, needs another
// address of its own: connect(2) lets stand what it has.
func mustRebase(fd int, own netip.Addr, was, to netip.AddrPort) (must bool) {
	ns, err := unix.IoctlRetInt(fd, unix.SIOCGSKNS)
	if err != nil {
		return false
	}
	defer unix.Close(ns)
	mark, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
	device, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	err = kernel.OnThread(func() error {
		if err := netns.Set(netns.NsHandle(ns)); err != nil {
			return err
		}
		p := probe{mark, device}
		best, err := p.source(to)
		if err != nil || best == own {
			return err
		}
		former, _ := p.source(was)
		must = needsAnother(own, best, former, addressGone(own))
		return nil
	})
	return err == nil && must
}

// needsAnother decides it. An address is to stay if the kernel would choose it again, and
// if the process has bound the socket to it; else a task on another network of the client
// may have no way back to it. Whether the process has bound it nobody tells: the kernel
// chose it, if it would choose it on the way to the former peer. One that the
// namespace has no more is of no use either way.
func needsAnother(own, best, former netip.Addr, gone bool) bool {
	return best != own && (former == own || gone)
}

// probe are the options of a socket that has a say in its route.
type probe struct{ mark, device int }

// source is the address that the kernel chooses on the way to another.
func (p probe) source(to netip.AddrPort) (netip.Addr, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.Addr{}, err
	}
	defer unix.Close(fd)
	if p.mark != 0 {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, p.mark)
	}
	if p.device != 0 {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, p.device)
	}
	if err := unix.Connect(fd, sockaddrOf(unix.AF_INET, to)); err != nil {
		return netip.Addr{}, err
	}
	own, err := nameOf(unix.Getsockname(fd))
	return own.Addr(), err
}

// addressGone tells that the namespace has not the address any more.
func addressGone(own netip.Addr) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return errors.Is(unix.Bind(fd, sockaddrOf(unix.AF_INET, netip.AddrPortFrom(own, 0))), unix.EADDRNOTAVAIL)
}

// rebase connects a socket once more, and has the kernel choose its own address. For
// that it is connected to nobody for a moment (AF_UNSPEC; __udp_disconnect in
// net/ipv4/udp.c), in which a send(2) of its process ends with EDESTADDRREQ. The kernel then
// also forgets the device that the socket is bound to, and the port if it chose it: they
// are put back. If somebody has taken the port meanwhile, it gets another one.
func rebase(fd, domain int, own, to netip.AddrPort) error {
	device, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	if err := disconnect(fd); err != nil {
		return fmt.Errorf("disconnect it: %w", err)
	}
	if device != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, device); err != nil {
			return fmt.Errorf("bind it to its device again: %w", err)
		}
	}
	if now, err := nameOf(unix.Getsockname(fd)); err == nil && now.Port() == 0 {
		// Its address is none now, or that which its process has bound it to.
		_ = unix.Bind(fd, sockaddrOf(domain, netip.AddrPortFrom(now.Addr(), own.Port())))
	}
	if err := unix.Connect(fd, sockaddrOf(domain, to)); err != nil {
		return fmt.Errorf("connect it to %s from another address: %w", to, err)
	}
	return nil
}

// disconnect has a socket connected to nobody.
func disconnect(fd int) error {
	to := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&to)), unsafe.Sizeof(to)); errno != 0 {
		return errno
	}
	return nil
}

// sockaddrOf is an address as sockets of a domain are told it.
func sockaddrOf(domain int, a netip.AddrPort) unix.Sockaddr {
	if domain == unix.AF_INET6 {
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

// nameOf is what a call says of a socket's address, IPv4 if it is IPv4-mapped.
func nameOf(a unix.Sockaddr, err error) (netip.AddrPort, error) {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), err
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port)), err
	}
	return netip.AddrPort{}, err
}

// noFile is a number that no file has: it is above the most that a process may have
// (fs.nr_open, 2^30 at most on machines with 64 bits).
const noFile = 1 << 30

// CanReconnect returns what keeps [Reconnect] from its work, as far as that can be
// known. It asks the first process for a file that it has not.
func CanReconnect() error {
	if err := canListDatagrams(); err != nil {
		return err
	}
	if os.Getpid() == 1 {
		return errors.New("this process sees no others: run it in the host's process namespace (docker run --pid host)")
	}
	pidfd, err := unix.PidfdOpen(1, 0)
	if err != nil {
		return fmt.Errorf("open the first process (pidfd_open(2), Linux 5.3): %w", err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, noFile, 0)
	return copyable(fd, err)
}

// copyable says what the answer to the question for a file that is not there means.
func copyable(fd int, err error) error {
	switch {
	case err == nil:
		unix.Close(fd)
		return nil
	case errors.Is(err, unix.EBADF): // as far as looking whether the process has it
		return nil
	case errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("this kernel does not copy files of other processes (pidfd_getfd(2), Linux 5.6): %w", err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("the kernel does not let this process copy files of others (pidfd_getfd(2)): %w; it lacks CAP_SYS_PTRACE, or kernel.yama.ptrace_scope is 3, or a filter of system calls forbids it", err)
	}
	return fmt.Errorf("copy a file of the first process (pidfd_getfd(2)): %w", err)
}

// canListDatagrams tells whether the kernel lists UDP sockets. It asks for those in no
// state at all.
func canListDatagrams() error {
	s, err := open()
	if err != nil {
		return err
	}
	defer s.Close()
	for _, t := range datagrams {
		req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_INET_DIAG: {Socket: s, Seq: req.Seq}}
		req.AddRawData(t.request(0))
		if _, err := req.Execute(unix.NETLINK_INET_DIAG, 0); err != nil {
			return fmt.Errorf("list UDP sockets: %w; the kernel's module udp_diag is needed", err)
		}
	}
	return nil
}
