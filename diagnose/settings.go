package diagnose

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"shoal/model"
)

// SettingsProblems tell which hosts have another value than most of a setting that has to
// be the same everywhere: of dead hosts, and of those that do not tell, none. Where as many
// hosts have the one as the other, it is the first host's that counts.
func SettingsProblems(nodes []model.Node) (ps []model.Problem) {
	hosts := map[string]map[string][]string{} // setting -> value -> the hosts that have it
	for _, n := range nodes {
		if !n.Alive {
			continue
		}
		for name, value := range n.Settings.Values() {
			if hosts[name] == nil {
				hosts[name] = map[string][]string{}
			}
			hosts[name][value] = append(hosts[name][value], n.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		values := slices.SortedFunc(maps.Keys(hosts[name]), func(a, b string) int {
			return cmp.Or(cmp.Compare(len(hosts[name][b]), len(hosts[name][a])), cmp.Compare(hosts[name][a][0], hosts[name][b][0]))
		})
		for _, value := range values[1:] {
			for _, node := range hosts[name][value] {
				ps = append(ps, model.Problem{Node: node, Code: model.SettingsDiffer, Kind: "setting", Object: "--" + name,
					Reason: fmt.Sprintf("it is %s here, and %s on %s: set it alike on all hosts, and restart the agents that had it otherwise",
						value, values[0], some(hosts[name][values[0]]))})
			}
		}
	}
	return ps
}

// some are the first of many names.
func some(names []string) string {
	if more := len(names) - mostTasks; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:mostTasks], ", "), more)
	}
	return strings.Join(names, ", ")
}
