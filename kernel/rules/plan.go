package rules

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A chain that is not what it should be, or not jumped to as it should be, is
// made anew beside the one there is, under a working name. Then the jumps to it
// are put in front, those to the old one are taken out, the old one goes, and
// the new one gets its name. So every packet passes the old chain, the new one,
// or the new one and then the old one, and never half of either.
//
// An agent that is killed meanwhile leaves chains with working names. Those
// that packets pass are taken for old ones, and stay until the swap of the
// next time; the others go first.

// workingName is a name that a chain can be made under: one that is free.
func workingName(chain string, have map[string][]string) string {
	for n := 1; ; n++ {
		name := fmt.Sprintf("%s.%d", chain, n)
		if _, taken := have[name]; !taken {
			return name
		}
	}
}

// nameOf is the name that a chain with a working name is to have.
func nameOf(chain string) string {
	name, n, ok := strings.Cut(chain, ".")
	if _, err := strconv.Atoi(n); ok && err == nil && strings.HasPrefix(name, Prefix) {
		return name
	}
	return chain
}

// Diff is how the rules that are wanted come from those there are. Each line of
// wrong says what was found wrong; there is none if there are no edits.
func Diff(want []Chain, have State) (edits []Edit, wrong []string) {
	for _, table := range tables {
		p := plan{table: table, have: have[table], working: map[string]string{}}
		for _, c := range want {
			if c.Table == table {
				p.want = append(p.want, c)
			}
		}
		wrong = append(wrong, p.compare()...)
		edits = append(edits, p.edits()...)
	}
	return edits, wrong
}

// plan is how one table becomes what is wanted.
type plan struct {
	table   string
	want    []Chain
	have    map[string][]string
	working map[string]string // the chains to be made anew -> their working names
}

// compare finds the chains to be made anew, and says why.
func (p *plan) compare() (wrong []string) {
	anew := func(c Chain) { p.working[c.Name] = workingName(c.Name, p.have) }
	for _, c := range p.want {
		for _, fault := range p.faults(c) {
			wrong = append(wrong, p.table+": "+fault)
			anew(c)
		}
	}
	for _, from := range p.builtIn() {
		if !p.inOrder(from) {
			wrong = append(wrong, fmt.Sprintf("%s: the jumps from %s in another order", p.table, from))
			for _, c := range p.want {
				if len(c.jumps(from)) > 0 {
					anew(c)
				}
			}
		}
	}
	for more := len(wrong) > 0; more; {
		more = false
		for i, c := range p.want {
			if !p.anew(c.Name) && p.follows(c, p.want[i+1:]) {
				anew(c)
				more = true
			}
		}
	}
	return wrong
}

// anew tells whether a chain is to be made anew.
func (p *plan) anew(chain string) bool { return p.working[chain] != "" }

// follows tells whether a chain has to be made anew because others are: it
// jumps to one of them, or its jump belongs in front of theirs.
func (p *plan) follows(c Chain, later []Chain) bool {
	return slices.ContainsFunc(c.Rules, func(r string) bool { return p.anew(target(r)) }) ||
		slices.ContainsFunc(later, func(d Chain) bool {
			return p.anew(d.Name) && slices.ContainsFunc(c.From, func(j Jump) bool { return len(d.jumps(j.From)) > 0 })
		})
}

// faults are what is wrong with a chain and the jumps to it.
func (p *plan) faults(c Chain) (faults []string) {
	rules, exists := p.have[c.Name]
	if !exists {
		return []string{"there is no chain " + c.Name}
	}
	if !slices.EqualFunc(rules, c.Rules, is) {
		missing := count(c.Rules, func(want string) bool { return !slices.ContainsFunc(rules, func(r string) bool { return is(r, want) }) })
		faults = append(faults, fmt.Sprintf("chain %s has %d rules, not the %d wanted, of which it lacks %d", c.Name, len(rules), len(c.Rules), missing))
	}
	if old := slices.DeleteFunc(p.chainsOf(c.Name), func(name string) bool { return name == c.Name }); len(old) > 0 {
		faults = append(faults, fmt.Sprintf("chain %s was left", strings.Join(old, ", ")))
	}
	for _, from := range slices.Sorted(maps.Keys(p.have)) {
		if p.ours(from) {
			continue
		}
		var jumps []string
		front, inFront := true, true
		for _, r := range p.have[from] {
			front = front && strings.HasPrefix(target(r), Prefix)
			if nameOf(target(r)) == c.Name {
				jumps = append(jumps, r)
				inFront = inFront && front
			}
		}
		if !inFront || !slices.EqualFunc(jumps, c.jumps(from), is) {
			faults = append(faults, fmt.Sprintf("the jump from %s to %s not in front", from, c.Name))
		}
	}
	for _, j := range c.From {
		if _, exists := p.have[j.From]; !exists {
			faults = append(faults, fmt.Sprintf("the jump from %s to %s not in front", j.From, c.Name))
		}
	}
	return faults
}

// inOrder tells whether the jumps from a built-in chain are in the order of the
// chains they go to.
func (p *plan) inOrder(from string) bool {
	last := 0
	for _, r := range p.have[from] {
		i := slices.IndexFunc(p.want, func(c Chain) bool { return c.Name == nameOf(target(r)) })
		if i < 0 {
			continue
		}
		if i < last {
			return false
		}
		last = i
	}
	return true
}

// edits make the chains anew.
func (p *plan) edits() (edits []Edit) {
	do := func(e Edit) {
		e.Table = p.table
		edits = append(edits, e)
	}
	var anew []Chain
	var old, unused []string
	for _, c := range p.want {
		if !p.anew(c.Name) {
			continue
		}
		anew = append(anew, c)
		for _, name := range p.chainsOf(c.Name) {
			if name != c.Name && !p.passed(name, nil) {
				unused = append(unused, name)
			} else {
				old = append(old, name)
			}
		}
	}
	edits = drop(p.table, unused)
	// Chains may jump to each other, so all are there before the first is filled.
	for _, c := range anew {
		do(Edit{Op: NewChain, Chain: p.working[c.Name]})
	}
	for _, c := range anew {
		for _, r := range c.Rules {
			do(Edit{Op: Append, Chain: p.working[c.Name], Rule: p.signed(r)})
		}
	}
	for _, c := range slices.Backward(anew) {
		for _, j := range slices.Backward(c.From) {
			do(Edit{Op: Insert, Chain: j.From, Rule: p.signed(j.rule(c.Name))})
		}
	}
	edits = append(edits, dropJumps(p.table, p.have, func(chain string) bool { return p.anew(nameOf(chain)) })...)
	edits = append(edits, drop(p.table, old)...)
	for _, c := range anew {
		do(Edit{Op: RenameChain, Chain: p.working[c.Name], To: c.Name})
	}
	return edits
}

// signed is a rule with its signature, and with the working name of the chain
// that it jumps to.
func (p *plan) signed(rule string) string {
	comment := signature(rule)
	if to := target(rule); p.anew(to) {
		rule = strings.Replace(rule, "-j "+to, "-j "+p.working[to], 1)
	}
	return commented(rule, comment)
}

// passed tells whether packets come to a chain, by way of any other.
func (p *plan) passed(chain string, by []string) bool {
	for from, rules := range p.have {
		if slices.Contains(by, from) || !slices.ContainsFunc(rules, func(r string) bool { return target(r) == chain }) {
			continue
		}
		if !p.ours(from) || from == nameOf(from) || p.passed(from, append(by, chain)) {
			return true
		}
	}
	return false
}

// chainsOf are the chains with a name, or with a working name for it.
func (p *plan) chainsOf(name string) (chains []string) {
	for _, c := range slices.Sorted(maps.Keys(p.have)) {
		if nameOf(c) == name {
			chains = append(chains, c)
		}
	}
	return chains
}

// ours tells whether a chain is one of those that are wanted, or to be one.
func (p *plan) ours(chain string) bool {
	return slices.ContainsFunc(p.want, func(c Chain) bool { return c.Name == nameOf(chain) })
}

// builtIn are the chains that those wanted are jumped to from.
func (p *plan) builtIn() (names []string) {
	for _, c := range p.want {
		for _, j := range c.From {
			names = append(names, j.From)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// jumps are the jumps to a chain from a built-in one, in order.
func (c Chain) jumps(from string) (rules []string) {
	for _, j := range c.From {
		if j.From == from {
			rules = append(rules, j.rule(c.Name))
		}
	}
	return rules
}

func count(rules []string, f func(string) bool) (n int) {
	for _, r := range rules {
		if f(r) {
			n++
		}
	}
	return n
}
