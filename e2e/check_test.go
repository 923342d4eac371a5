//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"shoal/lab"
)

type finding struct{ Check, Level, Found, Advice string }

// TestCheck: shoal check tells of a host on which all is well, of one where something is in the way, and of one where the
// agent then refuses to start, for all of the same reasons at once.
func TestCheck(t *testing.T) {
	h := on(t, "c")
	t.Cleanup(h.clear)
	flags := []string{"--state-dir", filepath.Join(h.Dir(), "checked"), "--docker-host", "unix://" + h.DockerSocket()}
	check := func(what string, want int) []finding {
		t.Helper()
		out, err := h.TryShoal(append([]string{"check", "-o", "json"}, flags...)...)
		if code(err) != want {
			t.Errorf("%s: exit status %d, want %d: %s, %v", what, code(err), want, out, err)
		}
		if err != nil {
			out = err.Error()
		}
		found := strings.Index(out, "[")
		if found < 0 {
			t.Fatalf("%s: %s", what, out)
		}
		return jsonOf[[]finding](t, out[found:strings.LastIndex(out, "]")+1])
	}
	has := func(fs []finding, check, level, part string) {
		t.Helper()
		for _, f := range fs {
			if f.Check == check && f.Level == level && strings.Contains(f.Found+" "+f.Advice, part) {
				return
			}
		}
		t.Errorf("no %s of %s with %q in %+v", level, check, part, fs)
	}
	well := check("a host where all is well", 0)
	has(well, "kernel", "ok", "data plane ")
	has(well, "engine", "ok", "version ")
	has(well, "ports", "ok", "")

	// Somebody takes a port of the store.
	taken := h.Start("busybox", "nc", "-l", "-p", "2379")
	t.Cleanup(func() { _ = taken.Signal(syscall.SIGKILL) })
	lab.Eventually(t, waitLimit, "port 2379 is taken", func() error {
		out, err := h.TryExec("ss", "-Hlnt", "sport = :2379")
		if err == nil && out == "" {
			err = errors.New("nobody listens")
		}
		return err
	})
	warned := check("a port that is taken", 1)
	has(warned, "ports", "warning", "2379/tcp is taken: busybox (pid ")

	// Two pools that the host routes elsewhere.
	h.Exec("ip", "link", "add", "elsewhere", "type", "bridge")
	remove := sync.OnceFunc(func() { h.Exec("ip", "link", "del", "elsewhere") })
	t.Cleanup(remove)
	h.Exec("ip", "link", "set", "elsewhere", "up")
	h.Exec("ip", "route", "add", "10.0.0.0/8", "dev", "elsewhere")
	refused := check("pools that are somebody else's", 2)
	reasons := []string{"10.96.0.0/16 overlaps 10.0.0.0/8", "10.244.0.0/16 of containers' subnets overlaps 10.0.0.0/8"}
	for _, reason := range reasons {
		has(refused, "addresses", "cannot run", reason)
	}
	has(refused, "ports", "warning", "2379/tcp")
	out, err := h.TryExec(append([]string{"shoal", "agent", "--run-dir", filepath.Join(h.Dir(), "checked-run")}, flags...)...)
	for _, reason := range reasons {
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("the agent does not refuse because of %q: %v %s", reason, err, out)
		}
	}
	if code(err) != 2 {
		t.Errorf("the agent ends with %v, want 2", err)
	}

	if _, err := h.TryShoal(append([]string{"check"}, flags...)...); !strings.Contains(fmt.Sprint(err), "RESULT") {
		t.Errorf("for people it prints\n%v", err)
	}
	remove()
	h.StopDocker()
	t.Cleanup(h.StartDocker)
	has(check("no engine", 1), "engine", "warning", "does not answer")
}
