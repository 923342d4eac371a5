//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"shoal/lab"
)

// TestAPortOfTheEnginesOwn: what docker run -p publishes stays that container's, from outside and on the host itself; a
// service that wants the same port is a problem, and has its others.
func TestAPortOfTheEnginesOwn(t *testing.T) {
	h := home(t)
	outside := shared.With(t).Outside()
	own, other := fmt.Sprintf("http://%v:8090/", h.Addr()), fmt.Sprintf("http://%v:8091/", h.Addr())
	isPlain := func() {
		t.Helper()
		h.answered("http://127.0.0.1:8090/", "plain")
		for where, try := range map[string]func(...string) (string, error){"outside": outside.TryExec, "the host": h.TryExec} {
			if got, err := try("whoami", "get", own); field(got, "hostname") != "plain" {
				t.Errorf("%s asks %s: %v\n%s", where, own, err, got)
			}
		}
	}
	h.run("plain", "-p 8090:8000")
	isPlain()
	h.run("late", "--network mesh -l shoal.service=late -l shoal.publish=8090-8091:8000-8001", "whoami", "serve", "--http", "8000,8001")
	h.answered(other, "late")
	if why := h.problem("default/late", "port-in-use"); !strings.Contains(why, "8090") || strings.Contains(why, "8091") {
		t.Errorf("the problem is %q, want the port that is the engine's", why)
	}
	isPlain()
	if got := outside.Exec("whoami", "get", other); !strings.HasPrefix(field(got, "client"), outside.Addr().String()+":") {
		t.Errorf("a client outside asks by the published port: %s", got)
	}
}

// TestHostsWhichHostsServe: a service says by its labels that only hosts with a task of it answer on its port, by their own,
// or that a host prefers its own tasks; and a host on which a process has the port leaves it to that one.
func TestHostsWhichHostsServe(t *testing.T) {
	m := cluster(t, "host-gw")
	a, b, c := m.hosts[0], m.hosts[1], m.hosts[2]
	process := b.Start("whoami", "serve", "--http", "8082")
	t.Cleanup(func() { _ = process.Signal(syscall.SIGKILL) })
	lab.Eventually(t, waitLimit, "the process answers", func() error {
		_, err := b.get("http://127.0.0.1:8082/")
		return err
	})
	for _, h := range []*host{a, b} {
		h.run("local-"+h.Name(), "--network mesh -l shoal.service=local -l shoal.publish=8080:8000 -l shoal.publish.local=true")
		h.run("near-"+h.Name(), "--network mesh -l shoal.service=near -l shoal.publish=8081-8082:8000-8001 -l shoal.locality=prefer-local",
			"whoami", "serve", "--http", "8000,8001")
	}
	port := func(h *host, port int) string { return fmt.Sprintf("http://%v:%d/", h.Addr(), port) }
	vip := "http://" + a.vip("near") + ":8000/"
	for h, by := range map[*host][]string{a: {"near-n1"}, b: {"near-n2"}, c: {"near-n1", "near-n2"}} {
		h.answered(vip, by...)
		h.answered(port(h, 8081), by...)
	}
	a.answered(port(a, 8080), "local-n1")
	b.answered(port(b, 8080), "local-n2")
	c.refused(port(c, 8080))
	c.answered("http://"+a.vip("local")+":8000/", "local-n1", "local-n2")
	m.answersOutside(a, 8081, "near-n1")
	m.answersOutside(b, 8081, "near-n2")
	m.answersOutside(c, 8081, "near-n1", "near-n2")
	m.answersOutside(c, 8082, "near-n1", "near-n2")

	if why := b.problem("default/near", "port-in-use"); !strings.Contains(why, "whoami") || !strings.Contains(why, "8082") {
		t.Errorf("the problem on n2 is %q, want the port and the process that has it", why)
	}
	b.answered(port(b, 8082), b.Name())

	// Its own tasks gone, a host goes to those of others.
	b.Docker("rm", "-f", "near-n2")
	b.answered(vip, "near-n1")
	b.answered(port(b, 8081), "near-n1")
}
