package api

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/events"
	"shoal/model"
)

// TestTheClientReachesWhatTheAgentServes: each question arrives with all that was asked.
func TestTheClientReachesWhatTheAgentServes(t *testing.T) {
	var asked string
	note := func(args ...any) { asked = strings.TrimSpace(fmt.Sprintln(args...)) }
	b := Backend{
		Status:   func() Status { note("status"); return Status{} },
		Settings: func() []Setting { note("settings"); return nil },
		Services: func() ([]ServiceView, error) {
			note("services")
			return []ServiceView{{ID: "default/web"}, {ID: "shop/web"}}, nil
		},
		Tasks: func() ([]TaskView, error) {
			note("tasks")
			return []TaskView{{Service: "default/web"}, {Service: "shop/web", Name: "web-1"}}, nil
		},
		Problems: func() []model.Problem { note("problems"); return nil },
		ClusterProblems: func(context.Context) []model.Problem {
			note("cluster problems")
			return nil
		},
		Explain: func(_ context.Context, what string) (*Explanation, error) {
			note("explain", what)
			return &Explanation{}, nil
		},
		Lookup: func(name, from string) (*Lookup, error) { note("lookup", name, from); return &Lookup{}, nil },
		Trace: func(_ context.Context, from, to string) (*Explanation, error) {
			note("trace", from, to)
			return &Explanation{}, nil
		},
		UI: func() (*UI, error) { note("ui"); return &UI{}, nil },
		Events: func(_ context.Context, since time.Time, follow bool) iter.Seq[events.Event] {
			note("events", since.Format(time.TimeOnly), follow)
			return slices.Values([]events.Event{{Number: 1, Type: events.HostDead, Node: "b"}, {Number: 2, Type: events.HostBack, Node: "b"}})
		},
		Traffic:    func(context.Context) (Traffic, error) { note("traffic"); return Traffic{}, nil },
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
		RemoveService: func(_ context.Context, name string) (model.ServiceID, error) {
			note("remove service", name)
			return model.ServiceID{}, fmt.Errorf("%w: %s", ErrNotFound, name)
		},
		FindService: func(name string) (model.ServiceID, error) {
			if name != "web.shop" {
				return model.ServiceID{}, fmt.Errorf("%w: %s", ErrNotFound, name)
			}
			return model.ServiceID{Stack: "shop", Name: "web"}, nil
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
		"settings":           func() error { return second(c.Settings(ctx)) },
		"tasks":              func() error { return second(c.Tasks(ctx)) },
		"problems":           func() error { return second(c.Problems(ctx)) },
		"cluster problems":   func() error { return second(c.ClusterProblems(ctx)) },
		"explain shop/web&1": func() error { return second(c.Explain(ctx, "shop/web&1")) },
		"lookup a&b c d":     func() error { return second(c.Lookup(ctx, "a&b", "c d")) },
		"trace a b:80/udp":   func() error { return second(c.Trace(ctx, "a", "b:80/udp")) },
		"ui":                 func() error { return second(c.UI(ctx)) },
		"events 10:20:30 true": func() error {
			var got []string
			err := c.Events(ctx, time.Date(2026, 1, 2, 10, 20, 30, 0, time.UTC), true, func(e events.Event) error {
				got = append(got, string(e.Type))
				return nil
			})
			if want := []string{"host-dead", "host-back"}; !slices.Equal(got, want) {
				t.Errorf("the events are %v, want %v", got, want)
			}
			return err
		},
		"traffic":       func() error { return second(c.Traffic(ctx)) },
		"nodes":         func() error { return second(c.Nodes(ctx)) },
		"remove node b": func() error { return c.RemoveNode(ctx, "b") },
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
			_, err := c.RemoveService(ctx, "shop/web")
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
	if s, err := c.ServicesNamed(ctx, "web.shop"); err != nil || len(s) != 1 || s[0].ID != "shop/web" {
		t.Errorf("the service web.shop: %v, %v", s, err)
	}
	if tasks, err := c.TasksOf(ctx, "web.shop"); err != nil || len(tasks) != 1 || tasks[0].Name != "web-1" {
		t.Errorf("the tasks of web.shop: %v, %v", tasks, err)
	}
	for _, unknown := range []string{"wep", ""} {
		if s, err := c.ServicesNamed(ctx, unknown); !errors.Is(err, ErrNotFound) {
			t.Errorf("the service %q: %v, %v", unknown, s, err)
		}
	}
}
