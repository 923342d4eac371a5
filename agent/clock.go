package agent

import (
	"fmt"
	"slices"
	"time"

	"shoal/model"
)

// mostSkew is how much a host's clock may differ from the others'. Logs, events and the times in
// shoal's lists are hard to read beyond it; certificates allow for a month.
const mostSkew = 5 * time.Second

// clockProblems tell whose clocks differ from most hosts', by the time in their answers: it
// was taken somewhen between question and answer. What that leaves in doubt is no problem.
func clockProblems(self string, answers []problemsAnswer) (ps []model.Problem) {
	ahead := map[string]time.Duration{self: 0} // of this host's clock
	doubt := map[string]time.Duration{}
	for _, a := range answers {
		if a.err == nil && !a.Time.IsZero() {
			ahead[a.node] = a.Time.Sub(a.sent.Round(0).Add(a.took / 2))
			doubt[a.node] = a.took / 2
		}
	}
	var all []time.Duration
	for _, d := range ahead {
		all = append(all, d)
	}
	slices.Sort(all)
	usual := all[(len(all)-1)/2]
	if len(all) == 2 {
		usual = ahead[self] // which of two is right nobody knows
	}
	for node, d := range ahead {
		d -= usual
		if d.Abs()-doubt[node] <= mostSkew {
			continue
		}
		word, than := "ahead of", "most hosts' clocks"
		if d < 0 {
			word = "behind"
		}
		if len(all) == 2 {
			than = "that of " + self
		}
		ps = append(ps, model.Problem{Node: node, Code: model.ClockSkew, Kind: "node", Object: node, Since: time.Now(),
			Reason: fmt.Sprintf("its clock is %s %s %s: certificates are refused where clocks differ by much; set it, and have it kept right (timedatectl set-ntp true)",
				d.Abs().Round(time.Second), word, than)})
	}
	return ps
}
