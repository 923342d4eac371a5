package dockerwatch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"shoal/model"
)

// heard is what a Watcher has told.
type heard struct {
	t      *testing.T
	w      *Watcher
	mu     sync.Mutex
	locals []string
	last   model.Local
	errs   []error
	change chan struct{}
	log    *bytes.Buffer
	reg    *prometheus.Registry
}

// summary writes the containers as "name:state name:problem name".
func summary(l model.Local) string {
	var parts []string
	for _, c := range l.Containers {
		s := c.Name
		for _, t := range c.Tasks {
			s += ":" + string(t.State)
		}
		if c.Problem != "" {
			s += ":problem"
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " ")
}

// watch runs a Watcher of the engine until the test ends.
func watch(t *testing.T, e *fakeEngine, change func(*Options)) *heard {
	t.Helper()
	return watchBy(t, e, change, func(*Watcher) {})
}

// watchBy is watch with a Watcher that is set up before it runs.
func watchBy(t *testing.T, e *fakeEngine, change func(*Options), setUp func(*Watcher)) *heard {
	t.Helper()
	h := &heard{t: t, change: make(chan struct{}, 1), log: &bytes.Buffer{}, reg: prometheus.NewRegistry()}
	o := Options{Node: "host", Pool: testLimits.pool, Registerer: h.reg, Log: slog.New(slog.NewTextHandler(h, nil))}
	if change != nil {
		change(&o)
	}
	w, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	w.dial = func() (engine, error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e, e.dialErr
	}
	h.w = w
	setUp(w)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.Run(ctx, h.emit, h.status) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	})
	return h
}

func (h *heard) emit(l model.Local) {
	h.mu.Lock()
	h.locals, h.last = append(h.locals, summary(l)), l
	h.mu.Unlock()
	h.poke()
}

// container is one of those last told.
func (h *heard) container(name string) (found model.Container) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.last.Containers {
		if c.Name == name {
			return c
		}
	}
	h.t.Fatalf("no container %s in %+v", name, h.last)
	return found
}

func (h *heard) status(err error) {
	h.mu.Lock()
	h.errs = append(h.errs, err)
	h.mu.Unlock()
	h.poke()
}

func (h *heard) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Write(b)
}

func (h *heard) poke() {
	select {
	case h.change <- struct{}{}:
	default:
	}
}

// until waits for a condition over what has been told.
func (h *heard) until(what string, cond func() bool) {
	h.t.Helper()
	deadline := time.After(5 * time.Second)
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		h.mu.Lock()
		ok := cond()
		h.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-h.change:
		case <-poll.C:
		case <-deadline:
			h.mu.Lock()
			defer h.mu.Unlock()
			h.t.Fatalf("waited for %s\ntold: %q\nstatus: %v\nlog: %s", what, h.locals, h.errs, h.log)
		}
	}
}

// wants waits until the last that was told is this.
func (h *heard) wants(local string) {
	h.t.Helper()
	h.until(fmt.Sprintf("%q", local), func() bool { return len(h.locals) > 0 && h.locals[len(h.locals)-1] == local })
}

// never fails if this was told at any time.
func (h *heard) never(local string) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.locals {
		if l == local {
			h.t.Errorf("told %q: %q", local, h.locals)
		}
	}
}

// metric is the value of the metric of that name, which has no labels.
func (h *heard) metric(name string) float64 {
	h.t.Helper()
	families, err := h.reg.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	h.t.Fatalf("no metric %s", name)
	return 0
}
