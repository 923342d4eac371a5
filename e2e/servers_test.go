//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"shoal/lab"
)

// TestHostsAutoServersAreReplaced: three of four hosts serve the store without anybody's asking. One that dies stops
// nothing, and the fourth takes its place.
func TestHostsAutoServersAreReplaced(t *testing.T) {
	l := shared.With(t)
	m := &members{t: t, outside: l.Outside()}
	for _, h := range l.Cluster([]string{"s1", "s2", "s3", "s4"}, "--servers", "auto", "--replace-server", "5s") {
		m.hosts = append(m.hosts, &host{h, t})
	}
	t.Cleanup(m.clear)
	first, second, fourth := m.hosts[0], m.hosts[1], m.hosts[3]
	t.Cleanup(func() {
		for _, h := range m.hosts[1:] {
			h.KillAgent(syscall.SIGTERM)
		}
	})
	for _, name := range []string{"s1", "s2", "s3"} {
		fourth.hasRole(name, "server")
	}
	fourth.hasRole("s4", "client")
	if _, err := second.TryShoal("server", "demote", "s2"); err == nil || !strings.Contains(err.Error(), "--servers manual") {
		t.Errorf("a demotion that would be undone: %v", err)
	}
	fourth.run("old", "--network mesh -l shoal.service=old")
	vip := fourth.vip("old")

	// The host is lost, so that nothing of it answers: its agent alone might come back any moment.
	first.KillAgent(syscall.SIGKILL)
	first.Exec("ip", "link", "set", "eth0", "down")
	fourth.hasRole("s4", "server")
	lab.Eventually(t, waitLimit, "s1 serves no more", func() error {
		out, err := fourth.TryShoal("nodes")
		if err == nil && strings.Count(out, " server ") != 3 {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	second.run("new", "--network mesh -l shoal.service=new")
	fourth.answered(fourth.web("new"), "new")
	if got := second.vip("old"); got != vip {
		t.Errorf("the VIP of old was %s, and is %s", vip, got)
	}
}
