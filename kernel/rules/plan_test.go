package rules

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var want = []Chain{
	{
		Table: "filter", Name: "SHOAL-X", From: []Jump{{From: "INPUT", Match: "-d 10.96.0.0/16"}},
		Rules: []string{"-p tcp -j ACCEPT", "-j SHOAL-SUB", "-j REJECT"},
	},
	{Table: "filter", Name: "SHOAL-SUB", Rules: []string{"-j DROP"}},
	{Table: "filter", Name: "SHOAL-Y", From: []Jump{{From: "FORWARD"}, {From: "INPUT"}}, Rules: []string{"-j ACCEPT"}},
}

// host is a filter table. In the lines, a rule of ours is written as it is
// wanted, after a plus sign; it is printed in other words.
func host(lines ...string) State {
	var printed []string
	for _, l := range append([]string{"# Warning: other tables present", "-P INPUT ACCEPT", "-P FORWARD DROP"}, lines...) {
		if command, rule, ok := strings.Cut(l, " + "); ok {
			rule = strings.NewReplacer(".1", "", ".2", "").Replace(rule)
			before, to, _ := strings.Cut(l[len(command)+3:], "-j ")
			l = command + " " + before + "-m comment --comment \"" + signature(rule) + "\" -j " + to
		}
		printed = append(printed, l)
	}
	return State{"filter": parse(printed)}
}

var (
	x    = []string{"-N SHOAL-X", "-A SHOAL-X + -p tcp -j ACCEPT", "-A SHOAL-X + -j SHOAL-SUB", "-A SHOAL-X + -j REJECT"}
	sub  = []string{"-N SHOAL-SUB", "-A SHOAL-SUB + -j DROP"}
	y    = []string{"-N SHOAL-Y", "-A SHOAL-Y + -j ACCEPT"}
	toX  = "-A INPUT + -d 10.96.0.0/16 -j SHOAL-X"
	toY  = "-A INPUT + -j SHOAL-Y"
	toY2 = "-A FORWARD + -j SHOAL-Y"
)

// all is the host as it should be, but for what is put in the place of some
// lines; "": nothing.
func all(instead ...string) State {
	lines := slices.Concat(x, sub, y, []string{toX, toY, toY2})
	r := strings.NewReplacer(instead...)
	var changed []string
	for _, l := range lines {
		if l = r.Replace(l); l != "" {
			changed = append(changed, strings.Split(l, "\n")...)
		}
	}
	return host(changed...)
}

var hosts = map[string]struct {
	have State
	anew []string // the chains made anew
}{
	"nothing there":                    {host(), []string{"SHOAL-X", "SHOAL-SUB", "SHOAL-Y"}},
	"all there":                        {all(), nil},
	"somebody else's behind":           {all(toY, toY+"\n-A INPUT -j DROP"), nil},
	"other jumps of ours between":      {all(toY, "-A INPUT -j SHOAL-Z\n"+toY), nil},
	"a rule lost":                      {all(x[1], ""), []string{"SHOAL-X"}},
	"a rule more":                      {all(x[1], x[1]+"\n-A SHOAL-X -j LOG"), []string{"SHOAL-X"}},
	"a rule twice":                     {all(x[1], x[1]+"\n"+x[1]), []string{"SHOAL-X"}},
	"another order":                    {all(x[1], x[3], x[3], x[1]), []string{"SHOAL-X"}},
	"another version":                  {all(x[3], "-A SHOAL-X + -j OLD"), []string{"SHOAL-X"}},
	"a chain that others jump to":      {all(sub[1], ""), []string{"SHOAL-X", "SHOAL-SUB"}},
	"a chain with jumps from two":      {all(y[1], ""), []string{"SHOAL-X", "SHOAL-Y"}}, // the jump to X stays before that to Y
	"a jump lost":                      {all(toX, ""), []string{"SHOAL-X"}},
	"somebody else's in front":         {all(toX, "-A INPUT -j DROP\n"+toX), []string{"SHOAL-X", "SHOAL-Y"}},
	"somebody else's between":          {all(toX, toX+"\n-A INPUT -j DROP"), []string{"SHOAL-X", "SHOAL-Y"}},
	"jumps in another order":           {all(toX, toY, toY, toX), []string{"SHOAL-X", "SHOAL-Y"}},
	"a jump twice":                     {all(toX, toX+"\n"+toX), []string{"SHOAL-X"}},
	"a jump of an older version":       {all(toX, "-A INPUT -j SHOAL-X"), []string{"SHOAL-X"}},
	"a jump from a chain of others":    {all(toX, toX+"\n-N OTHERS\n-A OTHERS -j SHOAL-X"), []string{"SHOAL-X"}},
	"killed before the swap":           {all(x[0], "-N SHOAL-X.1\n-A SHOAL-X.1 + -p tcp -j ACCEPT\n"+x[0]), []string{"SHOAL-X"}},
	"killed before the swap of two":    {all(x[0], "-N SHOAL-X.1\n-N SHOAL-SUB.1\n-A SHOAL-X.1 + -j SHOAL-SUB.1\n"+x[0]), []string{"SHOAL-X", "SHOAL-SUB"}},
	"killed with both jumped to":       {all(toX, "-N SHOAL-X.1\n-A SHOAL-X.1 + -j REJECT\n-A INPUT + -d 10.96.0.0/16 -j SHOAL-X.1\n"+toX), []string{"SHOAL-X"}},
	"killed with the new jumped to":    {all(toX, "-N SHOAL-X.2\n-A SHOAL-X.2 + -j REJECT\n-A INPUT + -d 10.96.0.0/16 -j SHOAL-X.2"), []string{"SHOAL-X"}},
	"killed before it had its name":    {all("SHOAL-X", "SHOAL-X.1"), []string{"SHOAL-X"}},
	"killed before the sub had a name": {all("SHOAL-SUB", "SHOAL-SUB.1"), []string{"SHOAL-X", "SHOAL-SUB"}},
}

func TestOnlyWhatDiffersIsMadeAnew(t *testing.T) {
	for name, tc := range hosts {
		t.Run(name, func(t *testing.T) {
			edits, wrong := Diff(want, tc.have)
			var anew []string
			for _, e := range edits {
				if e.Op == RenameChain {
					anew = append(anew, e.To)
				}
			}
			if d := cmp.Diff(tc.anew, anew); d != "" {
				t.Error(d)
			}
			if (len(wrong) > 0) != (tc.anew != nil) || (len(edits) > 0) != (tc.anew != nil) {
				t.Errorf("wrong: %q, edits: %q", wrong, edits)
			}
		})
	}
}

// Whatever is there, the edits make of it what is wanted, and leave the rest
// alone. Between any two of them, packets that passed a chain of ours still pass
// one: the whole old one or the whole new one.
func TestNoPacketPassesHalfAChain(t *testing.T) {
	for name, tc := range hosts {
		t.Run(name, func(t *testing.T) {
			now := clone(tc.have["filter"])
			old := map[string][]string{} // built-in chain and ours -> what packets passed there
			for _, c := range want {
				for _, j := range c.From {
					old[j.From+c.Name] = passes(now, j.From, c.Name)
				}
			}
			edits, _ := Diff(want, tc.have)
			for i, e := range edits {
				apply(t, now, e)
				for _, c := range want {
					for _, j := range c.From {
						got := passes(now, j.From, c.Name)
						if len(got) == 0 && len(old[j.From+c.Name]) > 0 {
							t.Errorf("after edit %d, %s: nothing passes %s from %s", i, e, c.Name, j.From)
						}
						for _, chain := range got {
							if chain != strings.Join(c.Rules, "; ") && !slices.Contains(old[j.From+c.Name], chain) {
								t.Errorf("after edit %d, %s: from %s packets pass %q", i, e, j.From, chain)
							}
						}
					}
				}
			}
			if edits, wrong := Diff(want, State{"filter": now}); len(edits) > 0 {
				t.Errorf("there is more to do: %q, %q", wrong, edits)
			}
			foreign := func(table map[string][]string) map[string][]string {
				rest := map[string][]string{}
				for chain, rules := range table {
					if len(rules) > 0 && !strings.HasPrefix(chain, Prefix) {
						rest[chain] = slices.DeleteFunc(slices.Clone(rules), func(r string) bool { return strings.HasPrefix(target(r), Prefix) })
						if len(rest[chain]) == 0 {
							delete(rest, chain)
						}
					}
				}
				return rest
			}
			if d := cmp.Diff(foreign(tc.have["filter"]), foreign(now)); d != "" {
				t.Errorf("of others: %s", d)
			}
		})
	}
}

// passes are the chains that are jumped to from a built-in one and are ours by
// that name: the rules of each in a line, as they were wanted where that is known.
func passes(table map[string][]string, from, name string) (chains []string) {
	for _, r := range table[from] {
		if nameOf(target(r)) != name {
			continue
		}
		var rules []string
		for _, r := range table[target(r)] {
			for _, c := range want {
				for _, w := range c.Rules {
					if is(r, w) {
						r = w
					}
				}
			}
			rules = append(rules, r)
		}
		chains = append(chains, strings.Join(rules, "; "))
	}
	return chains
}

func clone(table map[string][]string) map[string][]string {
	c := maps.Clone(table)
	for chain := range c {
		c[chain] = slices.Clone(c[chain])
	}
	return c
}

// apply does an edit as iptables does, and refuses what iptables refuses.
func apply(t *testing.T, table map[string][]string, e Edit) {
	t.Helper()
	rules, exists := table[e.Chain]
	if exists == (e.Op == NewChain) {
		t.Fatalf("%s: the chain exists: %v", e, exists)
	}
	users := 0
	for _, rules := range table {
		for _, r := range rules {
			if target(r) == e.Chain {
				users++
			}
		}
	}
	switch e.Op {
	case NewChain, ClearChain:
		table[e.Chain] = nil
	case Append:
		table[e.Chain] = append(rules, e.Rule)
	case Insert:
		table[e.Chain] = slices.Insert(rules, 0, e.Rule)
	case Delete:
		i := slices.Index(rules, e.Rule)
		if i < 0 {
			t.Fatalf("%s: no such rule in %q", e, rules)
		}
		table[e.Chain] = slices.Delete(rules, i, i+1)
	case DeleteChain:
		if users > 0 || len(rules) > 0 {
			t.Fatalf("%s: it has %d rules and %d jumps to it", e, len(rules), users)
		}
		delete(table, e.Chain)
	case RenameChain:
		if _, exists := table[e.To]; exists {
			t.Fatalf("%s: there is one already", e)
		}
		table[e.To] = rules
		delete(table, e.Chain)
		for _, rules := range table {
			for i, r := range rules {
				if target(r) == e.Chain {
					rules[i] = strings.Replace(r, "-j "+e.Chain, "-j "+e.To, 1)
				}
			}
		}
	}
	if to := target(e.Rule); strings.HasPrefix(to, Prefix) && e.Op != Delete {
		if _, exists := table[to]; !exists {
			t.Fatalf("%s: there is no chain %s", e, to)
		}
	}
}

func TestEditsInTheWordsOfIptables(t *testing.T) {
	edits, _ := Diff(want[:2], all(sub[1], ""))
	var got []string
	for _, e := range edits {
		got = append(got, commentless(e.String()))
	}
	if d := cmp.Diff([]string{
		"-t filter -N SHOAL-X.1", "-t filter -N SHOAL-SUB.1",
		"-t filter -A SHOAL-X.1 -p tcp -j ACCEPT", "-t filter -A SHOAL-X.1 -j SHOAL-SUB.1", "-t filter -A SHOAL-X.1 -j REJECT",
		"-t filter -A SHOAL-SUB.1 -j DROP",
		"-t filter -I INPUT -d 10.96.0.0/16 -j SHOAL-X.1", "-t filter -D INPUT -d 10.96.0.0/16 -j SHOAL-X",
		"-t filter -F SHOAL-X", "-t filter -F SHOAL-SUB", "-t filter -X SHOAL-X", "-t filter -X SHOAL-SUB",
		"-t filter -E SHOAL-X.1 SHOAL-X", "-t filter -E SHOAL-SUB.1 SHOAL-SUB",
	}, got); d != "" {
		t.Error(d)
	}
}

// commentless is a rule without its comment.
func commentless(rule string) string {
	f := strings.Fields(rule)
	if i := slices.Index(f, "--comment"); i > 1 {
		f = slices.Delete(f, i-2, i+2)
	}
	return strings.Join(f, " ")
}

func TestRemoveTakesOutOursOnly(t *testing.T) {
	have := all(toX, "-A INPUT -j DROP\n"+toX+"\n-A INPUT -j SHOAL-X", sub[0], "-N SHOAL-X.1\n"+sub[0])
	now := clone(have["filter"])
	ours := func(c string) bool { return nameOf(c) == "SHOAL-X" || c == "SHOAL-SUB" }
	for _, e := range remove(ours, have) {
		apply(t, now, e)
	}
	left := host(append(y, "-A INPUT -j DROP", toY, toY2)...)["filter"]
	for _, table := range []map[string][]string{left, now} {
		for chain, rules := range table {
			if len(rules) == 0 {
				table[chain] = nil
			}
		}
	}
	if d := cmp.Diff(left, now); d != "" {
		t.Error(d)
	}
	if got := remove(func(c string) bool { return c == "SHOAL-Z" }, have); got != nil {
		t.Errorf("nothing to remove, and yet: %q", got)
	}
}
