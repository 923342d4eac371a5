//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"shoal/lab"
	"shoal/lab/kernel"
)

// TestAHostsProcessesAreInItsControlGroup: hosts of the lab have one kernel. What an agent attaches to the control group
// of its host is about that host alone only if all of that host is in it, and nothing else.
func TestAHostsProcessesAreInItsControlGroup(t *testing.T) {
	lab.Needs(t, "cgroup2")
	a, b := home(t), on(t, "b")
	if a.Cgroup() == "" {
		t.Fatal("the host has no control group")
	}
	if a.Cgroup() == b.Cgroup() {
		t.Fatalf("both hosts have %s", a.Cgroup())
	}
	a.Docker("run", "-d", "--name", "grouped", "whoami")
	a.Docker("exec", "-d", "grouped", "sleep", "1000")
	groups := map[string]string{
		"a command":    a.Exec("cat", "/proc/self/cgroup"),
		"b's command":  b.Exec("cat", "/proc/self/cgroup"),
		"its agent":    groupOf(t, a.Agent()),
		"its engine":   groupOf(t, a.Engine()),
		"a background": groupOf(t, a.Start("sleep", "1000")),
		"by on":        a.byOn("cat", "/proc/self/cgroup"),
	}
	pids := strings.Fields(a.Docker("top", "grouped", "-o", "pid"))[1:] // without the heading
	if len(pids) != 2 {
		t.Errorf("the container's processes are %v", pids)
	}
	for _, pid := range pids {
		groups["a container's process "+pid] = a.Exec("cat", "/proc/"+pid+"/cgroup")
	}
	for who, text := range groups {
		h := a
		if who == "b's command" {
			h = b
		}
		if in := unified(text); in != h.Cgroup() && !strings.HasPrefix(in, h.Cgroup()+"/") {
			t.Errorf("%s is in %q, not in %s:\n%s", who, in, h.Cgroup(), text)
		}
	}
	if got := a.Exec("printenv", "SHOAL_SOCKET_CGROUP"); got != a.Cgroup() {
		t.Errorf("agents are told %q", got)
	}
}

// TestWhatAHostPinsIsItsOwn: each has a file system of BPF objects (bpf(2), BPF_OBJ_PIN).
func TestWhatAHostPinsIsItsOwn(t *testing.T) {
	a, b := on(t, "a"), on(t, "b")
	for _, h := range []*host{a, b} {
		if kind := h.Exec("stat", "-f", "-c", "%t", "/sys/fs/bpf"); kind != "cafe4a11" { // BPF_FS_MAGIC
			t.Fatalf("%s: what is mounted on /sys/fs/bpf is of type %s", h.Name(), kind)
		}
	}
	a.Exec("mkdir", "/sys/fs/bpf/pinned")
	defer a.Exec("rmdir", "/sys/fs/bpf/pinned")
	if out, err := b.TryExec("ls", "/sys/fs/bpf/pinned"); err == nil {
		t.Errorf("b has a's: %q", out)
	}
}

func groupOf(t *testing.T, p *lab.Process) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// unified is the folder of the version 2 group in a /proc/PID/cgroup (cgroups(7)).
func unified(text string) string {
	for line := range strings.Lines(text) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return filepath.Join(kernel.UnifiedHierarchy(), strings.TrimSpace(path))
		}
	}
	return ""
}

// byOn runs a command on the host as who looks around in a lab does.
func (h *host) byOn(args ...string) string {
	h.t.Helper()
	out, err := exec.Command(filepath.Join(shared.Bin(), "on"), append([]string{h.Name()}, args...)...).CombinedOutput()
	if err != nil {
		h.t.Errorf("on %s %v: %v: %s", h.Name(), args, err, out)
	}
	return string(out)
}
