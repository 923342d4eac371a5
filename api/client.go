package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"shoal/model"
)

// Client asks the agent of this host. While that starts it is waited for, for
// some seconds; then the error is a [StartingError].
type Client struct {
	// Waiting, if set, is told each time it changes what the agent's start waits
	// for.
	Waiting func(error)

	socket       string
	http         http.Client
	startTimeout time.Duration // with an agent that starts
}

const (
	defaultStartTimeout = 15 * time.Second
	startPause          = 200 * time.Millisecond // from one try to the next
)

// NewClient makes a client of the agent that serves its API on a unix socket.
func NewClient(socket string) *Client {
	c := &Client{socket: socket, startTimeout: defaultStartTimeout}
	c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	return c
}

// Status is the agent at a glance.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/status", &s)
}

// Settings are those that the agent runs with.
func (c *Client) Settings(ctx context.Context) (s []Setting, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/settings", &s)
}

// Services are all services, by ID.
func (c *Client) Services(ctx context.Context) (s []ServiceView, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/services", &s)
}

// ServicesNamed is the service that a word means, in any form that Explain takes. The
// error is an [ErrNotFound] where there is none.
func (c *Client) ServicesNamed(ctx context.Context, name string) (s []ServiceView, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/services?name="+url.QueryEscape(name), &s)
}

// TasksOf are the tasks of such a service.
func (c *Client) TasksOf(ctx context.Context, service string) (t []TaskView, err error) {
	return t, c.call(ctx, http.MethodGet, "/v1/tasks?service="+url.QueryEscape(service), &t)
}

// Tasks are all tasks, by service.
func (c *Client) Tasks(ctx context.Context) (t []TaskView, err error) {
	return t, c.call(ctx, http.MethodGet, "/v1/tasks", &t)
}

// Problems are what keeps single objects from working, as far as this host's agent
// knows, oldest first.
func (c *Client) Problems(ctx context.Context) (p []model.Problem, err error) {
	return p, c.call(ctx, http.MethodGet, "/v1/problems", &p)
}

// ClusterProblems are those of all hosts, oldest first. A host that does not answer is
// one of them.
func (c *Client) ClusterProblems(ctx context.Context) (p []model.Problem, err error) {
	return p, c.call(ctx, http.MethodGet, "/v1/cluster/problems", &p)
}

// Explain walks a service or a container from its name to its tasks.
func (c *Client) Explain(ctx context.Context, what string) (e Explanation, err error) {
	return e, c.call(ctx, http.MethodGet, "/v1/explain?what="+url.QueryEscape(what), &e)
}

// Lookup tells what the DNS server answers a container with that name,
// ID or address ("": a host process) on a name, and why.
func (c *Client) Lookup(ctx context.Context, name, from string) (l Lookup, err error) {
	return l, c.call(ctx, http.MethodGet, "/v1/dns?name="+url.QueryEscape(name)+"&from="+url.QueryEscape(from), &l)
}

// RemoveService forgets a service without tasks and gives its VIP back. It is named in
// any form that Explain takes.
func (c *Client) RemoveService(ctx context.Context, name string) (r RemovedService, err error) {
	return r, c.call(ctx, http.MethodDelete, "/v1/services?name="+url.QueryEscape(name), &r)
}

// Nodes are the hosts of the cluster, as this one sees them.
func (c *Client) Nodes(ctx context.Context) (n []NodeView, err error) {
	return n, c.call(ctx, http.MethodGet, "/v1/nodes", &n)
}

// RemoveNode forgets a host that is gone for good.
func (c *Client) RemoveNode(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/nodes/"+url.PathEscape(name), &struct{}{})
}

// SetRole makes a host a server of the store, or a client of it again. The
// advice is not empty where the number of servers is no good one.
func (c *Client) SetRole(ctx context.Context, node, role string) (advice string, err error) {
	var a RoleAnswer
	err = c.call(ctx, http.MethodPost, "/v1/nodes/"+url.PathEscape(node)+"/role/"+role, &a)
	return a.Advice, err
}

// CreateToken makes a token by which so many hosts can join for so long.
func (c *Client) CreateToken(ctx context.Context, ttl time.Duration, uses int) (t Token, err error) {
	return t, c.call(ctx, http.MethodPost, fmt.Sprintf("/v1/tokens?ttl=%s&uses=%d", ttl, uses), &t)
}

// Tokens are those that were made and not removed, without their secrets.
func (c *Client) Tokens(ctx context.Context) (t []TokenInfo, err error) {
	return t, c.call(ctx, http.MethodGet, "/v1/tokens", &t)
}

// RemoveToken makes a token worthless.
func (c *Client) RemoveToken(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/v1/tokens/"+url.PathEscape(id), &struct{}{})
}

// Stop lets a container of this host drain, then stops it.
func (c *Client) Stop(ctx context.Context, container string) (s Stopped, err error) {
	return s, c.call(ctx, http.MethodPost, "/v1/containers/"+url.PathEscape(container)+"/stop", &s)
}

// Trace follows a packet to a name or HOST:PORT, from a container (by name, ID
// or address; "": from this host).
func (c *Client) Trace(ctx context.Context, from, to string) (e Explanation, err error) {
	return e, c.call(ctx, http.MethodGet, "/v1/trace?from="+url.QueryEscape(from)+"&to="+url.QueryEscape(to), &e)
}

// Backup writes a backup of the cluster's store, not encrypted, to w. It is whole if there is
// no error.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	return c.await(ctx, func() error {
		return c.ask(ctx, http.MethodGet, "/v1/store/backup", func(r io.Reader) error {
			_, err := io.Copy(w, r)
			return err
		})
	})
}

// Metrics writes the agent's metrics to w, in the text format of Prometheus.
func (c *Client) Metrics(ctx context.Context, w io.Writer) error {
	return c.await(ctx, func() error {
		return c.ask(ctx, http.MethodGet, "/metrics", func(r io.Reader) error {
			_, err := io.Copy(w, r)
			return err
		})
	})
}

func (c *Client) call(ctx context.Context, method, path string, into any) error {
	return c.await(ctx, func() error {
		return c.ask(ctx, method, path, func(r io.Reader) error { return json.NewDecoder(r).Decode(into) })
	})
}

// await repeats a request for as long as the agent starts.
func (c *Client) await(ctx context.Context, try func() error) error {
	var starts, told *StartingError
	for deadline := time.Now().Add(c.startTimeout); ; {
		err := try()
		if !errors.As(err, &starts) || time.Now().After(deadline) {
			return err
		}
		if c.Waiting != nil && (told == nil || *told != *starts) {
			c.Waiting(starts)
		}
		told = starts
		select {
		case <-ctx.Done():
			return err
		case <-time.After(startPause):
		}
	}
}

// ask makes a request, and has the answer read.
func (c *Client) ask(ctx context.Context, method, path string, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://shoal"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no agent runs on this host (nothing answers on %s): start one with sudo shoal agent", c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("only root may ask the agent (%s): use sudo", c.socket)
	case err != nil:
		return fmt.Errorf("ask the agent: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		var e Failure
		if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || e.Error == "" {
			return fmt.Errorf("the agent answered %s", resp.Status)
		}
		if resp.StatusCode == http.StatusServiceUnavailable {
			return &StartingError{e.Waits}
		}
		switch resp.StatusCode {
		case http.StatusBadRequest:
			return &answeredError{e.Error, ErrBadRequest}
		case http.StatusNotFound:
			return &answeredError{e.Error, ErrNotFound}
		}
		return errors.New(e.Error)
	}
	if err := read(resp.Body); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	return nil
}

// answeredError is [ErrNotFound] or [ErrBadRequest] in the words of the agent.
type answeredError struct {
	text string
	kind error
}

func (e *answeredError) Error() string { return e.text }
func (e *answeredError) Unwrap() error { return e.kind }
