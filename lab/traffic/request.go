package traffic

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Options are about one request.
type Options struct {
	// Timeout is how long a request may take, connecting included. Zero is 2 s.
	Timeout time.Duration
	// Port tells the client's own port for each connection; nil: the kernel chooses.
	Port func() uint16
	// Payload is what is sent over TCP, UDP and SCTP, one line. It comes back in the field echo.
	Payload string
}

// Reply is who answered, in the fields of its answer, and all of what it said.
type Reply struct {
	Hostname string
	// Client is the address and port the answering side saw the request come from.
	Client netip.AddrPort
	// Body is the answer as it came.
	Body string
}

// Get makes one request on a connection of its own.
func Get(ctx context.Context, target string, o Options) (Reply, error) {
	c, err := newClient(target, o, false)
	if err != nil {
		return Reply{}, err
	}
	defer c.close()
	return c.do(ctx)
}

// client makes requests to one target, each on a connection of its own or all on one.
type client struct {
	o    Options
	url  *url.URL
	keep bool
	hold bool // even where a request fails
	http *http.Client
	conn net.Conn // of tcp, udp and sctp, where kept
	r    *bufio.Reader
}

func newClient(target string, o Options, keep bool) (*client, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", target, err)
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Second
	}
	c := &client{o: o, url: u, keep: keep}
	switch u.Scheme {
	case "http":
		c.http = &http.Client{Transport: &http.Transport{DisableKeepAlives: !keep, DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return dial(ctx, "tcp", addr, o)
		}}}
	case "tcp", "udp", "sctp":
		if u.Port() == "" {
			return nil, fmt.Errorf("target %q: it names no port", target)
		}
	default:
		return nil, fmt.Errorf("target %q: want http://, tcp://, udp:// or sctp://", target)
	}
	return c, nil
}

func (c *client) do(ctx context.Context) (Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	if c.http != nil {
		return c.doHTTP(ctx)
	}
	reply, err := c.doLine(ctx)
	if err != nil && !c.hold || !c.keep {
		c.close()
	}
	return reply, err
}

func (c *client) doHTTP(ctx context.Context) (Reply, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url.String(), nil)
	if err != nil {
		return Reply{}, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return Reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return Reply{}, fmt.Errorf("read the answer: %w", err)
	}
	reply := parse(string(b))
	if resp.StatusCode >= 300 {
		return reply, fmt.Errorf("status %s", resp.Status)
	}
	return reply, nil
}

// doLine sends a line and reads one.
func (c *client) doLine(ctx context.Context) (Reply, error) {
	if c.conn == nil {
		conn, err := dial(ctx, c.url.Scheme, c.url.Host, c.o)
		if err != nil {
			return Reply{}, err
		}
		c.conn, c.r = conn, bufio.NewReader(conn)
	}
	deadline, _ := ctx.Deadline()
	if err := c.conn.SetDeadline(deadline); err != nil {
		return Reply{}, err
	}
	if _, err := fmt.Fprintln(c.conn, c.o.Payload); err != nil {
		return Reply{}, err
	}
	line, err := c.r.ReadString('\n')
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Reply{}, fmt.Errorf("read the answer: %w", err)
	}
	return parse(line), nil
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
	if c.http != nil {
		c.http.CloseIdleConnections()
	}
}

func dial(ctx context.Context, network, addr string, o Options) (net.Conn, error) {
	if network == "sctp" {
		return dialSCTP(ctx, addr, o)
	}
	d := net.Dialer{Timeout: o.Timeout}
	if o.Port != nil {
		port := int(o.Port())
		switch network {
		case "tcp":
			d.LocalAddr = &net.TCPAddr{Port: port}
		case "udp":
			d.LocalAddr = &net.UDPAddr{Port: port}
		}
	}
	return d.DialContext(ctx, network, addr)
}

// parse finds the fields of an answer. An answer without them is only a body.
func parse(body string) Reply {
	r := Reply{Body: body}
	for field := range strings.FieldsSeq(body) {
		name, value, _ := strings.Cut(field, "=")
		switch name {
		case "hostname":
			r.Hostname = value
		case "client":
			r.Client, _ = netip.ParseAddrPort(value)
		}
	}
	return r
}
