package ui

import (
	"bufio"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"shoal/lab/wait"
	"shoal/model"
)

// look opens the stream, and returns its events as they come.
func look(t *testing.T, srv *httptest.Server) <-chan [2]string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/v1/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+testToken)
	resp, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if kind := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || kind != "text/event-stream" {
		t.Fatalf("%s, %q", resp.Status, kind)
	}
	events := make(chan [2]string, 100)
	go func() {
		defer close(events)
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		name := ""
		for lines.Scan() {
			if n, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				name = n
			} else if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				events <- [2]string{name, data}
			}
		}
	}()
	return events
}

// until is the first event that is as wanted.
func until(t *testing.T, events <-chan [2]string, what string, ok func(name string, r rows) bool) rows {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case e, open := <-events:
			if !open {
				t.Fatalf("the stream ended before %s", what)
			}
			var r rows
			if err := json.Unmarshal([]byte(e[1]), &r); err != nil {
				t.Fatal(err)
			}
			if ok(e[0], r) {
				return r
			}
		case <-limit:
			t.Fatalf("no event: %s", what)
		}
	}
}

// TestTheStreamHasAllThenWhatChanges, row by row.
func TestTheStreamHasAllThenWhatChanges(t *testing.T) {
	w := newWorld()
	srv := w.serve(t, Options{Token: testToken})
	events := look(t, srv)
	all := until(t, events, "a document", func(name string, r rows) bool { return name == "document" })
	if len(all["services"]) != 6 || len(all["tasks"]) != 12 || len(all["problems"]) != 4 || len(all["hosts"]) != 3 || len(all["ports"]) != 1 {
		t.Errorf("the document has %d services, %d tasks, %d problems, %d hosts, %d ports", len(all["services"]), len(all["tasks"]), len(all["problems"]), len(all["hosts"]), len(all["ports"]))
	}
	if row := string(all["services"]["shop/web"]); !strings.Contains(row, `"published":["8080/tcp"]`) || !strings.Contains(row, `"inRotation":4`) {
		t.Errorf("the row of shop/web is %s", row)
	}
	// What shoal status says, by the same function.
	if row := string(all["health"][""]); !strings.Contains(row, `"state":"degraded"`) || !strings.Contains(row, `"summary":"1 host dead, 1 service down, 3 problems"`) {
		t.Errorf("the cluster's health is %s", row)
	}
	w.change(func(s *model.Snapshot) {
		web, _ := s.Service(shop("web"))
		web.Tasks[0].State = model.Unhealthy
		s.Services = s.Services[1:] // obs/metrics
	})
	now := until(t, events, "a change of services", func(name string, r rows) bool { return name == "change" && len(r["services"]) > 0 })
	if len(now["services"]) != 2 || string(now["services"]["obs/metrics"]) != "null" || !strings.Contains(string(now["services"]["shop/web"]), `"inRotation":3`) {
		t.Errorf("what changed: %s", now["services"])
	}
	if len(now["tasks"]) != 2 || len(now["problems"])+len(now["hosts"])+len(now["ports"]) > 0 {
		t.Errorf("more than what changed is sent: %d tasks, problems %s, hosts %s, ports %s", len(now["tasks"]), now["problems"], now["hosts"], now["ports"])
	}
	second := until(t, look(t, srv), "a document for the second", func(string, rows) bool { return true })
	if len(second["services"]) != 5 {
		t.Errorf("who comes later gets %d services", len(second["services"]))
	}
}

// TestRatesAreStreamed once a host has counted twice.
func TestRatesAreStreamed(t *testing.T) {
	events := look(t, newWorld().serve(t, Options{Token: testToken}))
	r := until(t, events, "a rate", func(_ string, r rows) bool {
		return strings.Contains(string(r["rates"]["shop/cart"]), `"connections":`) && !strings.Contains(string(r["rates"]["shop/cart"]), `"connections":0,`)
	})
	if r["flows"]["service shop/web shop/cart"] == nil {
		t.Errorf("the flows are %v", r["flows"])
	}
}

// TestNobodyLooksNothingIsAsked
func TestNobodyLooksNothingIsAsked(t *testing.T) {
	w := newWorld()
	s := newStream(w.source(), slog.New(slog.DiscardHandler))
	synctest.Test(t, func(t *testing.T) {
		c, _ := s.join(t.Context())
		time.Sleep(10 * time.Second) // of the bubble's clock
		synctest.Wait()
		if w.asked < 5 {
			t.Errorf("the status was asked for %d times in 10 s", w.asked)
		}
		s.leave(c)
		synctest.Wait()
		before := w.asked
		time.Sleep(time.Minute)
		synctest.Wait()
		if w.asked > before+1 {
			t.Errorf("the status is asked for though nobody looks: %d times", w.asked-before)
		}
	})
}

// TestWhoIsLateIsCutOff, and the others are not held up.
func TestWhoIsLateIsCutOff(t *testing.T) {
	s := newStream(Source{}, slog.New(slog.DiscardHandler))
	slow := &client{events: make(chan []byte, queueLen), late: make(chan struct{})}
	quick := &client{events: make(chan []byte, queueLen), late: make(chan struct{})}
	s.clients = map[*client]bool{slow: true, quick: true}
	s.rows = rows{"problems": nil}
	for i := range queueLen + 3 {
		s.changed = rows{"problems": {"x": json.RawMessage("1")}}
		s.flush(t.Context())
		select {
		case <-quick.events:
		default:
			t.Fatalf("event %d did not come", i)
		}
	}
	select {
	case <-slow.late:
	default:
		t.Error("who took nothing is not cut off")
	}
	select {
	case <-quick.late:
		t.Error("who took all is cut off")
	default:
	}
}

// TestClientsAreBounded: one too many is refused, until one leaves.
func TestClientsAreBounded(t *testing.T) {
	s := newStream(newWorld().source(), slog.New(slog.DiscardHandler))
	var all []*client
	for range mostClients {
		c, ok := s.join(t.Context())
		if !ok {
			t.Fatal("refused too early")
		}
		all = append(all, c)
	}
	if _, ok := s.join(t.Context()); ok {
		t.Errorf("there are %d clients", mostClients+1)
	}
	s.leave(all[0])
	c, ok := s.join(t.Context())
	if !ok {
		t.Error("one left, and another is refused")
	}
	for _, one := range append(all[1:], c) {
		s.leave(one)
	}
	wait.For(t, 10*time.Second, "the feed ends", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.stop == nil })
}
