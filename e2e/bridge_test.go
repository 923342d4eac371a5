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
