package events

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/model"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// cluster is a Snapshot of host a with others by name, "!b" being dead, and tasks
// "shop/web NAME@HOST STATE [REASON]", "+" behind the name for one that was started anew.
func cluster(hosts string, tasks ...string) *model.Snapshot {
	s := &model.Snapshot{Self: model.Node{Name: "a"}}
	for name := range strings.FieldsSeq("a " + hosts) {
		alive := !strings.HasPrefix(name, "!")
		s.Nodes = append(s.Nodes, model.Node{Name: strings.TrimPrefix(name, "!"), Alive: alive, Addr: netip.MustParseAddr("192.0.2.1")})
	}
	for _, text := range tasks {
		words := strings.SplitN(text, " ", 4)
		id, err := model.ParseServiceID(words[0])
		if err != nil {
			panic(err)
		}
		if len(s.Services) == 0 || s.Services[len(s.Services)-1].ID != id {
			s.Services = append(s.Services, &model.Service{ID: id})
		}
		svc := s.Services[len(s.Services)-1]
		if len(words) == 1 {
			continue
		}
		name, host, _ := strings.Cut(words[1], "@")
		t := &model.Task{Service: id, Node: host, Name: strings.TrimSuffix(name, "+"), State: model.State(words[2]), Drain: 10 * time.Second}
		t.Container = "id-" + t.Name
		if strings.HasSuffix(name, "+") {
			t.Started = at
		}
		if len(words) == 4 {
			t.Reason = words[3]
		}
		svc.Tasks = append(svc.Tasks, t)
	}
	return s
}

// lines are events as text.
func lines(events []Event) (all []string) {
	for _, e := range events {
		words := []string{string(e.Type), e.Service, e.Name, e.Node}
		line := strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")
		if e.Reason != "" {
			line += ": " + e.Reason
		}
		all = append(all, line)
	}
	return all
}

func TestWhatHappensBetweenTwoSnapshots(t *testing.T) {
	web := func(state string) string { return "shop/web w@a " + state }
	for name, test := range map[string]struct {
		old, now *model.Snapshot
		ended    string // "": not known; "told", or how it died
		want     []string
	}{
		"the first":            {nil, cluster("b", web("running")), "", nil},
		"nothing":              {cluster("b", web("running")), cluster("b", web("running")), "", nil},
		"a service appears":    {cluster(""), cluster("", web("starting it waits")), "", []string{"service-added shop/web", "task-started shop/web w a: it waits"}},
		"a task comes running": {cluster("", "shop/web"), cluster("", web("running")), "", []string{"task-started shop/web w a", "task-in-rotation shop/web w a"}},
		"it is ready":          {cluster("", web("starting x")), cluster("", web("running")), "", []string{"task-in-rotation shop/web w a"}},
		"it is sick":           {cluster("", web("running")), cluster("", web("unhealthy")), "", []string{"task-out-of-rotation shop/web w a: its HEALTHCHECK fails"}},
		"it was never in":      {cluster("", web("starting x")), cluster("", web("unhealthy")), "", nil},
		"it drains":            {cluster("", web("running")), cluster("", web("draining")), "", []string{"task-draining shop/web w a: it has 10s to finish what it holds"}},
		"it has drained":       {cluster("", web("draining")), cluster("", "shop/web"), "", []string{"task-left shop/web w a: it has drained"}},
		"it was told to stop":  {cluster("", web("running")), cluster("", "shop/web"), "told", []string{"task-left shop/web w a: told"}},
		"it died":              {cluster("", web("running")), cluster("", "shop/web"), "exit code 3", []string{"task-died shop/web w a: exit code 3"}},
		"it was started anew": {cluster("", web("running")), cluster("", "shop/web w+@a running"), "exit code 3",
			[]string{"task-died shop/web w a: exit code 3", "task-started shop/web w a", "task-in-rotation shop/web w a"}},
		"nobody knows how": {cluster("b", "shop/web w@b running"), cluster("b", "shop/web"), "",
			[]string{"task-left shop/web w b: it was not seen to drain: shoal events on its host tells how it ended"}},
		"a service goes":  {cluster("", web("draining")), cluster(""), "", []string{"task-left shop/web w a: it has drained", "service-gone shop/web"}},
		"a host joins":    {cluster(""), cluster("b"), "", []string{"host-joined b: its address is 192.0.2.1"}},
		"a host dies":     {cluster("b", "shop/web w@b running"), cluster("!b", "shop/web w@b lost"), "", []string{"host-dead b: it does not answer: its tasks are out of rotation", "task-out-of-rotation shop/web w b: its host is dead"}},
		"a host is back":  {cluster("!b", "shop/web w@b lost"), cluster("b", "shop/web w@b running"), "", []string{"host-back b", "task-in-rotation shop/web w b"}},
		"a host is gone":  {cluster("b", "shop/web w@b running"), cluster("", "shop/web"), "", []string{"host-removed b", "task-left shop/web w b: its host was removed from the cluster"}},
		"several at once": {cluster("", "a/x", web("running")), cluster("", web("running"), "z/y"), "", []string{"service-gone a/x", "service-added z/y"}},
	} {
		got := Between(test.old, test.now, at, func(*model.Task) (End, bool) {
			return End{Told: test.ended == "told", How: test.ended}, test.ended != ""
		})
		if !slices.Equal(lines(got), test.want) {
			t.Errorf("%s:\n got %q\nwant %q", name, lines(got), test.want)
		}
		for _, e := range got {
			if !e.Time.Equal(at) || e.Identity() == "" || e.Name != "" && e.Container != "id-"+e.Name {
				t.Errorf("%s: %+v", name, e)
			}
		}
	}
}

func TestWhichProblemsAppearAndGo(t *testing.T) {
	problem := func(code model.Code, reason string) model.Problem {
		return model.Problem{Node: "a", Code: code, Kind: "node", Object: "b", Reason: reason}
	}
	dead, dead2, silent := problem(model.HostDead, "for 1s"), problem(model.HostDead, "for 2s"), problem(model.AgentSilent, "")
	for name, test := range map[string]struct{ old, now, found, gone []model.Problem }{
		"the first list":    {nil, []model.Problem{dead}, nil, nil},
		"one appears":       {[]model.Problem{}, []model.Problem{dead}, []model.Problem{dead}, nil},
		"twice is once":     {[]model.Problem{}, []model.Problem{dead, dead2}, []model.Problem{dead}, nil},
		"another reason":    {[]model.Problem{dead}, []model.Problem{dead2}, nil, nil},
		"one is gone":       {[]model.Problem{dead, silent}, []model.Problem{silent}, nil, []model.Problem{dead}},
		"one takes another": {[]model.Problem{dead}, []model.Problem{silent}, []model.Problem{silent}, []model.Problem{dead}},
	} {
		var found, gone []model.Problem
		for _, e := range OfProblems(test.old, test.now, at) {
			if e.Type == ProblemFound {
				found = append(found, *e.Problem)
			} else {
				gone = append(gone, *e.Problem)
			}
		}
		if fmt.Sprint(found, gone) != fmt.Sprint(test.found, test.gone) {
			t.Errorf("%s: found %v, gone %v", name, found, gone)
		}
	}
}
