//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"shoal/lab"
)

// TestProblems has containers whose labels cannot be meant. Each is told of, by itself and with what to do about it, and
// the one that is in order is served meanwhile.
func TestProblems(t *testing.T) {
	h := home(t)
	h.run("sound", "-l shoal.service=sound")
	url := h.web("sound")
	h.answered(url, "sound")
	load := h.Load("--timeout", "5s", "--interval", "100ms", url)
	tests := []struct {
		name, labels string
		says         []string // in the reason
	}{
		{"weight", "-l shoal.service=bad -l shoal.weight=-1", []string{"shoal.weight", "-1", "0 to 65535"}},
		{"zero", "-l shoal.service=bad -l shoal.ports=0", []string{"shoal.ports", "1 to 65535"}},
		{"high", "-l shoal.service=bad -l shoal.ports=web:80:70000", []string{"shoal.ports", "70000", "1 to 65535"}},
		{"twice", "-l shoal.service=bad -l shoal.ports=80:8000,80:8001", []string{"80/tcp", "twice"}},
		{"reversed", "-l shoal.service=bad -l shoal.publish=7010-7000", []string{"reversed", "7000-7010"}},
		{"overlap", "-l shoal.service=bad -l shoal.publish=7000-7010,7005:80", []string{"7005/tcp", "twice"}},
		{"label", "-l shoal.service=Not_A_Label", []string{"shoal.service", "a-z"}},
		{"scheduler", "-l shoal.service=bad -l shoal.scheduler=best", []string{"shoal.scheduler", "wlc"}},
		{"unknown", "-l shoal.service=bad -l shoal.wieght=3", []string{"shoal.wieght", "shoal.weight"}},
		{"orphan", "-l shoal.ports=80", []string{"shoal.service"}},
	}
	var names []string
	for _, test := range tests {
		h.run("bad-"+test.name, test.labels, "sleep", "1000000")
		names = append(names, "bad-"+test.name)
	}
	for i, test := range tests {
		reason := h.problem(names[i], "labels-invalid")
		// explain says the same, in another process's words: its exit code says that there is something.
		out, err := h.TryShoal("explain", names[i])
		if err == nil || !strings.Contains(err.Error(), "exit status 1") {
			t.Errorf("explain %s ended with %v", names[i], err)
		}
		for _, part := range test.says {
			if !strings.Contains(reason, part) {
				t.Errorf("%s: the reason does not say %q: %s", test.labels, part, reason)
			}
			if !strings.Contains(out, part) {
				t.Errorf("%s: explain does not say %q:\n%s", test.labels, part, out)
			}
		}
	}
	list := h.Shoal("problems")
	logged := h.Agent().Output()
	for _, name := range names {
		if !strings.Contains(list, name) {
			t.Errorf("shoal problems does not list %s:\n%s", name, list)
		}
		if n := strings.Count(logged, "object="+name+" "); n != 1 {
			t.Errorf("%s was logged %d times, want once", name, n)
		}
	}
	if n := h.metrics()[`shoal_problems{code="labels-invalid",severity="problem"}`]; n != float64(len(tests)) {
		t.Errorf("%v problems of containers are counted, want %d", n, len(tests))
	}
	for _, s := range jsonOf[[]service](t, h.Shoal("services", "-o", "json")) {
		if strings.HasSuffix(s.ID, "/bad") {
			t.Errorf("a container that was refused made a service: %+v", s)
		}
	}

	h.Docker(append([]string{"rm", "-f"}, names...)...)
	lab.Eventually(t, waitLimit, "the problems are gone with their containers", func() error {
		if list := h.Shoal("problems"); list != "no problems" {
			return fmt.Errorf("%s", list)
		}
		return nil
	})
	if s := load.Stop(); s.Failed > 0 || s.OK < 20 {
		t.Errorf("the sound service meanwhile: %+v", s)
	}
}
