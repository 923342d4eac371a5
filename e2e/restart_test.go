//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"shoal/lab"
)

// TestRestartWritesNothing: an agent that comes back to a kernel that is as it should be leaves it alone. The agent's own
// count of its writes says so, and so do the kernel's counters, which any rewriting would set back.
func TestRestartWritesNothing(t *testing.T) {
	h := home(t)
	h.Docker("network", "create", "quiet")
	h.run("quiet-1", "-l shoal.service=quiet -l shoal.affinity=client -l shoal.scheduler=wrr")
	h.run("quiet-2", "-l shoal.service=quiet -l shoal.affinity=client -l shoal.scheduler=wrr --network quiet")
	h.run("ports", "-l shoal.service=ports -l shoal.ports=http:80:8000,9000/udp -l shoal.publish=8091:8000,8091:9000/udp")
	h.run("empty", "-l shoal.service=empty")
	h.vip("empty")
	h.Docker("rm", "-f", "empty")
	h.task("empty", "")
	h.answered("http://"+h.vip("ports")+"/", "ports")
	h.answered(fmt.Sprintf("http://%v:8091/", h.Addr()), "ports")
	url := h.web("quiet")
	if s := h.client().load("--count", "50", url); s.OK != 50 {
		t.Fatalf("%+v", s)
	}
	if n, found := sum(h.metrics(), "shoal_kernel_writes_total"); !found || n == 0 {
		t.Fatalf("the agent that made all of it has counted %v writes", n)
	}

	h.wholePass()
	state, counters := kernelState(h), kernelCounters(h)
	monitors := map[string]*lab.Process{}
	for _, command := range append(thePlane().monitors, "ip -4 monitor route address rule") {
		monitors[command] = h.Start(strings.Fields(command)...)
	}
	h.RestartAgent()
	h.ready()
	h.wholePass() // beside the one at its start
	metrics := h.metrics()
	for name, v := range metrics {
		if strings.HasPrefix(name, "shoal_kernel_writes_total") && v != 0 {
			t.Errorf("%s is %v", name, v)
		}
	}
	if diff := difference(state, kernelState(h)); diff != "" {
		t.Errorf("the restart changed the kernel's state:\n%s", diff)
	}
	for command, monitor := range monitors {
		if said := wrote(command, monitor.Output()); len(said) > 0 {
			t.Errorf("the kernel told of changes, by %s:\n%s", command, strings.Join(said, ""))
		}
		_ = monitor.Signal(syscall.SIGTERM)
	}
	after := kernelCounters(h)
	if len(counters) < 10 {
		t.Fatalf("too few counters to go by: %v", counters)
	}
	for name, v := range counters {
		if after[name] < v {
			t.Errorf("the counter of %s was set back from %d to %d", name, v, after[name])
		}
	}
}

// TestNoRequestFailsOverARestart makes requests, on new and kept connections, by address and by name, while the agent is
// killed and started again; and by address while it is stopped.
func TestNoRequestFailsOverARestart(t *testing.T) {
	h := home(t)
	h.run("busy-1", "-l shoal.service=busy -l shoal.publish=8092:8000")
	h.run("busy-2", "-l shoal.service=busy -l shoal.publish=8092:8000")
	client, url, published := h.client(), h.web("busy"), fmt.Sprintf("http://%v:8092/", h.Addr())
	h.answered(url, "busy-1", "busy-2")
	h.answered(published, "busy-1", "busy-2")
	stream := func(args ...string) *lab.Load { return h.LoadIn(client.enter(true), args...) }
	ended := func(what string, l *lab.Load, by int) {
		t.Helper()
		if s := l.Stop(); s.Failed != 0 || s.OK < 20 || len(s.Hostnames) < by {
			t.Errorf("%s: of %d requests %d failed: %v; answered by %v", what, s.Sent, s.Failed, s.Errors, s.Hostnames)
		}
	}
	fresh := stream("--timeout", "5s", url)
	kept := stream("--timeout", "5s", "--keep", "--workers", "2", url)
	named := stream("--timeout", "10s", "http://busy:8000/")
	mesh := shared.With(t).Outside().Load("--timeout", "5s", published)
	all := []*lab.Load{fresh, kept, mesh, named}
	for _, l := range all {
		l.Await(3)
	}
	h.RestartAgent()
	h.ready()
	for _, l := range all {
		l.Await(10)
	}
	ended("by name, while the agent was killed and started", named, 2)

	h.KillAgent(syscall.SIGTERM)
	for _, l := range all[:3] {
		l.Await(10)
	}
	ended("by the published port", mesh, 2)
	ended("new connections", fresh, 2)
	ended("kept connections", kept, 1) // which of the two have is chance: other requests take turns between
}

// TestEngineAway has the engine restart, and an agent start where there is none.
func TestEngineAway(t *testing.T) {
	h := home(t)
	h.run("other", "-l shoal.service=another") // has the first VIP, and does not come back
	h.vip("another")
	h.run("back", "-l shoal.service=back")
	vip, url := h.vip("back"), h.web("back")
	h.answered(url, "back")
	comeBack := func() {
		t.Helper()
		h.StartDocker()
		h.ready()
		h.refused(url) // the engine is there, the container is not
		h.Docker("start", "back")
		h.task("back", "running")
		h.answered(url, "back")
		if got := h.vip("back"); got != vip {
			t.Errorf("its VIP is %s, was %s", got, vip)
		}
	}
	away := func() {
		t.Helper()
		lab.Eventually(t, waitLimit, "the agent says that the engine is away", func() error {
			s, err := ask[status](h, "status")
			if err == nil && s.Engine == "connected" {
				err = errors.New(s.Engine)
			}
			return err
		})
	}

	h.StopDocker()
	away()
	comeBack()

	// As after the host itself has been restarted: nothing is left in the kernel.
	h.StopDocker()
	h.KillAgent(syscall.SIGKILL)
	h.Exec("ip", "link", "del", "shoal0")
	h.Shoal("down", "--state-dir", filepath.Join(h.Dir(), "state"))
	h.StartAgent()
	away()
	if out, err := h.TryShoal("status"); code(err) != 1 || !strings.Contains(out, "engine-unreachable: engine unix://") || !strings.Contains(out, "docker.sock") {
		t.Errorf("status does not say what is wrong with the engine: %v\n%s", err, out)
	}
	comeBack()
}
