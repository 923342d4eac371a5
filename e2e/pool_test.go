//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"shoal/lab"
)

// TestSmallPool has an agent with settings of its own. They are the kernel's; and that the pool is too small is the problem
// of the service that got no VIP, until there is one for it.
func TestSmallPool(t *testing.T) {
	h := on(t, "b")
	t.Cleanup(h.clear)
	settings := []string{
		"--pool", "10.98.0.0/28", "--dns", "10.98.0.10", "--zone", "small.internal", "--state-dir", filepath.Join(h.Dir(), "small"),
		"--tcp-timeout", "2h", "--tcp-fin-timeout", "33s", "--udp-timeout", "44s", "--metrics-addr", "127.0.0.1:9180", "--log-format", "json",
		"--vip-rest", "3s", "--repair", "1h", // what works must not need it
	}
	h.StartAgent(settings...)
	h.ready()
	t.Cleanup(func() {
		h.KillAgent(syscall.SIGTERM)
		h.Shoal(append([]string{"down"}, settings...)...)
	})

	// Sixteen addresses, less the first, the last, and two for DNS servers.
	var labels []string
	for i := range 11 {
		labels = append(labels, fmt.Sprintf("-l shoal.services.full-%02d.port=80:8000", i))
	}
	many := h.run("many", strings.Join(labels, " "))
	first := h.vip("full-00")
	h.answered("http://"+first+"/", "many")
	h.answered("http://"+h.vip("full-10")+"/", "many")
	h.Docker("network", "create", "newnet")
	h.run("last", "-l shoal.service=last --network newnet")
	last := h.vip("last")

	between := func(t *testing.T) {
		h.answered(h.web("last"), "last")
		if s := many.load("--count", "5", h.web("last")); s.OK != 5 || s.Clients[many.addr()] != 5 {
			t.Errorf("a container on another network, %s, is seen as %v, failed %v", many.addr(), s.Clients, s.Errors)
		}
	}
	t.Run("an engine's rules for a network", between)
	h.StopDocker()
	h.StartDocker()
	h.Docker("start", "many", "last")
	t.Run("an engine's rules at its start", between)

	t.Run("settings are the kernel's", func(t *testing.T) {
		var got []string
		for _, command := range thePlane().timeouts {
			got = append(got, h.Exec(strings.Fields(command)...))
		}
		if plane := thePlane(); len(plane.timeouts) > 0 && strings.Join(got, " ") != plane.timeoutOf(7200, 33, 44) {
			want := plane.timeoutOf(7200, 33, 44)
			t.Errorf("the kernel's idle timeouts are %q, want %q", got, want)
		}
		if got := h.Exec("dig", "+short", "@10.98.0.10", "full-00.default.small.internal"); got != first {
			t.Errorf("the DNS server says %q, want %s", got, first)
		}
		if got := h.Exec("whoami", "get", "http://127.0.0.1:9180/metrics"); !strings.Contains(got, "\nshoal_build_info{") {
			t.Errorf("the metrics' address says %.200s", got)
		}
		for line := range strings.Lines(h.Agent().Output()) {
			if !json.Valid([]byte(line)) {
				t.Errorf("this line of the log is no JSON: %s", line)
			}
		}
	})

	h.Docker("rm", "-f", "last")
	h.task("last", "")
	h.run("late", "-l shoal.service=late")
	if reason := h.problem("default/late", "vip-pool-full"); !strings.Contains(reason, "10.98.0.0/28 are taken") || !strings.Contains(reason, "shoal service rm") {
		t.Errorf("the pool is full: %s", reason)
	}
	if out, err := h.TryShoal("explain", "late"); code(err) != 1 || !strings.Contains(out, "10.98.0.0/28 are taken") {
		t.Errorf("explain of a service without a VIP: %v\n%s", err, out)
	}
	h.Shoal("service", "rm", "last")
	if got := h.vip("late"); got != last {
		t.Errorf("late has %s, not %s, the only one that was free", got, last)
	}
	h.answered(h.web("late"), "late")
	h.noProblem("default/late")

	// Where the user allows it, a service that is idle for long enough loses its VIP to one that needs it.
	h.Docker("rm", "-f", "late")
	h.KillAgent(syscall.SIGTERM)
	h.StartAgent(append(slices.Clone(settings), "--vip-reclaim", "3s")...)
	h.ready()
	h.run("later", "-l shoal.service=later")
	if got := h.vip("later"); got != last {
		t.Errorf("later has %s, not %s of the one service that is idle", got, last)
	}
	h.answered(h.web("later"), "later")
	lab.Eventually(t, waitLimit, "the idle service is forgotten", func() error {
		if list := h.Shoal("services"); strings.Contains(list, "default/late ") {
			return errors.New(list)
		}
		return nil
	})
	if got := h.vip("full-00"); got != first {
		t.Errorf("a service with a task has %s, had %s", got, first)
	}
}
