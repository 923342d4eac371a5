package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Diff is how the rules that are wanted come from those there are. Each line of
// wrong says what was found wrong; there is none if there are no edits.
func Diff(want []Chain, have State) (edits []Edit, wrong []string) {
	for _, table := range tables {
		p := plan{table: table, have: have[table]}
		for _, c := range want {
			if c.Table == table {
				p.want = append(p.want, c)
			}
		}
		p.chains()
		for _, from := range p.jumpedFrom() {
			p.jumps(from)
		}
		edits, wrong = append(edits, p.edits...), append(wrong, p.wrong...)
	}
	return edits, wrong
}

// plan is how one table becomes what is wanted.
type plan struct {
	table string
	want  []Chain
	have  map[string][]string

	edits []Edit
	wrong []string
}

func (p *plan) edit(op Op, chain, rule string) {
	p.edits = append(p.edits, Edit{Op: op, Table: p.table, Chain: chain, Rule: rule})
}

func (p *plan) found(format string, args ...any) {
	p.wrong = append(p.wrong, p.table+": "+fmt.Sprintf(format, args...))
}

// chains fills those chains whose rules differ. Chains may jump to each other,
// so all are there before the first is filled.
func (p *plan) chains() {
	var differ []Chain
	for _, c := range p.want {
		rules, exists := p.have[c.Name]
		switch {
		case !exists:
			p.found("there is no chain %s", c.Name)
		case !slices.EqualFunc(rules, c.Rules, matches):
			missing := slices.DeleteFunc(slices.Clone(c.Rules), func(want string) bool {
				return slices.ContainsFunc(rules, func(r string) bool { return matches(r, want) })
			})
			p.found("chain %s has %d rules, not the %d wanted, of which it lacks %d", c.Name, len(rules), len(c.Rules), len(missing))
		default:
			continue
		}
		differ = append(differ, c)
		p.edit(EmptyChain, c.Name, "")
	}
	for _, c := range differ {
		for _, r := range c.Rules {
			p.edit(Append, c.Name, signed(r))
		}
	}
}

// jumps puts the jumps from a chain of others in front of its other rules, in
// the order of the chains that they lead to.
func (p *plan) jumps(from string) {
	var want, have []string
	for _, c := range p.want {
		for _, j := range c.From {
			if j.From == from {
				want = append(want, j.rule(c.Name))
			}
		}
	}
	front, inFront := true, true
	for _, r := range p.have[from] {
		front = front && strings.HasPrefix(target(r), Prefix)
		if p.ours(target(r)) {
			have = append(have, r)
			inFront = inFront && front
		}
	}
	if inFront && slices.EqualFunc(have, want, matches) {
		return
	}
	if len(want) == 0 {
		p.found("a jump from %s to %s", from, target(have[0]))
	} else {
		p.found("the jumps from %s to %s are not in front", from, strings.Join(targets(want), ", "))
	}
	for _, r := range have {
		p.edit(Delete, from, r)
	}
	for _, r := range slices.Backward(want) {
		p.edit(Insert, from, signed(r))
	}
}

// jumpedFrom are the chains of others that have jumps to ours, or should have.
func (p *plan) jumpedFrom() []string {
	from := map[string]bool{}
	for _, c := range p.want {
		for _, j := range c.From {
			from[j.From] = true
		}
	}
	for chain, rules := range p.have {
		if !p.ours(chain) && slices.ContainsFunc(rules, func(r string) bool { return p.ours(target(r)) }) {
			from[chain] = true
		}
	}
	return slices.Sorted(maps.Keys(from))
}

// ours tells whether a chain is one of those that are wanted.
func (p *plan) ours(chain string) bool {
	return slices.ContainsFunc(p.want, func(c Chain) bool { return c.Name == chain })
}

func targets(rules []string) (chains []string) {
	for _, r := range rules {
		chains = append(chains, target(r))
	}
	return chains
}

// remove takes out the chains that ours tells of and every jump to them. All are
// emptied before the first goes: they may jump to each other.
func remove(ours func(chain string) bool, have State) (edits []Edit) {
	for _, table := range tables {
		p := plan{table: table, have: have[table]}
		var chains []string
		for _, name := range slices.Sorted(maps.Keys(p.have)) {
			if ours(name) {
				chains = append(chains, name)
				continue
			}
			for _, r := range p.have[name] {
				if ours(target(r)) {
					p.edit(Delete, name, r)
				}
			}
		}
		for _, c := range chains {
			p.edit(EmptyChain, c, "")
		}
		for _, c := range chains {
			p.edit(DeleteChain, c, "")
		}
		edits = append(edits, p.edits...)
	}
	return edits
}
