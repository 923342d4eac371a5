//go:build e2e

package e2e

import (
	"strings"
	"syscall"
	"testing"

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
		lab.Eventually(t, patience, "the host is forgotten", func() error {
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
		route := test.from.Exec("ip", "route", "get", test.to.run("probe", "--network mesh").addr())
		if !strings.Contains(route, "dev "+test.device) {
			t.Errorf("from %s to %s: %s, want %s", test.from.Name(), test.to.Name(), route, test.device)
		}
		test.to.Docker("rm", "-f", "probe")
	}
}
