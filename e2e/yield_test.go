//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/lab"
)

// TestWhoComesLaterHasThePort: a process of the host that begins to listen on a published port, and a container that
// docker run publishes on it, have it as soon as they are there; the service gets it back when they are gone.
func TestWhoComesLaterHasThePort(t *testing.T) {
	h := home(t)
	outside := shared.With(t).Outside()
	port := func(n int) string { return fmt.Sprintf("http://%v:%d/", h.Addr(), n) }
	h.run("meshed", "-l shoal.service=meshed -l shoal.publish=8095-8096:8000-8001", "whoami", "serve", "--http", "8000,8001")
	for _, n := range []int{8095, 8096} {
		h.answered(port(n), "meshed")
	}
	answers := func(n int, who string) {
		t.Helper()
		start := time.Now()
		for where, try := range map[string]func(...string) (string, error){"outside": outside.TryExec, "the host": h.TryExec} {
			lab.Eventually(t, waitLimit, fmt.Sprintf("%s has %d, for %s", who, n, where), func() error {
				got, err := try("whoami", "get", "--timeout", "1s", port(n))
				if err == nil && field(got, "hostname") != who {
					err = fmt.Errorf("it is %s that answers", field(got, "hostname"))
				}
				return err
			})
		}
		t.Logf("%s has %d after %s", who, n, time.Since(start).Round(10*time.Millisecond))
	}
	process := h.Start("whoami", "serve", "--http", "8095")
	answers(8095, h.Name())
	if why := h.problem("default/meshed", "port-in-use"); !strings.Contains(why, "whoami") || !strings.Contains(why, "8095") {
		t.Errorf("the problem is %q, want the port and the process that has it", why)
	}
	answers(8096, "meshed")
	if err := process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	answers(8095, "meshed")

	h.run("plain", "-p 8096:8000")
	answers(8096, "plain")
	h.problem("default/meshed", "port-in-use")
	answers(8095, "meshed")
	h.Docker("rm", "-f", "plain")
	answers(8096, "meshed")
	h.noProblem("default/meshed")
}

// TestPortsThatLabelsMayNotTake: the host's own, whoever listens there, and those out of --publish-ports.
func TestPortsThatLabelsMayNotTake(t *testing.T) {
	h := home(t)
	h.KillAgent(syscall.SIGTERM)
	h.StartAgent("--publish-ports", "1-1024,8097")
	h.ready()
	for name, refused := range map[string]string{"ssh": "22", "etcd": "2379", "gossip": "7946/udp", "out": "8098"} {
		h.run(name, "--network mesh -l shoal.service="+name+" -l shoal.publish="+strings.Replace(refused, "/udp", ":8000/udp", 1))
		if strings.HasSuffix(refused, "/udp") {
			continue
		}
		number, _, _ := strings.Cut(refused, "/")
		if why := h.problem("default/"+name, "publish-refused"); !strings.Contains(why, number) {
			t.Errorf("port %s is refused as %q", refused, why)
		}
		h.refused("http://" + h.Addr().String() + ":" + number + "/")
	}
	h.run("in", "--network mesh -l shoal.service=in -l shoal.publish=8097:8000")
	h.answered(fmt.Sprintf("http://%v:8097/", h.Addr()), "in")
	h.noProblem("default/in")
}
