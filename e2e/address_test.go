//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/lab"
)

// renumbered gives the host an address that no other has.
func (h *host) renumbered() {
	h.t.Helper()
	a := h.Addr().As4()
	a[3] += 100
	h.Renumber(netip.AddrFrom4(a))
}

// hasAddr waits until the agents of all hosts have it that a host is alive at its address.
func (m *members) hasAddr(moved *host) {
	m.t.Helper()
	for _, h := range m.hosts {
		lab.Eventually(m.t, 30*time.Second, fmt.Sprintf("%s has %s alive at %v", h.Name(), moved.Name(), moved.Addr()), func() error {
			out, err := h.TryShoal("nodes")
			if err != nil {
				return err
			}
			for line := range strings.Lines(out) {
				if f := strings.Fields(line); len(f) > 3 && f[0] == moved.Name() && f[1] == moved.Addr().String() && f[3] == "alive" {
					return nil
				}
			}
			return fmt.Errorf("it is not in\n%s", out)
		})
	}
}

// TestHostsAddressesAreFollowed: the agent of a host whose address changes goes on with the new one, by itself; and the
// only server of the store is found again where it is after a start, by hosts that know where it was. VXLAN has the
// hosts' addresses in most places: its tunnel ends are made of them.
func TestHostsAddressesAreFollowed(t *testing.T) {
	l := shared.With(t)
	m := &members{t: t, outside: l.Outside()}
	args := []string{"--backend", "vxlan", "--vxlan-port", "8484", "--vxlan-vni", "84"}
	for _, h := range l.Cluster([]string{"d1", "d2", "d3"}, args...) {
		m.hosts = append(m.hosts, &host{h, t})
		t.Cleanup(func() { h.KillAgent(syscall.SIGTERM) })
	}
	t.Cleanup(m.clear)
	m.settled()
	server, stays, moves := m.hosts[0], m.hosts[1], m.hosts[2]
	moves.run("moving", "--network mesh -l shoal.service=moving -l shoal.publish=8100:8000")
	moves.run("onhost", "--network host -l shoal.service=onhost", "whoami", "serve", "--http", "8081")
	m.served("moving", "moving")
	onhost := "http://" + stays.vip("onhost") + ":8081/"
	stays.answered(onhost, "onhost")

	if device := stays.Exec("ip", "-d", "link", "show", "shoal.vxlan"); !strings.Contains(device, "vxlan id 84 ") || !strings.Contains(device, "dstport 8484 ") {
		t.Errorf("the tunnel is not as the settings say:\n%s", device)
	}

	moves.renumbered()
	start := time.Now()
	m.hasAddr(moves)
	m.served("moving", "moving")
	t.Logf("a task on a host whose address changed was in reach again after %v", time.Since(start))
	stays.answered(onhost, "onhost")
	m.published(8100)
	moves.noProblem(moves.Name())

	// The server while its agent does not run, then while it does.
	server.KillAgent(syscall.SIGTERM)
	server.renumbered()
	server.StartAgent(args...)
	m.hasAddr(server)
	stays.run("late", "--network mesh -l shoal.service=late")
	m.served("late", "late")

	server.renumbered()
	m.hasAddr(server)
	moves.run("later", "--network mesh -l shoal.service=later")
	m.served("later", "later")
	m.served("moving", "moving")
	m.published(8100)
}

// published waits until a port is answered on every host, to a client outside that is seen by its own address.
func (m *members) published(port int) {
	m.t.Helper()
	for _, h := range m.hosts {
		lab.Eventually(m.t, 30*time.Second, fmt.Sprintf("port %d of %s is answered", port, h.Name()), func() error {
			out, err := m.outside.TryExec("whoami", "get", "--timeout", "2s", fmt.Sprintf("http://%v:%d/", h.Addr(), port))
			if err != nil {
				return fmt.Errorf("%w\n%s", err, out)
			}
			if client := field(out, "client"); !strings.HasPrefix(client, m.outsideAddr(h)+":") {
				return fmt.Errorf("its client is seen as %s", client)
			}
			return nil
		})
	}
}
