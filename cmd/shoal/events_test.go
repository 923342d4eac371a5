package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/api"
	"shoal/events"
	"shoal/model"
)

func TestAnEventIsALine(t *testing.T) {
	problem := &model.Problem{Code: model.HostDead, Kind: "node", Object: "b"}
	for want, e := range map[string]events.Event{
		"task-in-rotation      web-1 of shop/web on b":           {Type: events.TaskIn, Service: "shop/web", Name: "web-1", Node: "b"},
		"task-died             web-1 of shop/web on b: code 3":   {Type: events.TaskDied, Service: "shop/web", Name: "web-1", Node: "b", Reason: "code 3"},
		"task-out-of-rotation  web-1 of shop/web on b: a; b":     {Type: events.TaskOut, Service: "shop/web", Name: "web-1", Node: "b", Reason: "a\nb"},
		"service-gone          shop/web":                         {Type: events.ServiceGone, Service: "shop/web"},
		`host-joined           b\u001b[2J: x`:                    {Type: events.HostJoined, Node: "b\x1b[2J", Reason: "x"},
		"problem-found         host-dead of node b on a: see it": {Type: events.ProblemFound, Node: "a", Problem: problem, Reason: "see it"},
		"problem-gone          host-dead of node b on a":         {Type: events.ProblemGone, Node: "a", Problem: problem, Reason: "see it"},
		"events-dropped        5 events, as this was not read in time": {
			Type: events.Dropped, Count: 5,
		},
	} {
		_, got, _ := strings.Cut((&options{}).eventLine(e), "  ")
		if got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}

// streams serves, one after the other, what the agent answers who asks for events.
func streams(t *testing.T, answers ...[]events.Event) (dir string, asked *[]string) {
	asked = &[]string{}
	dir = anAgent(t, func(mux *http.ServeMux) {
		mux.Handle("GET /v1/events", api.Handler(api.Backend{
			Metrics: http.NotFoundHandler(),
			Events: func(ctx context.Context, since time.Time, follow bool) iter.Seq[events.Event] {
				n := min(len(*asked), len(answers)-1)
				*asked = append(*asked, fmt.Sprint(since.UTC().Format(time.TimeOnly), " ", follow))
				return slices.Values(answers[n])
			},
		}))
	})
	return dir, asked
}

func TestEventsGoOnWhenTheAgentIsBack(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	first, second := events.Event{Number: 9, Time: at, Type: events.HostDead, Node: "b"}, events.Event{Number: 1, Time: at.Add(time.Minute), Type: events.HostBack, Node: "b"}
	dir, asked := streams(t, []events.Event{first}, []events.Event{second})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out := &lines{each: func(n int) {
		if n >= 2 {
			cancel()
		}
	}}
	if status := run(ctx, []string{"events", "-o", "json", "--run-dir", dir}, out, false); status != 0 {
		t.Fatalf("exit status %d", status)
	}
	var got []string
	for line := range strings.Lines(out.text.String()) {
		var object struct {
			APIVersion string `json:"apiVersion"`
			events.Event
		}
		if err := json.Unmarshal([]byte(line), &object); err != nil || object.APIVersion != api.Version {
			t.Errorf("%q: %v", line, err)
		}
		got = append(got, string(object.Type))
	}
	if want := []string{"host-dead", "host-back"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if len(*asked) < 2 || !strings.HasPrefix((*asked)[1], "03:04:05 true") {
		t.Errorf("asked for %q: the second time it has to go on after the first's end", *asked)
	}
}

func TestEventsOfThePast(t *testing.T) {
	dir, asked := streams(t, []events.Event{{Type: events.HostDead, Node: "b"}})
	var out bytes.Buffer
	status, wrong := called(t, &out, "events", "--since", "10m", "--follow=false", "--run-dir", dir)
	if status != 0 || len(*asked) != 1 || !strings.HasSuffix((*asked)[0], "false") || strings.HasPrefix((*asked)[0], "00:00:00") || !strings.Contains(out.String(), "host-dead") {
		t.Errorf("status %d, asked for %q, %q %s", status, *asked, out.String(), wrong)
	}
	for _, args := range [][]string{{"--follow=false"}, {"--since", "-1m"}} {
		if status, wrong := called(t, io.Discard, append([]string{"events", "--run-dir", dir}, args...)...); status != 2 {
			t.Errorf("%q: status %d: %s", args, status, wrong)
		}
	}
	if status, wrong := called(t, os.Stderr, "events", "--run-dir", t.TempDir()); status != 1 || !strings.Contains(wrong, "no agent runs") {
		t.Errorf("without an agent: %d: %s", status, wrong)
	}
}
