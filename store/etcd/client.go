package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"shoal/model"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

const (
	// RequestTimeout is how long one request may take.
	RequestTimeout = 5 * time.Second

	keepaliveTimeout = 5 * time.Second // how long a connection may leave something unanswered
	retryAtMost      = 2 * time.Second // between attempts
)

// Client is a client of etcd.
type Client struct {
	*clientv3.Client
	conns *conns
}

// Dial makes a client. It connects in the background, now and whenever it has
// to, so an etcd that is away is no error. It logs nothing: its callers are told
// what fails for good.
func Dial(endpoints []string, t *tls.Config, opts ...grpc.DialOption) (*Client, error) {
	retry := backoff.DefaultConfig
	retry.MaxDelay = time.Second
	cs := &conns{made: make(chan struct{}, 1)}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints,
		TLS:       t,
		Logger:    zap.NewNop(),
		DialOptions: append([]grpc.DialOption{
			grpc.WithContextDialer(cs.dial),
			// With the handshake of TLS, for which a busy host may need its time.
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: 10 * time.Second}),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: keepaliveTimeout}),
		}, opts...),
	})
	if err != nil {
		return nil, err
	}
	return &Client{c, cs}, nil
}

// Close closes the client and its connections.
func (c *Client) Close() error {
	if err := c.Client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Connected tells whether there is a connection to etcd, without a request.
func (c *Client) Connected() bool {
	return c.ActiveConnection().GetState() == connectivity.Ready
}

// Dialed receives when a connection was made: what is at its other end may not
// be the etcd that it was. Several connections may come as one.
func (c *Client) Dialed() <-chan struct{} { return c.conns.made }

// Drop closes the connections to an endpoint. Requests over them fail at once,
// and watches go on at another endpoint.
func (c *Client) Drop(endpoint string) { c.conns.drop(endpoint) }

// Leave closes the connections to an endpoint, as Drop does, and makes no others until
// comeBack is called. An etcd that is told to stop waits for the watches of those who
// connect to it until it listens no more.
func (c *Client) Leave(endpoint string) (comeBack func()) { return c.conns.leave(endpoint) }

// Unreachable makes a [model.ErrAway] of an error that says no more than that
// etcd does not answer, or that none of its members leads. Other errors, and
// nil, stay as they are.
func Unreachable(err error) error {
	code := status.Code(err)
	if e := (rpctypes.EtcdError{}); errors.As(err, &e) {
		code = e.Code()
	}
	if code == codes.Unavailable || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w (%w)", model.ErrAway, err)
	}
	return err
}

// Backoff waits longer with every failure in a row. Its zero value is ready.
type Backoff struct{ delay time.Duration }

// Reset notes a success.
func (b *Backoff) Reset() { b.delay = 0 }

// Wait waits before the next attempt, from 50 ms up to 2 s, or until ctx ends.
func (b *Backoff) Wait(ctx context.Context) {
	b.delay = min(max(2*b.delay, 50*time.Millisecond), retryAtMost)
	select {
	case <-ctx.Done():
	case <-time.After(b.delay):
	}
}
