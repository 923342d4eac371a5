package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"time"

	"shoal/events"
	"shoal/model"
)

// Backend answers the questions of the API. Every field must be set.
type Backend struct {
	Status   func() Status
	Settings func() []Setting
	Services func() ([]ServiceView, error)
	Tasks    func() ([]TaskView, error)
	Problems func() []model.Problem // that this host knows of

	// ClusterProblems are those of all hosts, each asked for its own.
	ClusterProblems func(ctx context.Context) []model.Problem

	Explain func(ctx context.Context, what string) (*Explanation, error)
	Lookup  func(name, from string) (*Lookup, error)
	Trace   func(ctx context.Context, from, to string) (*Explanation, error)

	// Events are what happened after a time (zero: nothing), and, if they are followed,
	// what happens until ctx ends.
	Events func(ctx context.Context, since time.Time, follow bool) iter.Seq[events.Event]

	Traffic func(ctx context.Context) (Traffic, error)
	UI      func() (*UI, error)

	Nodes      func(ctx context.Context) ([]NodeView, error)
	RemoveNode func(ctx context.Context, name string) error
	SetRole    func(ctx context.Context, node, role string) (RoleAnswer, error)

	Tokens      func(ctx context.Context) ([]TokenInfo, error)
	CreateToken func(ctx context.Context, ttl time.Duration, uses int) (*Token, error)
	RemoveToken func(ctx context.Context, id string) error

	Stop          func(ctx context.Context, container string) (*Stopped, error)
	RemoveService func(ctx context.Context, name string) (model.ServiceID, error)

	// FindService finds the service that a word means, in any form that Explain takes.
	FindService func(name string) (model.ServiceID, error)

	// Backup writes a backup of the store.
	Backup func(ctx context.Context, w io.Writer) error

	Metrics http.Handler

	// Alive and Ready are what /healthz and /readyz answer: nil, or why not.
	Alive, Ready func() error
}

// Handler is the HTTP API. Every answer is JSON but /metrics, /healthz, /readyz and a backup; an error is
// {"error": "..."} with a status of 400 and more.
func Handler(b Backend) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			v, err := f(r)
			Reply(w, v, err)
		})
	}
	handle("GET /v1/status", func(*http.Request) (any, error) { return b.Status(), nil })
	handle("GET /v1/settings", func(*http.Request) (any, error) { return b.Settings(), nil })
	handle("GET /v1/services", func(r *http.Request) (any, error) {
		return ofService(r, "name", b.FindService, b.Services, func(s ServiceView) string { return s.ID })
	})
	handle("GET /v1/tasks", func(r *http.Request) (any, error) {
		return ofService(r, "service", b.FindService, b.Tasks, func(t TaskView) string { return t.Service })
	})
	handle("GET /v1/problems", func(*http.Request) (any, error) { return b.Problems(), nil })
	handle("GET /v1/cluster/problems", func(r *http.Request) (any, error) { return b.ClusterProblems(r.Context()), nil })
	handle("GET /v1/explain", func(r *http.Request) (any, error) { return b.Explain(r.Context(), r.FormValue("what")) })
	handle("GET /v1/dns", func(r *http.Request) (any, error) { return b.Lookup(r.FormValue("name"), r.FormValue("from")) })
	handle("GET /v1/trace", func(r *http.Request) (any, error) {
		return b.Trace(r.Context(), r.FormValue("from"), r.FormValue("to"))
	})
	handle("GET /v1/traffic", func(r *http.Request) (any, error) { return b.Traffic(r.Context()) })
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) { serveEvents(w, r, b) })
	handle("GET /v1/ui", func(*http.Request) (any, error) { return b.UI() })
	handle("GET /v1/nodes", func(r *http.Request) (any, error) { return b.Nodes(r.Context()) })
	handle("DELETE /v1/nodes/{name}", func(r *http.Request) (any, error) {
		return struct{}{}, b.RemoveNode(r.Context(), r.PathValue("name"))
	})
	handle("POST /v1/nodes/{name}/role/{role}", func(r *http.Request) (any, error) {
		return b.SetRole(r.Context(), r.PathValue("name"), r.PathValue("role"))
	})
	handle("GET /v1/tokens", func(r *http.Request) (any, error) { return b.Tokens(r.Context()) })
	handle("POST /v1/tokens", func(r *http.Request) (any, error) {
		ttl, err := time.ParseDuration(r.FormValue("ttl"))
		uses, err2 := strconv.Atoi(r.FormValue("uses"))
		if err = errors.Join(err, err2); err != nil {
			return nil, err
		}
		return b.CreateToken(r.Context(), ttl, uses)
	})
	handle("DELETE /v1/tokens/{id}", func(r *http.Request) (any, error) {
		return struct{}{}, b.RemoveToken(r.Context(), r.PathValue("id"))
	})
	handle("POST /v1/containers/{name}/stop", func(r *http.Request) (any, error) {
		return b.Stop(r.Context(), r.PathValue("name"))
	})
	remove := func(r *http.Request, name string) (any, error) {
		id, err := b.RemoveService(r.Context(), name)
		return RemovedService{id.String()}, err
	}
	handle("DELETE /v1/services", func(r *http.Request) (any, error) { return remove(r, r.FormValue("name")) })
	handle("DELETE /v1/services/{stack}/{name}", func(r *http.Request) (any, error) {
		return remove(r, r.PathValue("stack")+"/"+r.PathValue("name"))
	})
	mux.HandleFunc("GET /v1/store/backup", func(w http.ResponseWriter, r *http.Request) {
		sent := &counter{w: w}
		switch err := b.Backup(r.Context(), sent); {
		case err != nil && sent.n == 0:
			Reply(w, nil, err)
		case err != nil:
			panic(http.ErrAbortHandler) // the client sees that it broke off
		}
	})
	mux.Handle("GET /metrics", b.Metrics)
	HandleHealth(mux, b.Alive, b.Ready)
	return mux
}

// ofService are those of a list that belong to the service which a parameter of the
// request means, or all where the request does not have it.
func ofService[T any](r *http.Request, parameter string, find func(string) (model.ServiceID, error), list func() ([]T, error), of func(T) string) ([]T, error) {
	if !r.URL.Query().Has(parameter) {
		return list()
	}
	id, err := find(r.FormValue(parameter))
	if err != nil {
		return nil, err
	}
	all, err := list()
	return slices.DeleteFunc(all, func(item T) bool { return of(item) != id.String() }), err
}

// Failure is the body of an answer with a status of 400 and more.
type Failure struct {
	Error string `json:"error"`
	Waits string `json:"waits,omitempty"` // with 503: what the agent's start waits for
}

// ErrNotFound is the error of a question about an object that does not exist.
var ErrNotFound = errors.New("not found")

// ErrBadRequest is the error of a question that is put wrongly: what it names can be
// nothing of the cluster's.
var ErrBadRequest = errors.New("bad request")

// Reply writes v, or the error: with status 503 for a [StartingError], 400 for
// [ErrBadRequest], 404 for [ErrNotFound] and 409 for any other.
func Reply(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	var starts *StartingError
	switch {
	case errors.As(err, &starts):
		w.WriteHeader(http.StatusServiceUnavailable)
	case errors.Is(err, ErrBadRequest):
		w.WriteHeader(http.StatusBadRequest)
	case errors.Is(err, ErrNotFound):
		w.WriteHeader(http.StatusNotFound)
	case err != nil:
		w.WriteHeader(http.StatusConflict)
	}
	if starts != nil {
		v = Failure{err.Error(), starts.Waits}
	} else if err != nil {
		v = Failure{Error: err.Error()}
	}
	text, err := Marshal(v)
	if err != nil {
		text, _ = Marshal(Failure{Error: "write the answer: " + err.Error()}) // of text, which has no error
	}
	var body bytes.Buffer
	json.HTMLEscape(&body, text)
	body.WriteByte('\n')
	_, _ = body.WriteTo(w) // the client has gone: nobody to tell
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
