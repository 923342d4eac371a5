package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"shoal/api"
	"shoal/model"
	"shoal/traffic"
)

func TestTheBusiestServicesAreOnTop(t *testing.T) {
	id := func(name string) model.ServiceID { return model.ServiceID{Stack: "s", Name: name} }
	services := []api.ServiceView{{ID: "s/a"}, {ID: "s/b", Tasks: 3, InRotation: 2}, {ID: "s/c"}, {ID: "s/d"}}
	got := topOf(services, traffic.Picture{
		Services: []traffic.ServiceRate{{ID: id("b"), Connections: 5, BytesIn: 10, BytesOut: 20}, {ID: id("d"), BytesOut: 1}},
		Flows: []traffic.FlowRate{
			{Pair: traffic.Pair{From: traffic.Client{Kind: traffic.KindHost, Name: "x"}, To: id("c")}, Open: 2},
			{Pair: traffic.Pair{From: traffic.Client{Kind: traffic.KindOutside}, To: id("c")}, Open: 3},
		},
	})
	want := []topService{{"s/b", 3, 2, 0, 5, 10, 20}, {"s/c", 0, 0, 5, 0, 0, 0}, {"s/d", 0, 0, 0, 0, 0, 1}, {"s/a", 0, 0, 0, 0, 0, 0}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestTopOnceHasRates(t *testing.T) {
	looks, last := 0, time.Time{} // a host counts anew at most every two seconds
	dir := anAgent(t, func(mux *http.ServeMux) {
		answer := func(path string, f func() any) {
			mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(f()) })
		}
		answer("/v1/status", func() any {
			return api.Status{Node: "alpha", Services: 2, Tasks: 3, Rotation: 1, Nodes: make([]model.Node, 2)}
		})
		answer("/v1/cluster/problems", func() any {
			return []model.Problem{{Node: "alpha", Code: model.HostDead, Kind: "node", Object: "beta"}}
		})
		answer("/v1/traffic", func() any {
			if time.Since(last) >= 2*time.Second {
				looks, last = looks+1, time.Now()
			}
			return api.Traffic{
				Hosts: map[string]traffic.Count{"alpha": {
					Run: "1", At: time.Duration(looks) * time.Second,
					Services: []traffic.Service{{ID: model.ServiceID{Stack: "default", Name: "db"}, Opened: uint64(looks * 30), BytesIn: uint64(looks * 1500)}},
				}},
				Unknown: map[string]string{"beta": "no answer"},
			}
		})
	})
	var out bytes.Buffer
	if status, wrong := called(t, &out, "top", "--once", "--run-dir", dir); status != 0 {
		t.Fatalf("%d: %s", status, wrong)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"alpha: hosts 2; services 2; tasks in rotation 1 of 3; problems 1, see shoal problems", "",
		"SERVICE IN ROTATION OPEN NEW/S IN/S OUT/S",
		"default/db 0/0 0 30.0 1.5 kB 0 B",
		"shop/web 0/0 0 0.0 0 B 0 B",
		"host-dead: node beta on alpha",
		"not all traffic is known of beta: no answer",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTopFitsTheScreen(t *testing.T) {
	top := &top{o: &options{screen: screen{height: 12}}, health: &statusView{}, unknown: map[string]string{"b": "x"}}
	if room := top.room(); room != 6 {
		t.Errorf("%d services fit, want 6", room)
	}
	if top.o.screen.height = 3; top.room() != 1 {
		t.Errorf("on a small one %d fit", top.room())
	}
}
