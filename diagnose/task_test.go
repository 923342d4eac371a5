package diagnose

import (
	"strings"
	"testing"
	"time"

	"shoal/dockerwatch"
	"shoal/model"
)

func TestATaskSaysWhyItIsNotReached(t *testing.T) {
	s := cluster3()
	now := time.Now()
	task := func(state model.State) *model.Task {
		return &model.Task{Service: model.ServiceID{Stack: "default", Name: "web"}, Node: "n2", Container: "c1", Name: "web-1", Addr: addr("10.244.2.5"), State: state, Since: now, Weight: 1}
	}
	seen := func(change func(*Looked)) *Looked {
		c := &Looked{Seen: dockerwatch.Seen{ID: "c1", Name: "web-1", Node: "n2", State: "running", Started: now.Add(-time.Hour), ExitCode: -1}}
		if change != nil {
			change(c)
		}
		return c
	}
	for name, test := range map[string]struct {
		task         *model.Task
		seen         *Looked
		why, to, not string
	}{
		"all is well":      {task(model.Running), seen(nil), "in rotation", "", ""},
		"paused":           {task(model.Paused), seen(nil), "paused", "docker unpause web-1", ""},
		"its host is dead": {task(model.Lost), nil, "host n2 is considered dead", "7946", ""},
		"its network":      {task(model.Unreached), seen(nil), "only its own host reaches", "--network mesh", ""},
		"it drains":        {task(model.Draining), seen(nil), "told to stop", "", ""},
		"not ready":        {task(model.Starting), seen(nil), "not ready", "docker logs web-1", ""},
		"crashes":          {task(model.Running), seen(func(c *Looked) { c.Ends, c.Restarts, c.Started, c.ExitCode = 3, 3, now, 127 }), "exit code 127 (its command was not found)", "docker logs web-1", ""},
		"crashed long ago": {task(model.Running), seen(func(c *Looked) { c.Ends, c.Restarts = 3, 3 }), "in rotation", "", ""},
		"between two runs": {task(model.Running), seen(func(c *Looked) { c.State, c.ExitCode, c.OOM = "restarting", 137, true }), "for want of memory", "docker logs", ""},
		"fails its check": {task(model.Unhealthy), seen(func(c *Looked) {
			c.Health = &dockerwatch.Health{Status: "unhealthy", Failing: 4, At: now, ExitCode: 7, Output: "no\n database\x1b[2J"}
		}), "failed 4 times in a row", "shoal.health=none", "\x1b"},
		"has not passed it": {task(model.Starting), seen(func(c *Looked) {
			c.Health = &dockerwatch.Health{Status: "starting", At: now, ExitCode: 1, Output: "loading"}
		}), "said: loading", "wait until it passes", ""},
	} {
		why, to := standing(s, test.task, test.seen, "mesh", false)
		if !strings.Contains(why, test.why) || !strings.Contains(to, test.to) || test.to == "" && to != "" || test.not != "" && strings.Contains(why, test.not) {
			t.Errorf("%s: %q, to do: %q; want %q, %q", name, why, to, test.why, test.to)
		}
	}
}

func TestAContainerSaysWhyItIsNoTask(t *testing.T) {
	s, web := cluster3(), model.ServiceID{Stack: "default", Name: "web"}
	ended := time.Now().Add(-time.Minute)
	for name, test := range map[string]struct {
		seen    dockerwatch.Seen
		live    bool
		ok      bool
		why, to string
	}{
		"stopped":               {dockerwatch.Seen{State: "exited", Services: []model.ServiceID{web}, Finished: ended}, false, false, "exit code 0", "docker start x"},
		"stopped, others serve": {dockerwatch.Seen{State: "exited", Services: []model.ServiceID{web}, Finished: ended}, true, true, "does not run", ""},
		"failed":                {dockerwatch.Seen{State: "exited", Services: []model.ServiceID{web}, Finished: ended, ExitCode: 2}, false, false, "exit code 2", "docker logs x"},
		"cannot start":          {dockerwatch.Seen{State: "created", Services: []model.ServiceID{web}, Error: "no such file", ExitCode: 127}, false, false, "no such file", "docker start x"},
		"was never started":     {dockerwatch.Seen{State: "created", Services: []model.ServiceID{web}}, true, false, "never started", "docker start x"},
		"crashes":               {dockerwatch.Seen{State: "restarting", Services: []model.ServiceID{web}, ExitCode: 1}, true, false, "crashes", "docker logs x"},
		"labels refused":        {dockerwatch.Seen{State: "running", Refusal: "label shoal.weight=-1"}, false, false, "shoal.weight", "labels right"},
		"labels misspelt":       {dockerwatch.Seen{State: "running", Odd: []string{"shoal-service"}}, false, false, `"shoal-service"`, "shoal.service=web"},
		"no labels":             {dockerwatch.Seen{State: "running", Compose: "web"}, false, false, "no label shoal.service", "shoal.service=web"},
	} {
		test.seen.Name, test.seen.Node, test.seen.ID = "x", "n2", "ffff0000"
		step := absentStep(s, &Looked{Seen: test.seen}, web, test.live)
		if step.OK != test.ok || !strings.Contains(step.Evidence, test.why) || !strings.Contains(step.Remedy, test.to) {
			t.Errorf("%s: %+v; want %q, %q", name, step, test.why, test.to)
		}
	}
}
