package lab

import (
	"fmt"
	"strings"
	"time"
)

// Cluster starts shoal's agents on hosts of those names, which it makes where they are not, and has them join the
// first one's cluster. args are those of every agent. It returns once every host sees every other alive.
func (l *Lab) Cluster(names []string, args ...string) []*Host {
	l.t.Helper()
	hosts := l.Hosts(names...)
	hosts[0].StartAgent(args...)
	for _, h := range hosts[1:] {
		h.StartAgent(append(hosts[0].Invitation(), args...)...)
	}
	AwaitNodes(l.t, hosts...)
	return hosts
}

// Invitation makes a join token on the host, and returns the arguments by which an agent joins with it. args are those of
// shoal token create.
func (h *Host) Invitation(args ...string) []string {
	h.t.Helper()
	var command string
	Eventually(h.t, time.Minute, h.name+" gives a join token", func() error {
		out, err := h.TryShoal(append([]string{"token", "create"}, args...)...)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		command = out
		return nil
	})
	_, join, found := strings.Cut(strings.TrimSpace(command), "shoal agent ")
	if !found {
		h.t.Fatalf("%s: shoal token create printed %q, no command", h.name, command)
	}
	return strings.Fields(join)
}

// AwaitNodes waits until each of the hosts sees all of them alive and with a subnet.
func AwaitNodes(t T, hosts ...*Host) {
	t.Helper()
	for _, h := range hosts {
		Eventually(t, time.Minute, h.name+" sees every host alive", func() error {
			out, err := h.TryShoal("nodes")
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			for _, other := range hosts {
				if !seesAlive(out, other.name) {
					return fmt.Errorf("%s is not alive with a subnet in\n%s", other.name, out)
				}
			}
			return nil
		})
	}
}

// seesAlive reads the line of a node in what shoal nodes printed: its name, address, subnet and state.
func seesAlive(nodes, name string) bool {
	for line := range strings.Lines(nodes) {
		f := strings.Fields(line)
		if len(f) > 3 && f[0] == name {
			return f[2] != "-" && f[3] == "alive"
		}
	}
	return false
}
