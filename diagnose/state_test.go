package diagnose

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/model"
)

// stateOf is a Snapshot of host a, with hosts b and c of which c is dead, and one service
// with tasks in these states: on a, b, c and so on in turn.
func stateOf(states ...model.State) *model.Snapshot {
	s := &model.Snapshot{Self: model.Node{Name: "a", Alive: true}}
	for _, name := range []string{"a", "b", "c"} {
		s.Nodes = append(s.Nodes, model.Node{Name: name, Alive: name != "c"})
	}
	svc := &model.Service{ID: model.ServiceID{Stack: "shop", Name: "web"}}
	var all []*model.Container
	for i, state := range states {
		node := s.Nodes[i%len(s.Nodes)].Name
		task := model.Task{Service: svc.ID, Node: node, Name: fmt.Sprintf("web-%d", i+1), State: state, Since: time.Unix(int64(i), 0)}
		svc.Tasks = append(svc.Tasks, &task)
		all = append(all, &model.Container{ID: task.Name, Name: task.Name, Node: node, Tasks: []model.Task{task, task}})
	}
	s.Containers = model.ContainersOf(all...)
	s.Services = []*model.Service{svc}
	return s
}

func TestWhatASnapshotTellsIsAProblem(t *testing.T) {
	const dead = "host-dead c on c by a"
	for name, test := range map[string]struct {
		states []model.State
		want   []string
	}{
		"all in rotation":            {[]model.State{model.Running, model.Running}, nil},
		"no tasks":                   {nil, nil},
		"some are not":               {[]model.State{model.Unhealthy, model.Running, model.Lost}, []string{"task-unhealthy web-1 on a by ", "task-lost web-3 on c by "}},
		"paused":                     {[]model.State{model.Running, model.Paused}, []string{"task-paused web-2 on b by "}},
		"none in rotation":           {[]model.State{model.Starting, model.Draining}, []string{"service-down shop/web on a by ", "service-down shop/web on b by "}},
		"one sick":                   {[]model.State{model.Unhealthy}, []string{"service-down shop/web on a by ", "task-unhealthy web-1 on a by "}},
		"being stopped":              {[]model.State{model.Draining, model.Draining}, nil},
		"they serve their own hosts": {[]model.State{model.Unreached, model.Draining}, nil},
	} {
		var got []string
		for _, p := range StateProblems(stateOf(test.states...), nil) {
			got = append(got, fmt.Sprintf("%s %s on %s by %s", p.Code, p.Object, p.Node, p.By))
		}
		slices.Sort(got)
		want := slices.Sorted(slices.Values(append(test.want, dead)))
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestWhatASnapshotTellsIsToldWithWhatToDo(t *testing.T) {
	since := time.Unix(1000, 0)
	says := map[model.Code]string{
		model.HostDead:      "shoal node rm c",
		model.TaskUnhealthy: "docker inspect -f '{{json .State.Health}}' web-1 on a",
		model.TaskPaused:    "docker unpause web-2 on b",
		model.TaskLost:      "its host c is dead",
		model.ServiceDown:   "web-1 on a is unhealthy, web-2 on b is paused, web-3 on c is lost, and 1 more; shoal explain shop/web",
	}
	for _, p := range StateProblems(stateOf(model.Unhealthy, model.Paused, model.Lost, model.Starting), map[string]time.Time{"c": since}) {
		if !strings.Contains(p.Reason, says[p.Code]) {
			t.Errorf("%s: %q does not say %q", p.Code, p.Reason, says[p.Code])
		}
		if p.Code == model.HostDead && !p.Since.Equal(since) {
			t.Errorf("host c is dead since %v", p.Since)
		}
		if p.Code == model.ServiceDown && !p.Since.Equal(time.Unix(3, 0)) {
			t.Errorf("the service is down since %v, the last change was later", p.Since)
		}
	}
}
