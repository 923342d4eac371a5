package catalog

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// conns are the connections of a client to embedded etcds. gRPC closes those to
// an endpoint that is none any more only when the streams on them have ended,
// and a watch does not end: to one on a host that died it would hold on until
// keepalives fail, for 15 s and more.
type conns struct {
	mu   sync.Mutex
	open map[*endpointConn]struct{}
}

type endpointConn struct {
	net.Conn
	of   *conns
	addr string // as gRPC names it: "ADDR:PORT" or "unix:///PATH"
}

// dial connects to an address as gRPC names it.
func (cs *conns) dial(ctx context.Context, addr string) (net.Conn, error) {
	network, at := "tcp", addr
	if path, ok := strings.CutPrefix(addr, "unix://"); ok {
		network, at = "unix", path
	}
	// What gRPC sets on its own connections, so that what is unanswered for so
	// long ends them (tcp(7)).
	d := net.Dialer{Control: func(network, _ string, c syscall.RawConn) (err error) {
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
	if cs.open == nil {
		cs.open = map[*endpointConn]struct{}{}
	}
	cs.open[c] = struct{}{}
	return c, nil
}

func (c *endpointConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// drop closes the connections to an endpoint that is none any more. What was
// asked over them fails at once, and watches go on elsewhere.
func (cs *conns) drop(endpoint string) {
	cs.mu.Lock()
	open := slices.Collect(maps.Keys(cs.open))
	cs.mu.Unlock()
	for _, c := range open {
		if c.addr == strings.TrimPrefix(endpoint, "https://") {
			c.Close()
		}
	}
}
