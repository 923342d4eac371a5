//go:build e2e

package e2e

import (
	"strings"
	"syscall"
	"testing"
)

// TestHostsTheEnginesOwnNetworkIsTheMesh: with --network bridge containers need no network of shoal's, where the hosts'
// subnets differ.
func TestHostsTheEnginesOwnNetworkIsTheMesh(t *testing.T) {
	l := shared.With(t)
	m := &members{t: t, outside: l.Outside()}
	for _, h := range l.Cluster([]string{"g1", "g2"}, "--network", "bridge") {
		m.hosts = append(m.hosts, &host{h, t})
		t.Cleanup(func() {
			h.KillAgent(syscall.SIGTERM)
			h.Shoal("down")
		})
	}
	t.Cleanup(m.clear)
	for _, h := range m.hosts {
		h.run("plain-"+h.Name(), "-l shoal.service=plain -l shoal.publish=8000:8000")
	}
	m.served("plain", "plain-g1", "plain-g2")
	c := m.hosts[0].client()
	for client := range c.load("--count", "8", "http://plain.mesh.internal:8000/").Clients {
		if client != c.addr() {
			t.Errorf("a container at %s is seen as %s", c.addr(), client)
		}
	}
	for client := range m.loadOutside("--count", "8", "http://"+m.hosts[1].Addr().String()+":8000/").Clients {
		if client != m.outside.Addr().String() {
			t.Errorf("a client outside is seen as %s", client)
		}
	}
	if networks := m.hosts[0].Docker("network", "ls"); strings.Contains(networks, "mesh") {
		t.Errorf("a network was made that nobody needs:\n%s", networks)
	}
}

// TestHostsEqualSubnetsAreRefused: of two hosts whose networks have the same addresses the second is told so, by name, and
// nobody is sent to the other's containers; given another subnet, it takes part.
func TestHostsEqualSubnetsAreRefused(t *testing.T) {
	l := shared.With(t)
	m := &members{t: t, outside: l.Outside()}
	args := []string{"--network", "same"}
	for i, h := range l.Hosts("g1", "g2") {
		h.Docker("network", "create", "--subnet", "172.30.0.0/24", "same")
		if i > 0 {
			args = append(m.hosts[0].Invitation(), args...)
		}
		h.StartAgent(args...)
		m.hosts = append(m.hosts, &host{h, t})
		t.Cleanup(func() {
			h.KillAgent(syscall.SIGTERM)
			h.Shoal("down")
		})
	}
	t.Cleanup(m.clear)
	g1, g2 := m.hosts[0], m.hosts[1]
	if why := g2.problem("same", "subnet-overlap"); !strings.Contains(why, "g1") || !strings.Contains(why, "g2") || !strings.Contains(why, "172.30.0.0/24") {
		t.Errorf("equal subnets of g1 and g2: %s", why)
	}
	g1.noProblem("same")

	tasks := map[string]container{}
	for _, h := range m.hosts {
		tasks[h.Name()] = h.run("web-"+h.Name(), "--network same -l shoal.service=web")
	}
	if a, b := tasks["g1"].addr(), tasks["g2"].addr(); a != b {
		t.Fatalf("the tasks have the addresses %s and %s: this test is of equal ones", a, b)
	}
	g1.task("web-g2", "unreached")
	for _, h := range m.hosts {
		h.answered(h.web("web"), "web-"+h.Name())
	}
	g2.run("aside", "-l shoal.service=aside")
	g2.answered(g2.web("aside"), "aside")
	g1.task("aside", "unreached")
	g1.refused(g1.web("aside"))

	g2.Docker("rm", "-f", "web-g2")
	g2.Docker("network", "rm", "same")
	g2.Docker("network", "create", "--subnet", "172.31.0.0/24", "same")
	tasks["g2"] = g2.run("web-g2", "--network same -l shoal.service=web")
	g2.noProblem("same")
	m.served("web", "web-g1", "web-g2")
	g2.problem("aside", "task-unreached")
}
