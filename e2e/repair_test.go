//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/lab"
	"shoal/lab/kernel"
)

// TestRepair breaks what shoal made, as other programs do, and finds it mended within ten seconds each time.
func TestRepair(t *testing.T) {
	h := home(t)
	h.Docker("network", "create", "mended")
	h.run("mend-1", "-l shoal.service=mend")
	h.run("mend-2", "-l shoal.service=mend --network mended")
	h.run("port", "-l shoal.service=port -l shoal.ports=80:8000 -l shoal.publish=8095:8000")
	client, url, port := h.client(), h.web("mend"), "http://"+h.vip("port")+"/"
	published := fmt.Sprintf("http://%v:8095/", h.Addr())
	h.answered(url, "mend-1", "mend-2")
	h.answered(port, "port")
	h.answered(published, "port")
	h.wholePass()
	plane := thePlane()
	// Docker's own rules are nobody's to mend but Docker's.
	rules := h.Exec("iptables-save")
	own := func() map[string]string {
		state := kernelState(h)
		var rules, jumps []string
		for line := range strings.SplitSeq(state["iptables-save"], "\n") {
			switch {
			case strings.Contains(line, " -A SHOAL"):
				rules = append(rules, line)
			case strings.Contains(line, "SHOAL"):
				jumps = append(jumps, line)
			}
		}
		slices.Sort(jumps) // whichever part of shoal mended its own last stands first
		state["iptables-save"] = strings.Join(append(rules, jumps...), "\n")
		if plane.own != "" {
			for _, command := range plane.state {
				delete(state, command)
			}
			// There is no table for a moment.
			out, _ := h.TryExec(strings.Fields(plane.own)...)
			state[plane.own] = nftState(out)
		}
		return state
	}
	first := firstRule(h.Exec("iptables", "-S", "FORWARD"))
	if lab.Plane() == kernel.IPVS && !strings.Contains(first, " -j SHOAL-") {
		t.Fatalf("the first rule of FORWARD is %q", first)
	}
	begun := time.Now()
	want := own()
	limit := 10*time.Second + 2*time.Since(begun) // a look takes its time too

	for _, breakages := range plane.breakages {
		for _, breakage := range breakages {
			h.Exec(strings.Fields(breakage)...)
		}
		broken := time.Now()
		lab.Eventually(t, limit, "repaired: "+strings.Join(breakages, ", "), func() error {
			if diff := difference(want, own()); diff != "" {
				return errors.New(diff)
			}
			if chain := h.Exec("iptables", "-S", "FORWARD"); strings.Contains(first, " -j SHOAL-") && !strings.Contains(firstRule(chain), " -j SHOAL-") {
				return errors.New(chain)
			}
			return nil
		})
		t.Logf("%-100s repaired after %.1f s", strings.Join(breakages, ", "), time.Since(broken).Seconds())
		for _, test := range []struct {
			url string
			by  []string
		}{{url, []string{"mend-1", "mend-2"}}, {port, []string{"port"}}, {published, []string{"port"}}} {
			s := client.load("--count", "4", "--timeout", "2s", test.url)
			for _, name := range test.by {
				if s.Hostnames[name] != 4/len(test.by) {
					t.Errorf("after %v: %s: answered by %v, failed %v", breakages, test.url, s.Hostnames, s.Errors)
				}
			}
		}
		if strings.HasPrefix(breakages[0], "iptables") || breakages[0] == "nft flush ruleset" {
			restore(h, rules)
		}
	}
}

// firstRule is the first rule of a chain, as iptables -S tells it.
func firstRule(chain string) string {
	for line := range strings.Lines(chain) {
		if strings.HasPrefix(line, "-A ") {
			return line
		}
	}
	return ""
}

// restore puts back rules as iptables-save tells them.
func restore(h *host, rules string) {
	h.t.Helper()
	h.Exec("sh", "-c", `printf '%s\n' "$1" | iptables-restore`, "sh", rules)
}
