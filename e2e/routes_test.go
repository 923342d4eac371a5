//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/lab"
	"shoal/lab/kernel"
)

// TestHostsRoutesAreBackAtOnce deletes what shoal has of routes and routing rules, as a restart of systemd-networkd does, and
// finds each back within a tenth of a second, by the kernel's own account.
func TestHostsRoutesAreBackAtOnce(t *testing.T) {
	limit := 100 * time.Millisecond
	if lab.Plane() == kernel.IPVS {
		limit = 500 * time.Millisecond // User-Mode Linux has one processor for three hosts
	}
	m := cluster(t, "auto")
	a, b := m.hosts[0], m.hosts[1]
	a.reachesBy(b, "eth0")
	subnet := strings.TrimSpace(b.meshSubnet())
	for _, h := range m.hosts {
		h.noProblem("routes")
	}
	a.run("back", "--network mesh -l shoal.service=back -l shoal.publish=8090:8000")
	a.answered(a.web("back"), "back")
	byMark := regexp.MustCompile(`^(\d+):.* fwmark (0x55\S+) lookup (\d+)`)
	var rule []string // of another host: its priority, its mark and its table
	lab.Eventually(t, waitLimit, "there are routing rules", func() error {
		n := 0
		for line := range strings.Lines(a.Exec("ip", "-details", "rule")) {
			priority, _, _ := strings.Cut(line, ":")
			if p, err := strconv.Atoi(priority); err != nil || p < 539 || p > 574 {
				continue
			}
			if !strings.Contains(line, "proto kernel") {
				return fmt.Errorf("a rule that systemd-networkd deletes: %s", line)
			}
			if found := byMark.FindStringSubmatch(line); found != nil && priority != "540" {
				rule, n = found, n+1
			}
		}
		if n != len(m.hosts)-1 {
			return fmt.Errorf("%d rules lead to tables of other hosts", n)
		}
		return nil
	})
	priority, mark, table := rule[1], rule[2], rule[3]
	number, err := strconv.ParseUint(mark[2:strings.Index(mark, "/")], 16, 32)
	if err != nil {
		t.Fatal(err)
	}
	group := fmt.Sprintf("fwmark %#x/0xff00001f", 0x55000000|number&31)
	monitor := a.Start("ip", "-ts", "monitor", "route", "rule")
	defer monitor.Signal(syscall.SIGKILL)
	for _, test := range []struct {
		what, deleted string // of ip monitor
		command       string
	}{
		{"a routing rule", "fwmark " + mark, "ip rule del priority " + priority + " fwmark " + mark + " lookup " + table},
		{"the rule that leads to it", group + " goto " + priority, "ip rule del priority 541 " + group},
		{"the rule that leads past all of them", "goto 574", "ip rule del priority 539"},
		{"the rule past all of them", "574:", "ip rule del priority 574"},
		{"the table of a rule", "table " + table, "ip route flush table " + table},
		{"the route to a host's containers", subnet, "ip route del " + subnet},
		{"the pool's route", "local 10.96.0.0/16", "ip route del local 10.96.0.0/16 table local"},
	} {
		for range 3 {
			a.wholePass()
			took := backAfter(a, monitor, test.deleted, strings.Fields(test.command))
			t.Logf("%-40s back after %v", test.what, took)
			if took > limit {
				t.Errorf("%s was back after %v, want %v", test.what, took, limit)
			}
		}
	}
	// The kernel takes the routes of a card that is set down, and tells nobody.
	for range 3 {
		a.wholePass()
		a.Exec("ip", "link", "set", "eth0", "down")
		a.Exec("ip", "link", "set", "eth0", "up")
		up := time.Now()
		lab.Eventually(t, waitLimit, "the route to "+subnet+" is back", func() error {
			if out := a.Exec("ip", "route", "show", subnet); out == "" {
				return errors.New("there is none")
			}
			return nil
		})
		if took := time.Since(up); took > 2*limit+100*time.Millisecond {
			t.Errorf("with its card set down and up, the route to %s was back after %v", subnet, took)
		}
	}
	a.answered(a.web("back"), "back")
}

// TestHostsNetworkdIsTold: where systemd-networkd runs, it is told to keep what others made before it is restarted.
func TestHostsNetworkdIsTold(t *testing.T) {
	m := cluster(t, "auto")
	a := m.hosts[0]
	const file = "/run/systemd/networkd.conf.d/10-shoal.conf"
	if out, err := a.TryExec("cat", file); err == nil {
		t.Errorf("a host without systemd-networkd has %s: %s", file, out)
	}
	a.Exec("mkdir", "-p", "/run/systemd/netif")
	t.Cleanup(func() { a.Exec("rm", "-r", "/run/systemd") })
	a.RestartAgent()
	lab.Eventually(t, waitLimit, "systemd-networkd is told", func() error {
		out, err := a.TryExec("cat", file)
		if err == nil && (!strings.Contains(out, "ManageForeignRoutes=no") || !strings.Contains(out, "ManageForeignRoutingPolicyRules=no")) {
			err = fmt.Errorf("%s says %q", file, out)
		}
		return err
	})
}

// backAfter runs a command that deletes something, and returns how long it was away by what the monitor prints.
func backAfter(h *host, monitor *lab.Process, what string, command []string) time.Duration {
	h.t.Helper()
	before := ""
	lab.Eventually(h.t, waitLimit, "the monitor has printed all so far", func() error {
		// A route of no use marks the place.
		mark := fmt.Sprintf("203.0.113.%d", 1+len(monitor.Output())%250)
		h.Exec("ip", "route", "replace", mark+"/32", "dev", "lo")
		h.Exec("ip", "route", "del", mark+"/32")
		if before = monitor.Output(); !strings.HasSuffix(strings.TrimSpace(before), mark+" dev lo scope link") {
			return fmt.Errorf("it printed %q", before)
		}
		return nil
	})
	h.Exec(command...)
	var took time.Duration
	lab.Eventually(h.t, waitLimit, what+" is back", func() error {
		var gone time.Time
		for line := range strings.Lines(strings.TrimPrefix(monitor.Output(), before)) {
			stamp, event, found := strings.Cut(strings.TrimPrefix(line, "["), "] ")
			if !found || !strings.Contains(event, what) {
				continue
			}
			at, err := time.Parse("2006-01-02T15:04:05.999999", stamp)
			if err != nil {
				return err
			}
			switch deleted := strings.HasPrefix(event, "Deleted "); {
			case deleted && gone.IsZero():
				gone = at
			case !deleted && !gone.IsZero():
				took = at.Sub(gone)
				return nil
			}
		}
		return fmt.Errorf("after %q the monitor printed\n%s", command, strings.TrimPrefix(monitor.Output(), before))
	})
	return took
}
