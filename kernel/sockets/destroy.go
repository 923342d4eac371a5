package sockets

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/model"
)

// ErrCannotDestroy says that the kernel does not close sockets of other processes.
var ErrCannotDestroy = errors.New("this kernel closes no sockets of other processes: it was built without CONFIG_INET_DIAG_DESTROY")

// answerLimit is how long the kernel may take to answer. It answers at once.
const answerLimit = 5 * time.Second

// destroyLimit is how long [Destroy] may take, whatever ctx says: the kernel waits for the lock of
// a socket. There is no second call while one hangs, as that would meet the same socket.
const destroyLimit = time.Minute

var destroying = calls[string]{most: 1}

// tables are where connected sockets may be. Those of AF_INET6 include sockets
// whose addresses are IPv4-mapped.
var tables = []table{
	{unix.AF_INET, model.TCP}, {unix.AF_INET6, model.TCP},
	{unix.AF_INET, model.UDP}, {unix.AF_INET6, model.UDP},
}

// States are states of a socket, a bit each.
type States uint32

const (
	// Connected are the states of a socket that has a peer and may have an owner, whether the
	// peer has answered yet or not. UDP sockets are in the first one only.
	Connected States = 1<<diagEstablished | 1<<diagSynSent | 1<<diagFinWait1 | 1<<diagFinWait2 |
		1<<diagCloseWait | 1<<diagLastAck | 1<<diagClosing

	// Connecting is the state of a TCP socket whose peer has not answered yet.
	Connecting States = 1 << diagSynSent
)

// Destroy closes the TCP and connected UDP sockets that have these cookies and are in one of
// the states, in every network namespace that a process is in, and returns how many it closed.
// A cookie is the value of the socket option SO_COOKIE and of
// bpf_get_socket_cookie; no two sockets since boot have the same. A process that
// waits for such a socket gets ECONNABORTED, and a TCP peer gets a reset.
//
// A socket that is not found, or that ends meanwhile, is no error. The kernel's
// tables may change while they are read, so that in rare cases a socket is
// overlooked; another call finds it. Destroy stops once all are found, or with the
// error of ctx, or with [ErrBusy] where a process keeps the kernel from closing a
// socket. Each namespace costs a walk through the kernel's tables, and so
// through the sockets of all namespaces. Other failures are in the error and stop
// nothing, except [ErrCannotDestroy]. The source is net/ipv4/inet_diag.c and
// sock_diag(7).
func Destroy(ctx context.Context, cookies map[uint64]States) (closed int, err error) {
	if len(cookies) == 0 {
		return 0, nil
	}
	return within(ctx, &destroying, "", destroyLimit, func() (int, error) { return destroyIn(ctx, cookies, inNamespaces) })
}

// DestroyHere is [Destroy] in the network namespace of the calling thread alone.
func DestroyHere(ctx context.Context, cookies map[uint64]States) (closed int, err error) {
	return destroyIn(ctx, cookies, func(_ context.Context, visit func() bool) error { visit(); return nil })
}

// destroyIn closes sockets in the namespaces that each visits.
func destroyIn(ctx context.Context, cookies map[uint64]States, each func(context.Context, func() (more bool)) error) (closed int, err error) {
	w := &wanted{cookies: maps.Clone(cookies), tables: tables}
	err = each(ctx, func() (more bool) {
		w.visit(ctx)
		return len(w.cookies) > 0 && len(w.tables) > 0
	})
	w.failed = append(w.failed, err)
	if len(w.cookies) > 0 {
		w.failed = append(w.failed, ctx.Err())
	}
	if err = errors.Join(w.failed...); err != nil {
		return w.closed, fmt.Errorf("close sockets by their cookies: %w", err)
	}
	return w.closed, nil
}

// wanted is what remains to be closed, and what came of the rest.
type wanted struct {
	cookies map[uint64]States
	tables  []table // without those that the kernel cannot list
	closed  int
	failed  []error
}

// visit closes the wanted sockets in the network namespace of the calling thread.
func (w *wanted) visit(ctx context.Context) {
	for _, t := range tables {
		if len(w.cookies) == 0 || ctx.Err() != nil {
			return
		}
		if !slices.Contains(w.tables, t) {
			continue
		}
		found, err := kernel.Dump(func() ([]socket, error) { return find(ctx, t, w.cookies) })
		if err == nil || len(found) > 0 {
			err = errors.Join(err, w.close(ctx, t, found))
		}
		switch {
		case err == nil, errors.Is(err, ctx.Err()):
		case errors.Is(err, ErrCannotDestroy):
			w.tables, w.failed = nil, append(w.failed, ErrCannotDestroy)
			return
		case errors.Is(err, unix.ENOENT):
			w.tables = slices.DeleteFunc(slices.Clone(w.tables), func(o table) bool { return o.proto == t.proto })
			w.failed = append(w.failed, fmt.Errorf("list %s sockets: %w; the kernel's module %s_diag is needed", t.proto, err, t.proto))
		default:
			w.failed = append(w.failed, fmt.Errorf("list %s sockets: %w", t.proto, err))
		}
	}
}

// socket is a sockid with the cookie in it.
type socket struct {
	id     [idLen]byte
	cookie uint64
	state  States // one of them
	inode  uint32 // by which /proc knows it; 0: no process has it
}

// find lists the wanted sockets of a table, in the network namespace of the
// calling thread. It stops when it has all, or ctx ends.
func find(ctx context.Context, t table, cookies map[uint64]States) ([]socket, error) {
	s, err := open()
	if err != nil {
		return nil, err
	}
	defer s.Close()
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	var states States
	for _, wanted := range cookies {
		states |= wanted
	}
	req.AddRawData(t.request(states))
	if err := s.Send(req); err != nil {
		return nil, err
	}
	found := map[uint64]socket{} // one may be listed twice
	for done := false; !done && len(found) < len(cookies) && err == nil; {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var answers []syscall.NetlinkMessage
		if answers, _, err = s.Receive(); err == nil {
			done, err = pick(answers, cookies, found)
		}
	}
	return slices.Collect(maps.Values(found)), err
}

// pick adds the wanted sockets among the answers to found, and says whether they
// were the last.
func pick(answers []syscall.NetlinkMessage, cookies map[uint64]States, found map[uint64]socket) (done bool, err error) {
	for _, a := range answers {
		switch a.Header.Type {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			if len(a.Data) >= 4 {
				if errno := int32(binary.NativeEndian.Uint32(a.Data)); errno != 0 {
					return true, unix.Errno(-errno)
				}
			}
			done = true
		case nl.SOCK_DIAG_BY_FAMILY:
			if s, ok := parseSocket(a.Data); ok && cookies[s.cookie]&s.state != 0 {
				found[s.cookie] = s
			}
		}
		if a.Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
			err = netlink.ErrDumpInterrupted
		}
	}
	return done, err
}

// parseSocket reads one answer.
func parseSocket(m []byte) (s socket, ok bool) {
	if len(m) < diagMessageLen {
		return s, false
	}
	copy(s.id[:], m[messageID:])
	low, high := binary.NativeEndian.Uint32(s.id[idCookie:]), binary.NativeEndian.Uint32(s.id[idCookie+4:])
	s.cookie = uint64(high)<<32 | uint64(low)
	s.state = 1 << m[messageState]
	s.inode = binary.NativeEndian.Uint32(m[messageInode:])
	return s, true
}

// close closes sockets of a table, in the network namespace of the calling thread.
func (w *wanted) close(ctx context.Context, t table, found []socket) error {
	if len(found) == 0 {
		return nil
	}
	conn, err := open()
	if err != nil {
		return err
	}
	defer conn.Close()
	var failed []error
	for _, s := range found {
		if ctx.Err() != nil {
			break
		}
		delete(w.cookies, s.cookie)
		err := destroy(conn, t, s.id)
		switch {
		case err == nil:
			kernel.Wrote("socket", 1)
			w.closed++
		case errors.Is(err, unix.ENOENT): // it was closed meanwhile
		case errors.Is(err, ErrCannotDestroy):
			return err
		default:
			failed = append(failed, fmt.Errorf("close a %s socket: %w", t.proto, err))
		}
	}
	return errors.Join(failed...)
}

// destroy closes one socket. (inet_diag_cmd_exact in net/ipv4/inet_diag.c.)
func destroy(conn *nl.NetlinkSocket, t table, id [idLen]byte) error {
	req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_INET_DIAG: {Socket: conn, Seq: req.Seq}}
	b := t.request(0)
	copy(b[requestID:], id[:])
	req.AddRawData(b)
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return ErrCannotDestroy
	}
	return err
}

// CanDestroy returns [ErrCannotDestroy] where [Destroy] would, or what keeps it
// from knowing. It asks for a socket to be closed that no process has.
func CanDestroy() error {
	conn, err := open()
	if err != nil {
		return err
	}
	defer conn.Close()
	// Nobody listens on port 0, and a cookie is not 0.
	if err := destroy(conn, tables[0], [idLen]byte{}); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// open opens a netlink socket in the network namespace of the calling thread.
func open() (*nl.NetlinkSocket, error) {
	s, err := nl.Subscribe(unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open a socket of sock_diag(7): %w", err)
	}
	limit := unix.NsecToTimeval(answerLimit.Nanoseconds())
	if err := errors.Join(s.SetSendTimeout(&limit), s.SetReceiveTimeout(&limit)); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}
