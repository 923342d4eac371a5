package model

import (
	"cmp"
	"slices"
)

// ProblemGroup is one problem that several hosts have, or have reported.
type ProblemGroup struct {
	Problem          // as the first host has it
	Nodes   []string // the hosts that have it, in order
	By      []string // the hosts that see it on another one, in order; none: each host tells of its own
}

// GroupProblems joins what is the same problem on several hosts, in the order in which
// each is there first. A problem that is listed twice for a host counts once.
func GroupProblems(ps []Problem) []ProblemGroup {
	type key struct {
		code                 Code
		kind, object, reason string
		notice               bool
	}
	var groups []ProblemGroup
	at := map[key]int{}
	for _, p := range ps {
		k := key{p.Code, p.Kind, p.Object, p.Reason, p.Notice}
		i, known := at[k]
		if !known {
			i = len(groups)
			at[k] = i
			groups = append(groups, ProblemGroup{Problem: p})
		}
		g := &groups[i]
		g.Nodes = append(g.Nodes, p.Node)
		if p.By != "" {
			g.By = append(g.By, p.By)
		}
		if p.Since.Before(g.Since) {
			g.Since = p.Since
		}
	}
	for i := range groups {
		for _, names := range []*[]string{&groups[i].Nodes, &groups[i].By} {
			slices.Sort(*names)
			*names = slices.Compact(*names)
		}
	}
	return groups
}

// SortProblems orders problems: the oldest first.
func SortProblems(ps []Problem) {
	slices.SortFunc(ps, func(a, b Problem) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Node, b.Node), cmp.Compare(a.By, b.By))
	})
}
