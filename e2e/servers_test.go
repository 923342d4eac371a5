//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
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
	args := []string{"--servers", "auto", "--replace-server", "5s"}
	for _, h := range l.Cluster([]string{"s1", "s2", "s3", "s4"}, args...) {
		m.hosts = append(m.hosts, &host{h, t})
	}
	t.Cleanup(m.clear)
	first, second, third, fourth := m.hosts[0], m.hosts[1], m.hosts[2], m.hosts[3]
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

	// A server that has lost its data serves the same store again, and begins none of its own.
	second.KillAgent(syscall.SIGKILL)
	second.Exec("rm", "-r", filepath.Join(second.Dir(), "state", "etcd"))
	second.StartAgent(args...)
	lab.Eventually(t, waitLimit, "s2 has its data again", func() error {
		_, err := second.TryExec("ls", filepath.Join(second.Dir(), "state", "etcd"))
		return err
	})
	fourth.hasRole("s2", "server")
	if got := second.vip("old"); got != vip {
		t.Errorf("the VIP of old was %s, and is %s on the host whose store was lost", vip, got)
	}
	second.answered(second.web("new"), "new")

	// A promotion that broke off before the host had the CA's key is ended.
	third.KillAgent(syscall.SIGKILL)
	third.Exec("rm", filepath.Join(third.Dir(), "state", "cluster", "ca.key"))
	third.StartAgent(args...)
	lab.Eventually(t, waitLimit, "s3 admits hosts again", func() error {
		_, err := third.TryShoal("token", "create")
		return err
	})
}
