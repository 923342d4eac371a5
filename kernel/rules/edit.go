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
	Append                // add Rule at the end
	Insert                // put Rule in front
	Delete                // take out the first rule that is Rule
	ClearChain            // take out all rules
	DeleteChain           // take out the chain, which is empty
	RenameChain           // call the chain To; jumps to it go on doing so
)

// Edit is one change of a chain.
type Edit struct {
	Op           Op
	Table, Chain string
	Rule         string // of Delete as it was printed, else as it is wanted
	To           string
}

// String is the edit in the words of the iptables program.
func (e Edit) String() string {
	option := [...]string{"-N", "-A", "-I", "-D", "-F", "-X", "-E"}[e.Op]
	return strings.Join(slices.DeleteFunc([]string{"-t", e.Table, option, e.Chain, e.Rule, e.To}, func(w string) bool { return w == "" }), " ")
}

// Brief is what was wrong, short enough for a line of a log.
func Brief(wrong []string) string {
	const most = 2
	if len(wrong) <= most+1 {
		return strings.Join(wrong, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(wrong[:most], "; "), len(wrong)-most)
}

// drop takes out chains that nothing else jumps to. All are emptied before the
// first goes: they may jump to each other.
func drop(table string, chains []string) (edits []Edit) {
	for _, op := range []Op{ClearChain, DeleteChain} {
		for _, c := range chains {
			edits = append(edits, Edit{Op: op, Table: table, Chain: c})
		}
	}
	return edits
}

// dropJumps takes out the jumps to chains that ours tells of from all others.
func dropJumps(table string, have map[string][]string, ours func(chain string) bool) (edits []Edit) {
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if ours(name) {
			continue
		}
		for _, r := range have[name] {
			if ours(target(r)) {
				edits = append(edits, Edit{Op: Delete, Table: table, Chain: name, Rule: r})
			}
		}
	}
	return edits
}

// remove takes out the chains that ours tells of and every jump to them.
func remove(ours func(chain string) bool, have State) (edits []Edit) {
	for _, table := range tables {
		chains := slices.DeleteFunc(slices.Sorted(maps.Keys(have[table])), func(c string) bool { return !ours(c) })
		edits = slices.Concat(edits, dropJumps(table, have[table], ours), drop(table, chains))
	}
	return edits
}
