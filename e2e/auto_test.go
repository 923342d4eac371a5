//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/lab"
)

// TestHostsAutoChoosesAPeerAtATime: hosts of one link route to each other, one behind a router is reached through vxlan; and
// everybody reaches everybody.
func TestHostsAutoChoosesAPeerAtATime(t *testing.T) {
	l := shared.With(t)
	m := cluster(t, "auto")
	a, b := m.hosts[0], m.hosts[1]
	remote := &host{l.Far("far"), t}
	remote.StartAgent(append(a.Invitation(), "--backend", "auto")...)
	m.hosts = append(m.hosts, remote)
	t.Cleanup(func() {
		m.clear()
		remote.KillAgent(syscall.SIGTERM)
		remote.Shoal("down")
		lab.Eventually(t, waitLimit, "the host is forgotten", func() error {
			_, err := a.TryShoal("node", "rm", "far") // refused while its agent may come back
			return err
		})
	})
	m.settled()
	m.reach(mtu["auto"])
	for _, test := range []struct {
		from, to *host
		device   string
	}{{a, b, "eth0"}, {a, remote, "shoal.vxlan"}, {remote, a, "shoal.vxlan"}} {
		test.from.reachesBy(test.to, test.device)
	}
}

// reachesBy waits until a host routes to another one's containers by a device, and its agent says so.
func (h *host) reachesBy(to *host, device string) {
	h.t.Helper()
	transport := "host-gw"
	if device != "eth0" {
		transport = strings.TrimPrefix(device, "shoal.")
	}
	addr := to.run("reached", "--network mesh").addr()
	to.Docker("rm", "-f", "reached")
	lab.Eventually(h.t, 150*time.Second, fmt.Sprintf("%s reaches %s by %s", h.Name(), to.Name(), device), func() error {
		if route := h.Exec("ip", "route", "get", addr); !strings.Contains(route, "dev "+device+" ") {
			return errors.New(route)
		}
		nodes, err := ask[[]struct{ Name, Transport string }](h, "nodes")
		for _, n := range nodes {
			if n.Name == to.Name() && n.Transport != transport {
				err = fmt.Errorf("shoal nodes says %q", n.Transport)
			}
		}
		return err
	})
}

// TestHostsAutoLeavesALinkThatDropsWhatContainersSend: where a cloud carries packets of the hosts' own addresses only, host-gw
// is left for vxlan, with a notice; an agent that starts there does not take it; and where the cloud is told to let pass, it is
// taken again.
func TestHostsAutoLeavesALinkThatDropsWhatContainersSend(t *testing.T) {
	m := cluster(t, "auto")
	a, b := m.hosts[0], m.hosts[1]
	everywhere := func(device string) {
		t.Helper()
		for _, from := range m.hosts {
			for _, to := range m.hosts {
				if from != to {
					from.reachesBy(to, device)
				}
			}
		}
	}
	everywhere("eth0")
	mend := shared.With(t).CheckAddresses()
	everywhere("shoal.vxlan")
	if why := a.problem(b.Name(), "host-gw-blocked"); !strings.Contains(why, "drops what containers send") {
		t.Errorf("the notice is %q", why)
	}
	m.reach(mtu["auto"])
	m.clear()

	b.KillAgent(syscall.SIGTERM)
	b.Exec("ip", "route", "flush", "proto", "83")
	var changes []string
	monitor := b.Start("ip", "monitor", "route")
	b.StartAgent("--backend", "auto")
	m.settled()
	b.reachesBy(a, "shoal.vxlan")
	b.problem(a.Name(), "host-gw-blocked")
	for line := range strings.Lines(monitor.Output()) {
		if strings.HasPrefix(line, "10.244.") && strings.Contains(line, "/24") && strings.Contains(line, "dev eth0") {
			changes = append(changes, line)
		}
	}
	_ = monitor.Signal(syscall.SIGKILL)
	if len(changes) > 0 {
		t.Errorf("an agent that starts on such a link used it: %q", changes)
	}
	m.reach(mtu["auto"])
	m.clear()

	mend()
	everywhere("eth0")
	a.noProblem(b.Name())
	m.reach(mtu["auto"])
}
