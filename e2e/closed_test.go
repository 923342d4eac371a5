//go:build e2e

package e2e

import (
	"fmt"
	"testing"

	"shoal/lab"
)

// openEngine has a host's engine leave the mesh's network open, as those from version 28 on do with the gateway mode
// nat-unprotected, which earlier versions of shoal asked for: whatever comes to its bridge is accepted, and nothing keeps
// other bridges from it.
func (h *host) openEngine() {
	h.t.Helper()
	h.Exec("iptables", "-I", "DOCKER-USER", "-o", "shoal0", "-j", "ACCEPT")
	h.t.Cleanup(func() { h.Exec("iptables", "-D", "DOCKER-USER", "-o", "shoal0", "-j", "ACCEPT") })
}

// TestHostsWhoReachesWhat: a container of the mesh is reached by its own address from the mesh alone, by a port that it
// publishes from everywhere, and by a VIP from the hosts and their containers; whatever the engine would let pass.
func TestHostsWhoReachesWhat(t *testing.T) {
	m := cluster(t, "auto")
	n1, n2 := m.hosts[0], m.hosts[1]
	n1.openEngine()
	aside := n1.run("aside", "--network mesh")
	m.tasks("web", "-l shoal.publish=8094:8000")
	task := container{n1, "web-n1"}
	vip := n1.vip("web")
	for _, prefix := range []string{n1.meshSubnet(), "10.96.0.0/16"} {
		m.outside.Exec("ip", "route", "add", prefix, "via", n1.Addr().String())
		t.Cleanup(func() { m.outside.TryExec("ip", "route", "del", prefix) })
	}
	inside := n1.run("inside", "--network mesh", "sleep", "1000000")
	far := n2.run("far", "--network mesh", "sleep", "1000000")

	get := func(addr any, port int) []string {
		return []string{"whoami", "get", "--timeout", "2s", fmt.Sprintf("http://%v:%d/", addr, port)}
	}
	what := []struct {
		name string
		try  []string
	}{
		{"an unpublished port", get(aside.addr(), 8000)},
		{"a task's own address", get(task.addr(), 8000)},
		{"a published port", get(n1.Addr(), 8094)},
		{"a VIP", get(vip, 8000)},
		{"the DNS server", []string{"dig", "+tries=1", "+time=2", "@" + dnsServer, "web.mesh.internal"}},
	}
	in := func(c container) func(...string) (string, error) {
		return func(args ...string) (string, error) { return c.h.TryExec(append(c.enter(false), args...)...) }
	}
	for _, who := range []struct {
		name    string
		exec    func(...string) (string, error)
		reaches [5]bool
	}{
		{"a neighbour on the link", m.outside.TryExec, [5]bool{false, false, true, false, false}},
		{"a container of another bridge", in(n1.client()), [5]bool{false, true, true, true, true}},
		{"a container of the mesh", in(inside), [5]bool{true, true, true, true, true}},
		{"another host", n2.TryExec, [5]bool{false, true, true, true, true}},
		{"another host's container of the mesh", in(far), [5]bool{true, true, true, true, true}},
		{"another host's container of another bridge", in(n2.client()), [5]bool{false, true, true, true, true}}, // seen as its host
	} {
		for i, w := range what {
			if who.reaches[i] {
				lab.Eventually(t, waitLimit, who.name+" reaches "+w.name, func() error {
					_, err := who.exec(w.try...)
					return err
				})
			} else if out, err := who.exec(w.try...); err == nil {
				t.Errorf("%s reaches %s:\n%s", who.name, w.name, out)
			}
		}
	}

	// What docs/security.md says of published ports: rules in front of all that changes destinations hold for them.
	published := get(n1.Addr(), 8094)
	n1.Exec("iptables", "-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--dport", "8094", "-s", m.outside.Addr().String(), "-j", "DROP")
	t.Cleanup(func() {
		n1.TryExec("iptables", "-t", "raw", "-D", "PREROUTING", "-p", "tcp", "--dport", "8094", "-s", m.outside.Addr().String(), "-j", "DROP")
	})
	if out, err := m.outside.TryExec(published...); err == nil {
		t.Errorf("a client reaches a published port that is closed to it:\n%s", out)
	}
	if _, err := n2.TryExec(published...); err != nil {
		t.Errorf("others do not: %v", err)
	}
}
