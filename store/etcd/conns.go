package etcd

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// conns are the connections of a client. When an endpoint is removed, gRPC closes
// the connections to it only once the streams on them have ended, and a watch
// does not end: the client would stay with an etcd on a dead host until
// keepalives fail, for 15 s and more.
type conns struct {
	mu   sync.Mutex
	open map[*endpointConn]struct{}
	left map[string]bool // addresses to which no connection is made
	made chan struct{}   // of capacity 1: there is a new one
}

// errLeft is why a connection is not made.
var errLeft = errors.New("this etcd is being stopped")

type endpointConn struct {
	net.Conn
	of   *conns
	addr string // as gRPC names it: "HOST:PORT" or "unix:///PATH"
}

// dialTimeout is how long a host may take to answer. TCP asks one that just comes
// up again after 1 s (RFC 6298 section 2), after 3 s, after 7 s.
const dialTimeout = 2 * time.Second

// dial connects to an address as gRPC names it, and never through a proxy that
// the environment names.
func (cs *conns) dial(ctx context.Context, addr string) (net.Conn, error) {
	network, at := "tcp", addr
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, at = "unix", strings.TrimPrefix(path, "//")
	}
	// As gRPC does for connections that it dials itself: TCP closes one on which
	// data are unacknowledged for so long (tcp(7)).
	d := net.Dialer{Timeout: dialTimeout, Control: func(network, _ string, c syscall.RawConn) (err error) {
		if network != "unix" {
			ctlErr := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(keepaliveTimeout.Milliseconds()))
			})
			err = errors.Join(err, ctlErr)
		}
		return err
	}}
	raw, err := d.DialContext(ctx, network, at)
	if err != nil {
		return nil, err
	}
	c := &endpointConn{raw, cs, addr}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.left[addr] {
		return nil, errors.Join(errLeft, raw.Close())
	}
	if cs.open == nil {
		cs.open = map[*endpointConn]struct{}{}
	}
	cs.open[c] = struct{}{}
	select {
	case cs.made <- struct{}{}:
	default:
	}
	return c, nil
}

func (c *endpointConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// drop closes the connections to an endpoint.
func (cs *conns) drop(endpoint string) {
	cs.mu.Lock()
	open := slices.Collect(maps.Keys(cs.open))
	cs.mu.Unlock()
	for _, c := range open {
		if c.addr == addrOf(endpoint) {
			c.Close()
		}
	}
}

// leave closes the connections to an endpoint, and has none made until it is told to return.
func (cs *conns) leave(endpoint string) (comeBack func()) {
	cs.mu.Lock()
	if cs.left == nil {
		cs.left = map[string]bool{}
	}
	cs.left[addrOf(endpoint)] = true
	cs.mu.Unlock()
	cs.drop(endpoint)
	return func() {
		cs.mu.Lock()
		defer cs.mu.Unlock()
		delete(cs.left, addrOf(endpoint))
	}
}

// addrOf is an endpoint's address as gRPC names it.
func addrOf(endpoint string) string { return strings.TrimPrefix(endpoint, "https://") }
