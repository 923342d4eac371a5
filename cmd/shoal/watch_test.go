package main

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/api"
	"shoal/model"
)

// lines keeps whole lines, and calls each with how many there are.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
	each func(n int)
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	l.each(strings.Count(l.text.String(), "\n"))
	return len(p), nil
}

func TestWatchAddsALineForWhatChanges(t *testing.T) {
	task := func(name string, state model.State) api.TaskView {
		return api.TaskView{Service: "shop/web", Name: name, State: state, Since: time.Now()}
	}
	var mu sync.Mutex
	stage := 0
	stages := [][]api.TaskView{
		{task("a", model.Running), task("b", model.Starting)},
		{task("a", model.Running), task("b", model.Running)},
		{task("a", model.Running)},
	}
	dir := anAgent(t, func(mux *http.ServeMux) {
		mux.HandleFunc("GET /v1/tasks", func(w http.ResponseWriter, _ *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			json.NewEncoder(w).Encode(stages[stage])
		})
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out := &lines{each: func(n int) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case n >= 5:
			cancel()
		case n >= 4:
			stage = 2
		case n >= 3:
			stage = 1
		}
	}}
	if status := run(ctx, []string{"tasks", "--watch", "--run-dir", dir}, out, false); status != 0 {
		t.Fatalf("exit status %d", status)
	}
	var got []string
	for line := range strings.Lines(out.text.String()) {
		fields := strings.Fields(line)
		got = append(got, strings.Join(slices.DeleteFunc(fields, func(f string) bool { return f == "-" }), " "))
	}
	for i, want := range []string{"SERVICE CONTAINER NAME", "shop/web a running", "shop/web b starting", "shop/web b running", "b is gone"} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Fatalf("line %d is not %q:\n%s", i, want, strings.Join(got, "\n"))
		}
	}
}

func TestWatchOfProblemsTellsWhatComesAndGoes(t *testing.T) {
	problem := func(node string, code model.Code, object string) model.Problem {
		return model.Problem{Node: node, Code: code, Kind: "node", Object: object, Reason: "see it", Since: time.Now()}
	}
	dead := []model.Problem{problem("a", model.HostDead, "c"), problem("b", model.HostDead, "c")}
	var mu sync.Mutex
	stage := 0
	stages := [][]model.Problem{{}, dead, append(dead, problem("a", model.RouteMissing, "c")), dead, {}}
	dir := anAgent(t, func(mux *http.ServeMux) {
		mux.HandleFunc("GET /v1/cluster/problems", func(w http.ResponseWriter, _ *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			json.NewEncoder(w).Encode(stages[stage])
		})
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	want := []string{"no problems", "HOST CODE WHAT", "a, b host-dead node c", "a route-missing node c", "route-missing of node c is gone", "host-dead of node c is gone"}
	out := &lines{each: func(n int) {
		mu.Lock()
		defer mu.Unlock()
		if stage = []int{0, 1, 1, 2, 3, 4, 4}[n]; n == len(want) {
			cancel()
		}
	}}
	if status := run(ctx, []string{"problems", "--watch", "--run-dir", dir}, out, false); status != 0 {
		t.Fatalf("exit status %d", status)
	}
	var got []string
	for line := range strings.Lines(out.text.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	for i, line := range want {
		if i >= len(got) || !strings.HasPrefix(got[i], line) {
			t.Fatalf("line %d is not %q:\n%s", i, line, strings.Join(got, "\n"))
		}
	}
}
