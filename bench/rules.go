package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// rules measures the way Docker Swarm marks packets, with an iptables rule for
// each service's VIP: chains of so many rules of which one is that of a VIP whose
// mark is web's, so that all else is as with ours. A rule that marks
// does not end the chain, so it does not matter which. The chain stands for its VIP
// alone, and our rules are passed by; the agent is stopped, not to repair that. It
// must be the last subject.
func (w *world) rules() []Row {
	w.Logf("a rule for each service")
	mark := w.mark(w.web)
	w.host.KillAgent(unix.SIGTERM)
	ours, task := w.client.path(w.web, port), w.client.path(webAddr, port)
	var rows []Row
	for i, n := range []int{1_000, 10_000} {
		chain, vip := fmt.Sprintf("BENCH-%d", n), nth("10.96.100.0", i)
		var rules strings.Builder
		fmt.Fprintf(&rules, "*mangle\n:%s - [0:0]\n", chain)
		for i := range n - 1 {
			fmt.Fprintf(&rules, "-A %s -d %s/32 -j MARK --set-mark %d\n", chain, fakeVIP(i), i+1)
		}
		fmt.Fprintf(&rules, "-A %s -d %s/32 -j MARK --set-mark %d\n-A %s -j ACCEPT\n-I PREROUTING -d %s/32 -j %s\nCOMMIT\n", chain, vip, mark, chain, vip, chain)
		file := filepath.Join(w.host.Dir(), chain)
		w.must("write rules", os.WriteFile(file, []byte(rules.String()), 0o644))
		w.host.Exec("iptables-restore", "--noflush", file)

		theirs := w.client.path(vip, port)
		for _, m := range []struct {
			what string
			t    turns
		}{
			{"requests on kept connections", w.compare(ours.kept(), theirs.kept(), task.kept())},
			{"requests each on a new connection", w.compare(ours.once(), theirs.once(), task.once())},
		} {
			rows = append(rows, Row{What: fmt.Sprintf("VIP, 10,000 services, and a rule for each of %s: %s", thousands(n), m.what),
				Shoal:   fmt.Sprintf("%.0f/s (%.2f of straight)", m.t.rate(0), m.t.ratio(0, 2).median),
				Against: fmt.Sprintf("%.0f/s (%.2f of straight) with the rules", m.t.rate(1), m.t.ratio(1, 2).median),
				Ratio:   m.t.ratio(0, 1)})
		}
	}
	return rows
}
