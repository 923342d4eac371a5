//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/lab"
)

// TestHostsAStoreIsMadeAnewWithoutABackup: the only server of the store is lost, with its disk, the CA's key and no backup.
// Another host makes a new store of what it knows, under a new CA. The third follows by itself, VIPs and subnets stay, what
// was published goes on; and the lost host comes back as a new one.
func TestHostsAStoreIsMadeAnewWithoutABackup(t *testing.T) {
	l := shared.With(t)
	m := &members{t: t, outside: l.Outside()}
	for _, h := range l.Cluster([]string{"v1", "v2", "v3"}) {
		m.hosts = append(m.hosts, &host{h, t})
		t.Cleanup(func() { h.KillAgent(syscall.SIGTERM) })
	}
	t.Cleanup(m.clear)
	lost, second, third := m.hosts[0], m.hosts[1], m.hosts[2]
	second.run("near", "--network mesh -l shoal.service=near -l shoal.publish=8120:8000")
	third.run("far", "--network mesh -l shoal.service=far")
	second.answered(third.web("near"), "near")
	third.answered(second.web("far"), "far")
	vips := map[string]string{"near": second.vip("near"), "far": second.vip("far")}
	before := map[*host]string{second: subnet(second, "v2"), third: subnet(second, "v3")}

	recover := func(h *host) (string, error) {
		return h.TryExec("shoal", "server", "recover", "--node", h.Name(), "--state-dir", filepath.Join(h.Dir(), "state"))
	}
	if _, err := recover(second); err == nil || !strings.Contains(err.Error(), "in use by another agent") {
		t.Errorf("recover beside the agent: %v", err)
	}
	second.KillAgent(syscall.SIGTERM)
	if _, err := recover(second); err == nil || !strings.Contains(err.Error(), "the store answers") {
		t.Errorf("recover while the store answers: %v", err)
	}
	second.StartAgent()
	lab.AwaitNodes(t, lost.Host, second.Host, third.Host)

	lost.KillAgent(syscall.SIGKILL)
	lost.Exec("rm", "-r", filepath.Join(lost.Dir(), "state"))
	lost.CutOff()
	t.Cleanup(lost.Reconnect)
	load := m.outside.Load("--timeout", "5s", fmt.Sprintf("http://%v:8120/", third.Addr()))
	second.KillAgent(syscall.SIGTERM)
	out, err := recover(second)
	if err != nil || !strings.Contains(out, "v1, v2, v3") && !strings.Contains(out, "v3") {
		t.Fatalf("recover: %v\n%s", err, out)
	}
	second.StartAgent()
	third.run("later", "--network mesh -l shoal.service=later") // needs a VIP: the store takes it once the host has followed
	second.answered(second.web("later"), "later")
	for name, vip := range vips {
		for _, h := range []*host{second, third} {
			if got := h.vip(name); got != vip {
				t.Errorf("on %s, the VIP of %s is %s, and was %s", h.Name(), name, got, vip)
			}
			h.answered("http://"+vip+":8000/", name)
		}
	}
	for h, was := range before {
		if got := subnet(third, h.Name()); got != was {
			t.Errorf("the subnet of %s is %s, and was %s", h.Name(), got, was)
		}
	}
	if s := load.Stop(); s.Failed > 0 {
		t.Errorf("%d of %d requests from outside failed: %v", s.Failed, s.Sent, s.Errors)
	}
	lab.Eventually(t, waitLimit, "the lost host is named", func() error {
		out, err := second.TryShoal("problems")
		if err == nil && !strings.Contains(out, "shoal node rm v1") {
			err = fmt.Errorf("%s", out)
		}
		return err
	})

	// The lost host is removed, and comes back as a new one, under the new CA.
	second.Shoal("node", "rm", "v1")
	lab.Eventually(t, waitLimit, "nobody is left to follow", func() error {
		out, err := second.TryShoal("problems")
		if err == nil && strings.Contains(out, "v1") {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	lost.Reconnect()
	_, token, _ := strings.Cut(second.Shoal("token", "create"), "--token ")
	lost.StartAgent("--join", second.Addr().String(), "--token", strings.TrimSpace(token))
	lab.AwaitNodes(t, lost.Host, second.Host, third.Host)
	lost.answered(lost.web("far"), "far")
}

// subnet is that of a host, as another one sees it.
func subnet(h *host, of string) string {
	h.t.Helper()
	for line := range strings.Lines(h.Shoal("nodes")) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == of {
			return f[2]
		}
	}
	h.t.Fatalf("%s does not know host %s", h.Name(), of)
	return ""
}

// TestHostsAStoreIsMadeAnewByTheLastOfThreeServers: two of three servers are lost with their disks, and the third takes no
// changes any more. It makes a new store of what it knows; as it holds the CA's key, the other host stays who it is.
func TestHostsAStoreIsMadeAnewByTheLastOfThreeServers(t *testing.T) {
	l := shared.With(t)
	m := &members{t: t, outside: l.Outside()}
	for _, h := range l.Cluster([]string{"u1", "u2", "u3", "u4"}, "--servers", "auto") {
		m.hosts = append(m.hosts, &host{h, t})
		t.Cleanup(func() {
			if _, err := h.TryShoal("status"); code(err) < 2 { // those that are lost are not started again
				h.KillAgent(syscall.SIGTERM)
			}
		})
	}
	t.Cleanup(m.clear)
	last, client := m.hosts[2], m.hosts[3]
	for _, name := range []string{"u1", "u2", "u3"} {
		client.hasRole(name, "server")
	}
	client.run("kept", "--network mesh -l shoal.service=kept")
	last.answered(last.web("kept"), "kept")
	vip := last.vip("kept")
	for _, h := range m.hosts[:2] {
		h.KillAgent(syscall.SIGKILL)
		h.Exec("rm", "-r", filepath.Join(h.Dir(), "state"))
		h.CutOff()
		t.Cleanup(h.Reconnect)
	}
	m.hosts = m.hosts[2:] // nothing is to be cleared on the others
	last.KillAgent(syscall.SIGTERM)
	if out, err := last.TryExec("shoal", "server", "recover", "--node", last.Name(), "--state-dir", filepath.Join(last.Dir(), "state")); err != nil {
		t.Fatalf("recover: %v\n%s", err, out)
	}
	last.StartAgent("--servers", "auto")
	client.run("later", "--network mesh -l shoal.service=later")
	last.answered(last.web("later"), "later")
	for _, h := range []*host{last, client} {
		if got := h.vip("kept"); got != vip {
			t.Errorf("on %s the VIP is %s, and was %s", h.Name(), got, vip)
		}
		h.answered("http://"+vip+":8000/", "kept")
	}
	lab.Eventually(t, time.Minute, "the host that follows is a member again", func() error { // the lost ones are none
		out, _ := last.TryShoal("problems", "--local") // they are problems
		if !strings.Contains(out, "host-not-followed") || !strings.Contains(out, "u1") {
			return fmt.Errorf("it is not told that others have not followed:\n%s", out)
		}
		for line := range strings.Lines(out) {
			if strings.Contains(line, "host-not-followed") && strings.Contains(line, client.Name()) {
				return errors.New(line)
			}
		}
		return nil
	})
}
