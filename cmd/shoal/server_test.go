package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"shoal/api"
	"shoal/model"
)

// fakeAgent serves h on an agent's socket.
func fakeAgent(t *testing.T, h http.Handler) *api.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(s.Close)
	return api.NewClient(socket)
}

// told keeps what is written, and says when there is something.
type told struct {
	strings.Builder
	some chan struct{}
}

func (w *told) Write(b []byte) (int, error) {
	select {
	case w.some <- struct{}{}:
	default:
	}
	return w.Builder.Write(b)
}

func TestAChangeOfRoleTellsHowFarItIs(t *testing.T) {
	for name, interrupt := range map[string]bool{"to its end": false, "until it is interrupted": true} {
		t.Run(name, func(t *testing.T) {
			var role atomic.Value
			role.Store("client")
			mayEnd := make(chan struct{})
			mux := http.NewServeMux()
			mux.HandleFunc("GET /v1/nodes", func(w http.ResponseWriter, _ *http.Request) {
				json.NewEncoder(w).Encode([]api.NodeView{{Node: model.Node{Name: "b"}, Role: role.Load().(string)}})
			})
			mux.HandleFunc("POST /v1/nodes/b/role/server", func(w http.ResponseWriter, r *http.Request) {
				select {
				case <-mayEnd:
				case <-r.Context().Done():
				}
				json.NewEncoder(w).Encode(map[string]string{"advice": "promote a third"})
			})
			c := fakeAgent(t, mux)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			w := &told{some: make(chan struct{}, 1)}
			go func() {
				<-w.some
				role.Store("learner")
				<-w.some
				if interrupt {
					cancel()
				} else {
					close(mayEnd)
				}
			}()
			advice, err := changeRole(ctx, c, w, "b", "server", 10*time.Millisecond)
			if interrupt && (err == nil || !strings.Contains(err.Error(), "goes on by itself")) {
				t.Errorf("interrupted it says %v", err)
			}
			if !interrupt && (err != nil || advice != "promote a third") {
				t.Errorf("%q, %v", advice, err)
			}
			if lines := strings.Split(strings.TrimSpace(w.String()), "\n"); len(lines) != 2 ||
				!strings.Contains(lines[0], "it is a client") || !strings.Contains(lines[1], "a learner, which catches up") {
				t.Errorf("it told %q", lines)
			}
		})
	}
}
