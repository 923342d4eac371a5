package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"shoal/model"
)

// TestTheClientReachesWhatTheAgentServes: each question arrives with all that was asked.
func TestTheClientReachesWhatTheAgentServes(t *testing.T) {
	var asked string
	note := func(args ...any) { asked = strings.TrimSpace(fmt.Sprintln(args...)) }
	b := Backend{
		Status:   func() Status { note("status"); return Status{} },
		Services: func() ([]ServiceView, error) { note("services"); return nil, nil },
		Tasks:    func() ([]model.Task, error) { note("tasks"); return nil, nil },
		Problems: func() []model.Problem { note("problems"); return nil },
		Explain: func(_ context.Context, what string) (*Explanation, error) {
			note("explain", what)
			return &Explanation{}, nil
		},
		Lookup: func(name, from string) (*Lookup, error) { note("lookup", name, from); return &Lookup{}, nil },
		Trace: func(_ context.Context, from, to string) (*Explanation, error) {
			note("trace", from, to)
			return &Explanation{}, nil
		},
		Nodes:      func(context.Context) ([]NodeView, error) { note("nodes"); return nil, nil },
		RemoveNode: func(_ context.Context, name string) error { note("remove node", name); return nil },
		SetRole: func(_ context.Context, node, role string) (RoleAnswer, error) {
			note("role", node, role)
			return RoleAnswer{Advice: "one more"}, nil
		},
		Tokens: func(context.Context) ([]TokenInfo, error) { note("tokens"); return nil, nil },
		CreateToken: func(_ context.Context, ttl time.Duration, uses int) (*Token, error) {
			note("create token", ttl, uses)
			return &Token{}, nil
		},
		RemoveToken: func(_ context.Context, id string) error { note("remove token", id); return nil },
		Stop: func(_ context.Context, container string) (*Stopped, error) {
			note("stop", container)
			return &Stopped{}, nil
		},
		RemoveService: func(_ context.Context, id model.ServiceID) error {
			note("remove service", id)
			return fmt.Errorf("%w: %s", ErrNotFound, id)
		},
		Metrics: http.NotFoundHandler(),
	}
	dir := t.TempDir()
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, Handler(b), slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	if _, err := Listen(dir); err == nil || !strings.Contains(err.Error(), "already runs") {
		t.Errorf("a second agent: %v", err)
	}

	c := NewClient(Socket(dir))
	second := func(_ any, err error) error { return err }
	for want, ask := range map[string]func() error{
		"status":             func() error { return second(c.Status(ctx)) },
		"services":           func() error { return second(c.Services(ctx)) },
		"tasks":              func() error { return second(c.Tasks(ctx)) },
		"problems":           func() error { return second(c.Problems(ctx)) },
		"explain shop/web&1": func() error { return second(c.Explain(ctx, "shop/web&1")) },
		"lookup a&b c d":     func() error { return second(c.Lookup(ctx, "a&b", "c d")) },
		"trace a b:80/udp":   func() error { return second(c.Trace(ctx, "a", "b:80/udp")) },
		"nodes":              func() error { return second(c.Nodes(ctx)) },
		"remove node b":      func() error { return c.RemoveNode(ctx, "b") },
		"role b server": func() error {
			advice, err := c.SetRole(ctx, "b", "server")
			if advice != "one more" {
				t.Errorf("the advice is %q", advice)
			}
			return err
		},
		"tokens":               func() error { return second(c.Tokens(ctx)) },
		"create token 1m30s 2": func() error { return second(c.CreateToken(ctx, 90*time.Second, 2)) },
		"remove token 1f":      func() error { return c.RemoveToken(ctx, "1f") },
		"stop web-1":           func() error { return second(c.Stop(ctx, "web-1")) },
		"remove service shop/web": func() error {
			err := c.RemoveService(ctx, model.ServiceID{Stack: "shop", Name: "web"})
			if err == nil || err.Error() != "not found: shop/web" {
				t.Errorf("the error is %v", err)
			}
			return nil
		},
	} {
		if err := ask(); err != nil || asked != want {
			t.Errorf("%s: the agent was asked for %q, %v", want, asked, err)
		}
	}
}
