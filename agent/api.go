package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"shoal/catalog"
	"shoal/model"
	"shoal/store"
)

// handler is the HTTP API. Every answer is JSON but /metrics; an error is
// {"error": "..."} with a status of 400 and more; 503 while the agent starts.
func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	get := func(path string, f func(*http.Request) (any, error)) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			v, err := f(r)
			reply(w, v, err)
		})
	}
	get("/v1/status", func(*http.Request) (any, error) { return a.status(), nil })
	get("/v1/services", func(*http.Request) (any, error) { return a.services() })
	get("/v1/tasks", func(*http.Request) (any, error) { return a.tasks() })
	get("/v1/problems", func(*http.Request) (any, error) { return a.problems.list(), nil })
	get("/v1/explain", func(r *http.Request) (any, error) { return a.explain(r.Context(), r.FormValue("what")) })
	get("/v1/dns", func(r *http.Request) (any, error) {
		return a.lookup(r.FormValue("name"), r.FormValue("from"))
	})
	get("/v1/nodes", func(r *http.Request) (any, error) { return a.member.nodes(r.Context()) })
	get("/v1/tokens", func(r *http.Request) (any, error) { return a.member.reg.Tokens(r.Context()) })
	get("/v1/trace", func(r *http.Request) (any, error) {
		return a.trace(r.Context(), r.FormValue("from"), r.FormValue("to"))
	})
	mux.HandleFunc("POST /v1/tokens", func(w http.ResponseWriter, r *http.Request) {
		ttl, err := time.ParseDuration(r.FormValue("ttl"))
		uses, err2 := strconv.Atoi(r.FormValue("uses"))
		if err = errors.Join(err, err2); err != nil {
			reply(w, nil, err)
			return
		}
		token, err := a.member.createToken(r.Context(), ttl, uses)
		reply(w, token, err)
	})
	mux.HandleFunc("DELETE /v1/tokens/{id}", func(w http.ResponseWriter, r *http.Request) {
		reply(w, struct{}{}, a.member.reg.RemoveToken(r.Context(), r.PathValue("id")))
	})
	mux.HandleFunc("DELETE /v1/nodes/{name}", func(w http.ResponseWriter, r *http.Request) {
		reply(w, struct{}{}, a.member.removeNode(r.Context(), r.PathValue("name")))
	})
	mux.HandleFunc("POST /v1/nodes/{name}/role/{role}", func(w http.ResponseWriter, r *http.Request) {
		answer, err := a.member.setRole(r.Context(), r.PathValue("name"), r.PathValue("role"))
		reply(w, answer, err)
	})
	mux.HandleFunc("POST /v1/containers/{name}/stop", func(w http.ResponseWriter, r *http.Request) {
		s, err := a.stop(r.Context(), r.PathValue("name"))
		reply(w, s, err)
	})
	mux.HandleFunc("DELETE /v1/services/{stack}/{name}", func(w http.ResponseWriter, r *http.Request) {
		err := a.catalog.RemoveService(r.Context(), model.ServiceID{Stack: r.PathValue("stack"), Name: r.PathValue("name")})
		reply(w, struct{}{}, err)
	})
	mux.Handle("GET /metrics", a.metricsHandler())
	return mux
}

func (a *Agent) metricsHandler() http.Handler {
	return promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{})
}

type apiError struct {
	Error string `json:"error"`
	Waits string `json:"waits,omitempty"` // with 503: what the agent's start waits for
}

// errNotFound is what a question about nothing we know is answered with.
var errNotFound = errors.New("not found")

func reply(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	var starts *StartingError
	switch {
	case errors.As(err, &starts):
		w.WriteHeader(http.StatusServiceUnavailable)
	case errors.Is(err, errNotFound):
		w.WriteHeader(http.StatusNotFound)
	case err != nil:
		w.WriteHeader(http.StatusConflict)
	}
	if starts != nil {
		v = apiError{err.Error(), starts.Waits}
	} else if err != nil {
		v = apiError{Error: err.Error()}
	}
	_ = json.NewEncoder(w).Encode(v) // the client has gone: nobody to tell
}

// listenSocket makes the API's unix socket, for root only.
// A socket left by an agent that was killed is replaced, one that answers is
// a second agent.
func listenSocket(runDir string) (net.Listener, error) {
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the API socket: %w", err)
	}
	path := Socket(runDir)
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("an agent already runs on this host and answers on %s", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the API socket of a former agent: %w", err)
	}
	// Bound under another name first, so that the socket never stands under
	// its own with a wider mode than it should have.
	tmp := filepath.Join(runDir, ".shoal.sock")
	os.Remove(tmp)
	l, err := net.Listen("unix", tmp)
	if err != nil {
		return nil, fmt.Errorf("listen on the API socket: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(tmp, 0o600); err != nil {
		return nil, fmt.Errorf("restrict the API socket: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return nil, fmt.Errorf("name the API socket: %w", err)
	}
	return l, nil
}

// serve runs an HTTP server until ctx ends.
func serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	stop := context.AfterFunc(ctx, func() {
		bounded, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = srv.Shutdown(bounded)
	})
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Status is the agent at a glance.
type Status struct {
	Version  string       `json:"version"`
	Node     string       `json:"node"`
	Addr     netip.Addr   `json:"addr"`
	Pid      int          `json:"pid"`
	Started  time.Time    `json:"started"`
	Kernel   string       `json:"kernel"`
	Pool     netip.Prefix `json:"pool"`
	DNS      netip.Addr   `json:"dns"`
	Zone     string       `json:"zone"`
	Engine   string       `json:"engine"` // "connected", or why not
	Store    StoreStatus  `json:"store"`
	Nodes    []model.Node `json:"nodes"`
	Services int          `json:"services"`
	Tasks    int          `json:"tasks"`
	Rotation int          `json:"inRotation"`
	Problems int          `json:"problems"`
}

// StoreStatus is how the store fares, and what the catalog has of it.
type StoreStatus struct {
	store.Health
	catalog.Status
}

// ServiceView is a service as the command line shows it.
type ServiceView struct {
	ID         string       `json:"id"`
	Mode       model.Mode   `json:"mode"`
	VIP        netip.Addr   `json:"vip,omitzero"`
	Scheduler  string       `json:"scheduler,omitempty"`
	Ports      []model.Port `json:"ports"` // none: every port
	Tasks      int          `json:"tasks"`
	InRotation int          `json:"inRotation"`
	IdleSince  time.Time    `json:"idleSince,omitzero"`
}
