package ingress

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal/model"
)

// snapshotOf reads a cluster as host b sees it, one line for each object:
//
//	host NAME [dead]
//	task SERVICE HOST START PORT…     ports as PUBLISHED:TARGET
//	claim SERVICE PORT
func snapshotOf(t *testing.T, text string) *model.Snapshot {
	t.Helper()
	s := &model.Snapshot{Self: model.Node{Name: "b"}}
	tasks := map[model.ServiceID][]*model.Task{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0:
		case f[0] == "host":
			s.Nodes = append(s.Nodes, model.Node{Name: f[1], Alive: len(f) == 2})
		case f[0] == "task":
			var start int64
			fmt.Sscan(f[3], &start)
			task := model.Task{State: model.Running, Service: model.ServiceID{Stack: "s", Name: f[1]}, Node: f[2], Started: time.Unix(start, 0), Spec: &model.Spec{}}
			if slices.ContainsFunc(s.Nodes, func(n model.Node) bool { return n.Name == task.Node && !n.Alive }) {
				task.State = model.Lost
			}
			for _, p := range f[4:] {
				pub := model.PublishedPort{Protocol: model.TCP}
				fmt.Sscanf(p, "%d:%d", &pub.Published, &pub.Target)
				task.Spec.Publish = append(task.Spec.Publish, pub)
			}
			tasks[task.Service] = append(tasks[task.Service], &task)
		case f[0] == "claim":
			c := model.PortClaim{Protocol: model.TCP, Service: model.ServiceID{Stack: "s", Name: f[1]}}
			fmt.Sscan(f[2], &c.Port)
			s.Published = append(s.Published, c)
		default:
			t.Fatalf("line %q", line)
		}
	}
	for id, ts := range tasks {
		s.Services = append(s.Services, &model.Service{ID: id, Tasks: ts})
	}
	slices.SortFunc(s.Services, func(a, b *model.Service) int { return a.ID.Compare(b.ID) })
	return s
}

func TestClaims(t *testing.T) {
	const hosts = "host a\nhost b\nhost c\n"
	for _, test := range []struct {
		name                     string
		cluster                  string
		claim, release, problems string
	}{
		{"a port of a task here", hosts + "task web b 1 80:80", "web 80", "", ""},
		{"a port of a task elsewhere is that host's to claim", hosts + "task web a 1 80:80", "", "", ""},
		{"a port that is held already", hosts + "task web b 1 80:80\nclaim web 80", "", "", ""},
		{"each port of a range", hosts + "task web b 1 80:80 81:81", "web 80, web 81", "", ""},
		{"the longest running of two gets it", hosts + "task new b 2 80:80\ntask old b 1 80:80", "old 80", "", "publish 80/tcp for s/new: already claimed by s/old; publish another port, or remove that service"},
		{"even if it is another host's to claim", hosts + "task new b 2 80:80\ntask old c 1 80:80", "", "", "publish 80/tcp for s/new: already claimed by s/old; publish another port, or remove that service"},
		{"the holder keeps it, however young", hosts + "task new b 2 80:80\ntask old b 1 80:80\nclaim new 80", "", "", "publish 80/tcp for s/old: already claimed by s/new; publish another port, or remove that service"},
		{"a service on dead hosts alone claims nothing", "host a\nhost b\nhost c dead\ntask old c 1 80:80\ntask new b 2 80:80", "new 80", "", ""},
		{"but keeps what it holds", "host a\nhost b\nhost c dead\ntask old c 1 80:80\ntask new b 2 80:80\nclaim old 80", "", "", "publish 80/tcp for s/new: already claimed by s/old; publish another port, or remove that service"},
		{"a port nobody publishes is the first host's to release", hosts + "claim web 80", "", "", ""},
		{"which is the next one while it is dead", "host a dead\nhost b\nclaim web 80", "", "web 80", ""},
		{"and that of any host where a task waits for it", hosts + "task new b 1 80:80\nclaim web 80", "", "web 80", "publish 80/tcp for s/new: already claimed by s/web; publish another port, or remove that service"},
		{"but not of one where none does", hosts + "task new c 1 80:80\nclaim web 80", "", "", ""},
		{"nor while a task elsewhere publishes it", hosts + "task web c 2 80:80\ntask new b 1 80:80\nclaim web 80", "", "", "publish 80/tcp for s/new: already claimed by s/web; publish another port, or remove that service"},
		{"no other than the one that is waited for", hosts + "task new b 1 80:80\nclaim web 80\nclaim web 81", "", "web 80", "publish 80/tcp for s/new: already claimed by s/web; publish another port, or remove that service"},
		{"a port its holder does not publish any more", "host b\ntask web b 1 81:81\ntask new b 1 80:80\nclaim web 80\nclaim web 81", "", "web 80", "publish 80/tcp for s/new: already claimed by s/web; publish another port, or remove that service"},
	} {
		t.Run(test.name, func(t *testing.T) {
			claim, release, problems := new(Claimer).Claims(snapshotOf(t, test.cluster), nil)
			words := func(cs []model.PortClaim) string {
				var w []string
				for _, c := range cs {
					w = append(w, fmt.Sprintf("%s %d", c.Service.Name, c.Port))
				}
				return strings.Join(w, ", ")
			}
			var why []string
			for _, p := range problems {
				why = append(why, p.Reason)
			}
			got := []string{words(claim), words(release), strings.Join(why, "; ")}
			if d := cmp.Diff([]string{test.claim, test.release, test.problems}, got); d != "" {
				t.Errorf("claim, release, problems (-want +got):\n%s", d)
			}
		})
	}
}
