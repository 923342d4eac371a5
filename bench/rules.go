package bench

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// rules measures what has an iptables rule for each service: chains of so many
// rules, of which the last has an address balanced as the VIP of web. The chain stands
// for that address alone, and our rules are passed by; the agent is stopped,
// not to repair that. It must be the last subject.
func (w *world) rules() []Row {
	w.Logf("a rule for each service")
	w.host.KillAgent(unix.SIGTERM)
	ours, task := w.client.path(w.web, port), w.client.path(webAddr, port)
	var rows []Row
	for i, n := range []int{1_000, 10_000} {
		chain, addr := fmt.Sprintf("BENCH-%d", n), nth(thePlane().unused, i)
		var rules string
		w.must("make rules", w.inHost.do(func() (err error) {
			rules, err = w.kernel.rules(chain, n, addr, w.web, webAddr)
			return err
		}))
		file := filepath.Join(w.host.Dir(), chain)
		w.must("write rules", os.WriteFile(file, []byte(rules), 0o644))
		w.host.Exec("iptables-restore", "--noflush", file)

		theirs := w.client.path(addr, port)
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
