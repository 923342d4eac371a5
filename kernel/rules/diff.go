package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Op is what an edit does.
type Op int

// The operations of an [Edit].
const (
	NewChain    Op = iota // make the chain
	Insert                // put Rule in place At
	DeleteAt              // take out the rule in place At: only in chains of our own
	Delete                // take out the first rule that is Rule
	ClearChain            // take out all rules
	DeleteChain           // take out the chain, which is empty
)

// Edit is one change of a chain.
type Edit struct {
	Op           Op
	Table, Chain string
	At           int    // from 1
	Rule         string // of Delete as it was printed, else as it is wanted
}

// String is the edit in the words of the iptables program.
func (e Edit) String() string {
	s := fmt.Sprintf("-t %s %s %s", e.Table, [...]string{"-N", "-I", "-D", "-D", "-F", "-X"}[e.Op], e.Chain)
	if e.At > 0 {
		s += fmt.Sprint(" ", e.At)
	}
	if e.Rule != "" {
		s += " " + e.Rule
	}
	return s
}

// Diff is how the rules that are wanted come from those there are. Each line of
// wrong says what was found wrong; there is none if there are no edits.
func Diff(want []Chain, have State) (edits []Edit, wrong []string) {
	for _, table := range tables {
		var chains, fill, jumps []Edit
		for _, c := range want {
			if c.Table != table {
				continue
			}
			rules, exists := have[table][c.Name]
			es := fillChain(c, rules)
			fill = append(fill, es...)
			switch {
			case !exists:
				chains = append(chains, Edit{Op: NewChain, Table: table, Chain: c.Name})
				wrong = append(wrong, fmt.Sprintf("%s: there is no chain %s", table, c.Name))
			case len(es) > 0:
				missing := len(slices.DeleteFunc(slices.Clone(es), func(e Edit) bool { return e.Op != Insert }))
				wrong = append(wrong, fmt.Sprintf("%s: in chain %s %d of %d rules missing and %d too many", table, c.Name, missing, len(c.Rules), len(es)-missing))
			}
			for _, j := range c.From {
				if es := placeJump(table, j, c.Name, have[table][j.From]); len(es) > 0 {
					jumps = append(jumps, es...)
					wrong = append(wrong, fmt.Sprintf("%s: the jump from %s to %s not in front", table, j.From, c.Name))
				}
			}
		}
		// Chains may jump to each other, so all are there before the first is filled.
		edits = slices.Concat(edits, chains, fill, jumps)
	}
	return edits, wrong
}

// Brief is what was wrong, short enough for a line of a log.
func Brief(wrong []string) string {
	const most = 2
	if len(wrong) <= most+1 {
		return strings.Join(wrong, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(wrong[:most], "; "), len(wrong)-most)
}

// fillChain makes of the rules there are those of the chain: first those that
// are missing go in, in their places, then those that are not wanted go, from
// behind, which leaves the places of the others as they are.
func fillChain(c Chain, have []string) (edits []Edit) {
	do := func(op Op, at int, rule string) {
		edits = append(edits, Edit{Op: op, Table: c.Table, Chain: c.Name, At: at, Rule: rule})
	}
	stays := common(have, c.Rules)
	var stale []int              // places, once all inserts are done
	at, next, inserts := 0, 0, 0 // place of the last rule dealt with; index of the next one there is
	for i, want := range c.Rules {
		if stays[i] < 0 {
			at++
			inserts++
			do(Insert, at, signed(want))
			continue
		}
		for ; next < stays[i]; next++ {
			stale = append(stale, next+1+inserts)
		}
		next++
		at = next + inserts
	}
	for ; next < len(have); next++ {
		stale = append(stale, next+1+inserts)
	}
	for _, at := range slices.Backward(stale) {
		do(DeleteAt, at, "")
	}
	return edits
}

// common is a longest common subsequence: for each rule that is wanted, the
// index of the one there is that stays for it; -1: none.
func common(have, want []string) []int {
	// longest[i][j] is the length of one for have[i:] and want[j:].
	longest := make([][]int, len(have)+1)
	for i := range longest {
		longest[i] = make([]int, len(want)+1)
	}
	for i := len(have) - 1; i >= 0; i-- {
		for j := len(want) - 1; j >= 0; j-- {
			if is(have[i], want[j]) {
				longest[i][j] = longest[i+1][j+1] + 1
			} else {
				longest[i][j] = max(longest[i+1][j], longest[i][j+1])
			}
		}
	}
	stays := make([]int, len(want))
	i := 0
	for j := range want {
		for i < len(have) && longest[i+1][j] == longest[i][j] {
			i++
		}
		stays[j] = -1
		if i < len(have) && is(have[i], want[j]) {
			stays[j] = i
			i++
		}
	}
	return stays
}

// placeJump makes a jump stand once in a built-in chain, with none but jumps of
// ours before it. The new one is in before others are out. As a rule is deleted
// by its words, where it stands first, another stands in for the new one while
// the same words are there.
func placeJump(table string, j Jump, chain string, rules []string) (edits []Edit) {
	do := func(op Op, at int, rule string) {
		edits = append(edits, Edit{Op: op, Table: table, Chain: j.From, At: at, Rule: rule})
	}
	want := j.rule(chain)
	var copies []string
	good, front, same := false, true, false
	for _, r := range rules {
		front = front && strings.HasPrefix(target(r), Prefix)
		if target(r) == chain {
			copies = append(copies, r)
			same = same || is(r, want)
			good = front && is(r, want)
		}
	}
	if good && len(copies) == 1 {
		return nil
	}
	standIn := commented(want, signature("in place of "+want))
	if same {
		do(Insert, 1, standIn)
		for _, r := range copies {
			do(Delete, 0, r)
		}
		copies = []string{standIn}
	}
	do(Insert, 1, signed(want))
	for _, r := range copies {
		do(Delete, 0, r)
	}
	return edits
}

// remove takes out the chains that ours tells of and every jump to them.
func remove(ours func(chain string) bool, have State) (edits []Edit) {
	for _, table := range tables {
		var jumps, clear, drop []Edit
		for _, name := range slices.Sorted(maps.Keys(have[table])) {
			if ours(name) {
				// All are emptied before the first goes: they may jump to each other.
				clear = append(clear, Edit{Op: ClearChain, Table: table, Chain: name})
				drop = append(drop, Edit{Op: DeleteChain, Table: table, Chain: name})
				continue
			}
			for _, r := range have[table][name] {
				if ours(target(r)) {
					jumps = append(jumps, Edit{Op: Delete, Table: table, Chain: name, Rule: r})
				}
			}
		}
		edits = slices.Concat(edits, jumps, clear, drop)
	}
	return edits
}
