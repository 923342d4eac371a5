//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/lab"
)

// listed waits until `shoal problems` on h lists a problem: code, object and the host that has it.
func (h *host) listed(code, object, node string) (reason string) {
	h.t.Helper()
	lab.Eventually(h.t, 3*waitLimit, fmt.Sprintf("%s lists %s of %s on %s", h.Name(), code, object, node), func() error {
		out, err := h.TryShoal("problems", "-o", "json")
		if err != nil {
			return err
		}
		all := jsonOf[[]problem](h.t, out)
		i := slices.IndexFunc(all, func(p problem) bool { return p.Code == code && p.Object == object && p.Node == node })
		if i < 0 {
			return fmt.Errorf("it lists %+v", all)
		}
		reason = all[i].Reason
		return nil
	})
	return reason
}

// healthy waits until the cluster is, by the command that does so.
func (h *host) healthy() {
	h.t.Helper()
	if out, err := h.TryShoal("status", "--wait", "--timeout", "60s"); err != nil || !strings.Contains(out, "healthy") {
		h.t.Fatalf("%s: the cluster does not get healthy: %v\n%s", h.Name(), err, out)
	}
}

// TestHostsProblemsAreTheClusters has something go wrong on one host after the other, and asks another one: it tells what is
// wrong and where, status ends with 1 and names it, and with 0 when it is repaired.
func TestHostsProblemsAreTheClusters(t *testing.T) {
	m := cluster(t, "host-gw")
	n1, n2, n3 := m.hosts[0], m.hosts[1], m.hosts[2]
	n1.healthy()
	degraded := func(by string) {
		t.Helper()
		if out, err := n1.TryShoal("status"); code(err) != 1 || !strings.Contains(out, "degraded") || !strings.Contains(out, by) {
			t.Errorf("status ends with %v, want 1 and %q:\n%s", err, by, out)
		}
	}
	says := func(reason string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(reason, part) {
				t.Errorf("the reason does not say %q: %s", part, reason)
			}
		}
	}

	// Containers: on their own hosts, as seen from n1.
	const mesh = "--network mesh -l shoal.service="
	n3.run("wrong", mesh+"wrong -l shoal.weight=-1", "sleep", "1000000")
	n2.run("loop", mesh+"loop --restart always", "sh", "-c", "sleep 0.2; exit 3")
	n3.run("sick", mesh+"sick --health-cmd false --health-interval 1s --health-retries 1", "sleep", "1000000")
	n2.run("still", mesh+"still", "sleep", "1000000")
	n2.task("still", "running")
	n2.pause("still")
	says(n1.listed("labels-invalid", "wrong", "n3"), "shoal.weight")
	says(n1.listed("task-crashed", "loop", "n2"), "exit code 3", "docker logs loop")
	says(n1.listed("task-unhealthy", "sick", "n3"), "docker inspect")
	says(n1.listed("service-down", "default/sick", "n3"), "sick on n3 is unhealthy")
	says(n1.listed("task-paused", "still", "n2"), "docker unpause still")
	if out := n1.Shoal("problems"); !strings.Contains(out, "HOST") || !strings.Contains(out, "task-paused") {
		t.Errorf("the list is\n%s", out)
	}
	degraded("more") // there are six, and five are named
	if _, err := n1.TryShoal("status", "--wait", "--timeout", "2s"); code(err) != 1 {
		t.Errorf("status --wait ends with %v", err)
	}
	if out := n1.Shoal("problems", "task-crashed"); !strings.Contains(out, "docker logs CONTAINER") {
		t.Errorf("of the code it says\n%s", out)
	}
	if _, err := n1.TryShoal("problems", "task-crushed"); code(err) != 2 {
		t.Errorf("of a code that is none: %v", err)
	}
	m.clear()
	n1.healthy()

	// Settings, on a host that is of the cluster already.
	n3.KillAgent(syscall.SIGTERM)
	n3.StartAgent(append(slices.Clone(clusterArgs), "--flat-names")...)
	says(n1.listed("settings-differ", "--flat-names", "n3"), "it is true here, and false on n1, n2")
	degraded("settings-differ: setting --flat-names on n3")
	n3.KillAgent(syscall.SIGTERM)

	// An agent that does not run, and this host's own.
	says(n1.listed("agent-silent", "n3", "n3"), "connection refused", "systemctl status shoal")
	if out, err := n3.TryShoal("status"); code(err) != 2 {
		t.Errorf("status without an agent ends with %v\n%s", err, out)
	}
	n3.Skew(0)
	n3.StartAgent(clusterArgs...)
	n1.healthy()

	// A clock that is wrong.
	n3.Skew(90 * time.Second)
	says(n1.listed("clock-skew", "n3", "n3"), "ahead of most hosts' clocks")
	n3.Skew(0)
	n1.healthy()

	// A dead host, with a task.
	n3.run("far", mesh+"far")
	n1.answered(n1.web("far"), "far")
	n3.CutOff()
	t.Cleanup(n3.Reconnect)
	says(n1.listed("host-dead", "n3", "n3"), "shoal node rm n3")
	says(n1.listed("task-lost", "far", "n3"), "its host n3 is dead")
	n1.listed("service-down", "default/far", "n3")
	degraded("host-dead: node n3 on n3")
	n3.listed("store-unreachable", "etcd", "n3") // n1 serves it
	n3.Reconnect()
	n1.healthy()

	// The engine goes, and with it the host's containers.
	n2.StopDocker()
	t.Cleanup(func() {
		if _, err := n2.TryDocker("ps"); err != nil {
			n2.StartDocker()
		}
	})
	says(n1.listed("engine-unreachable", "unix://"+n2.DockerSocket(), "n2"), "systemctl status docker")
	degraded("engine-unreachable: engine unix://")
	n2.StartDocker()
	n1.healthy()
}
