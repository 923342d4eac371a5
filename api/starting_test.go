package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestAnAgentThatStartsSaysWhatItWaitsFor(t *testing.T) {
	dir := t.TempDir()
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	var door Starting
	door.WaitsFor("host %s to let it join", "192.0.2.1")
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, &door, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})

	c := NewClient(Socket(dir))
	c.startTimeout = 20 * time.Millisecond
	_, err = c.Status(t.Context())
	var starts *StartingError
	if !errors.As(err, &starts) || starts.Waits != "host 192.0.2.1 to let it join" {
		t.Fatalf("after a while: %v", err)
	}

	ask := func(path string) (int, string) {
		w := httptest.NewRecorder()
		door.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	if code, _ := ask("/healthz"); code != http.StatusOK {
		t.Errorf("its health is answered with %d", code)
	}
	if code, says := ask("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(says, "192.0.2.1") {
		t.Errorf("whether it is ready is answered with %d: %s", code, says)
	}

	// Who waits is told what it waits for, and is answered then.
	c.startTimeout = 20 * time.Second
	var told atomic.Int32
	c.Waiting = func(err error) {
		if told.Add(1); errors.As(err, &starts) {
			door.Ready(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"node":"a"}`) }))
		}
	}
	if s, err := c.Status(t.Context()); err != nil || s.Node != "a" {
		t.Errorf("once it is up: %+v, %v", s, err)
	}
	if n := told.Load(); n != 1 {
		t.Errorf("told %d times", n)
	}
}
