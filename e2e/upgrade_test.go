//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"shoal/lab"
)

// otherProgram is shoal of another version, whose BPF maps are others.
const otherProgram = "shoal-other"

// TestHostsAreUpgradedOneByOne: under load, and with the versions side by side, in which hosts tell each other of tasks that start
// and stop, also without their store. No request fails.
func TestHostsAreUpgradedOneByOne(t *testing.T) {
	l := shared.With(t)
	m := &members{t: t, outside: l.Outside()}
	for _, h := range l.Cluster([]string{"w1", "w2", "w3"}) {
		m.hosts = append(m.hosts, &host{h, t})
		t.Cleanup(func() { h.KillAgent(syscall.SIGTERM); h.Program("") })
	}
	t.Cleanup(m.clear)
	m.settled()
	for _, h := range m.hosts {
		h.run("web-"+h.Name(), "--network mesh -l shoal.service=web -l shoal.publish=8100:8000")
	}
	m.served("web", "web-w1", "web-w2", "web-w3")
	url := m.hosts[0].web("web")
	loads := map[string]*lab.Load{}
	for _, h := range m.hosts {
		asker := h.run("asker", "--network mesh", "sleep", "1000000")
		loads["a container on "+h.Name()+" by the VIP"] = h.LoadIn(asker.enter(false), "--timeout", "5s", "--interval", "50ms", url)
		loads["a kept connection on "+h.Name()] = h.Load("--timeout", "5s", "--interval", "50ms", "--keep", url)
		loads["outside by the port of "+h.Name()] = m.outside.Load("--timeout", "5s", "--interval", "50ms", fmt.Sprintf("http://%v:8100/", h.Addr()))
	}
	for i, h := range m.hosts {
		for _, load := range loads {
			load.Await(5)
		}
		h.KillAgent(syscall.SIGTERM)
		h.Program(otherProgram)
		h.StartAgent()
		h.ready()
		if out := h.Shoal("status"); !strings.Contains(out, "-other") {
			t.Errorf("the agent of %s is not of the other version:\n%s", h.Name(), out)
		}
		for _, on := range m.hosts { // of this version and of that
			name := fmt.Sprintf("more-%s-%d", on.Name(), i)
			on.run(name, "--network mesh -l shoal.service=web -l shoal.publish=8100:8000")
			m.served("web", "web-w1", "web-w2", "web-w3", name)
			on.Shoal("stop", name)
			on.Docker("rm", "-f", name)
		}
		if i == 1 { // hosts tell each other of tasks meanwhile
			server := m.hosts[0]
			pid := server.store()
			server.Exec("kill", "-STOP", pid)
			for _, on := range m.hosts[1:] {
				on.run("alone-"+on.Name(), "--network mesh -l shoal.service=web")
				m.hosts[1].answered(url, "web-w1", "web-w2", "web-w3", "alone-"+on.Name())
				m.hosts[2].answered(url, "web-w1", "web-w2", "web-w3", "alone-"+on.Name())
				on.Shoal("stop", "alone-"+on.Name())
				on.Docker("rm", "-f", "alone-"+on.Name())
			}
			server.Exec("kill", "-CONT", pid)
		}
	}
	m.served("web", "web-w1", "web-w2", "web-w3")
	if got := m.hosts[0].web("web"); got != url {
		t.Errorf("web was at %s, and is at %s", url, got)
	}
	for who, load := range loads {
		load.Await(5)
		if s := load.Stop(); s.Failed > 0 {
			t.Errorf("%s: of %d requests %d failed: %v", who, s.Sent, s.Failed, s.Errors)
		}
	}
}
