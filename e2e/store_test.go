//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"shoal/lab"
)

// TestHostsThreeServersOutliveOne: with three servers of the store the loss of one stops nothing, new services included.
func TestHostsThreeServersOutliveOne(t *testing.T) {
	m := cluster(t, "host-gw")
	b, c := m.hosts[1], m.hosts[2]
	m.withoutFirstAgent()
	b.run("fresh-n2", "--network mesh -l shoal.service=fresh")
	b.answered(b.web("fresh"), "fresh-n2")
	c.answered(c.web("fresh"), "fresh-n2")
	if nodes := b.Shoal("nodes"); !strings.Contains(nodes, "n1") {
		t.Errorf("a host without an agent is forgotten:\n%s", nodes)
	}
}

// withoutFirstAgent has all hosts serve the store, and ends the agent of the first. When the test ends all is as it was.
func (m *members) withoutFirstAgent() {
	m.t.Helper()
	a := m.hosts[0]
	others := m.hosts[1:]
	for _, h := range others {
		a.Shoal("server", "promote", h.Name())
		h.hasRole(h.Name(), "server")
	}
	m.t.Cleanup(func() {
		for _, h := range slices.Backward(others) {
			a.Shoal("server", "demote", h.Name())
			a.hasRole(h.Name(), "client")
		}
	})
	a.KillAgent(syscall.SIGKILL)
	m.t.Cleanup(func() { // before the other
		a.StartAgent(clusterArgs...)
		m.settled()
	})
}

// hasRole waits until the agent sees a host in a role in the store.
func (h *host) hasRole(node, role string) {
	h.t.Helper()
	lab.Eventually(h.t, waitLimit, node+" is a "+role+" of the store", func() error {
		out, err := h.TryShoal("nodes")
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 4 && f[0] == node && f[4] == role {
				return nil
			}
		}
		return fmt.Errorf("it is not in\n%s", out)
	})
}

// TestHostsAPortIsPassedOnWithoutTheFirstHost: the first host's agent, whose part it is to release what nobody publishes,
// is down, and the host considered alive; whoever waits for a port gets it all the same.
func TestHostsAPortIsPassedOnWithoutTheFirstHost(t *testing.T) {
	m := cluster(t, "host-gw")
	b, c := m.hosts[1], m.hosts[2]
	m.withoutFirstAgent()
	b.run("first", "--network mesh -l shoal.service=one -l shoal.publish=8000:8000")
	b.answered("http://127.0.0.1:8000/", "first")
	c.run("second", "--network mesh -l shoal.service=two -l shoal.publish=8000:8000")
	c.problem("default/two", "port-taken")
	b.Docker("rm", "-f", "first")
	for _, h := range []*host{b, c} {
		h.answered("http://127.0.0.1:8000/", "second")
	}
	c.noProblem("default/two")
	if nodes := b.Shoal("nodes"); !regexp.MustCompile(`(?m)^n1 .* alive `).MatchString(nodes) {
		t.Errorf("the first host was not considered alive:\n%s", nodes)
	}
}
