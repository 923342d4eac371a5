package rules

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
)

// Chain is a chain of rules and where it is jumped to from.
type Chain struct {
	Table string   // "raw", "mangle", "nat" or "filter"
	Name  string   // begins with [Prefix], at most 28 characters
	From  []Jump   // none: other chains jump here
	Rules []string // what follows "-A NAME ", "-p tcp -j ACCEPT"
}

// Jump is a jump from a built-in chain.
type Jump struct {
	From  string // "PREROUTING"
	Match string // only what matches this jumps, "-d 10.96.0.0/16"; "": everything
}

// Prefix begins the name of every chain that is kept by this package. The
// jumps to such chains stand in front of all other rules, in any order among
// themselves, so that packages do not fight for the first place.
const Prefix = "SHOAL-"

// tables is the order they are written in.
var tables = []string{"raw", "mangle", "nat", "filter"}

// State is the rules there are: table -> chain -> rules, without "-A CHAIN ".
type State map[string]map[string][]string

// parse reads the output of iptables-save.
func parse(saved string) State {
	state := State{}
	var table map[string][]string
	for line := range strings.Lines(saved) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			table = map[string][]string{}
			state[line[1:]] = table
		case strings.HasPrefix(line, ":") && table != nil:
			name, _, _ := strings.Cut(line[1:], " ")
			table[name] = nil
		case strings.HasPrefix(line, "-A ") && table != nil:
			name, rule, _ := strings.Cut(line[3:], " ")
			table[name] = append(table[name], rule)
		}
	}
	return state
}

// signed is the rule with a comment that holds its own hash. Programs print a
// rule in other words than it was given in, and each version in its own: by the
// comment a rule is known again, whatever printed it.
func signed(rule string) string {
	return fmt.Sprintf("-m comment --comment %s %s", signature(rule), rule)
}

func signature(rule string) string {
	h := fnv.New64a()
	h.Write([]byte(rule))
	return fmt.Sprintf("shoal:%012x", h.Sum64()&(1<<48-1))
}

// is tells whether a rule as it was read is the one that was wanted.
func is(have, want string) bool { return strings.Contains(have, signature(want)) }

func (j Jump) rule(chain string) string { return strings.TrimSpace(j.Match + " -j " + chain) }

// target is where a rule jumps to; "" for none.
func target(rule string) string {
	f := strings.Fields(rule)
	if i := slices.Index(f, "-j"); i >= 0 && i+1 < len(f) {
		return f[i+1]
	}
	return ""
}

// Diff is the input of iptables-restore --noflush that makes of the rules
// there are those that are wanted; "" if they are the same. A chain that
// differs is replaced whole. Each line of edits says what was found wrong.
func Diff(want []Chain, have State) (script string, edits []string) {
	var b strings.Builder
	for _, table := range tables {
		var declare, body []string
		for _, c := range want {
			if c.Table != table {
				continue
			}
			rules, exists := have[table][c.Name]
			if !exists || !slices.EqualFunc(rules, c.Rules, is) {
				edits = append(edits, fmt.Sprintf("%s %s: %d of its %d rules were there", table, c.Name, len(rules), len(c.Rules)))
				declare = append(declare, ":"+c.Name+" - [0:0]") // empties one that is there
				for _, r := range c.Rules {
					body = append(body, "-A "+c.Name+" "+signed(r))
				}
			}
			for _, j := range c.From {
				if lines := placeJump(j, c.Name, have[table][j.From]); len(lines) > 0 {
					edits = append(edits, fmt.Sprintf("%s %s: the jump to %s was not in front", table, j.From, c.Name))
					body = append(body, lines...)
				}
			}
		}
		if len(body) > 0 {
			fmt.Fprintf(&b, "*%s\n%s\nCOMMIT\n", table, strings.Join(append(declare, body...), "\n"))
		}
	}
	return b.String(), edits
}

// placeJump is what must be done in a built-in chain so that the jump stands
// there once, with none but jumps of ours before it.
func placeJump(j Jump, chain string, rules []string) []string {
	want := j.rule(chain)
	good, front := false, true
	var lines []string
	for i, r := range rules {
		front = front && strings.HasPrefix(target(r), Prefix)
		switch {
		case target(r) != chain:
		case is(r, want) && front && !good:
			good = true
		default:
			// By number, from behind: no need to know the words it is printed in.
			lines = append([]string{fmt.Sprintf("-D %s %d", j.From, i+1)}, lines...)
		}
	}
	if !good {
		lines = append(lines, fmt.Sprintf("-I %s 1 %s", j.From, signed(want)))
	}
	return lines
}

// remove is the input of iptables-restore --noflush that takes out the chains
// that keep tells of and every jump to them.
func remove(ours func(chain string) bool, have State) string {
	var b strings.Builder
	for _, table := range tables {
		var jumps, chains []string
		for name, rules := range have[table] {
			if ours(name) {
				chains = append(chains, "-F "+name, "-X "+name)
				continue
			}
			for i := len(rules) - 1; i >= 0; i-- {
				if ours(target(rules[i])) {
					jumps = append(jumps, fmt.Sprintf("-D %s %d", name, i+1))
				}
			}
		}
		// All are emptied before the first goes: they may jump to each other.
		slices.Sort(chains)
		if len(jumps)+len(chains) > 0 {
			fmt.Fprintf(&b, "*%s\n%s\nCOMMIT\n", table, strings.Join(append(jumps, chains...), "\n"))
		}
	}
	return b.String()
}
