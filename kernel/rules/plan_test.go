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
	anew []string // the chains that are filled anew
	from []string // the chains whose jumps are put in front anew
}{
	"nothing there":                 {host(), []string{"SHOAL-X", "SHOAL-SUB", "SHOAL-Y"}, []string{"FORWARD", "INPUT"}},
	"all there":                     {all(), nil, nil},
	"somebody else's behind":        {all(toY, toY+"\n-A INPUT -j DROP"), nil, nil},
	"other jumps of ours between":   {all(toY, "-A INPUT -j SHOAL-Z\n"+toY), nil, nil},
	"a rule lost":                   {all(x[1], ""), []string{"SHOAL-X"}, nil},
	"a rule more":                   {all(x[1], x[1]+"\n-A SHOAL-X -j LOG"), []string{"SHOAL-X"}, nil},
	"a rule twice":                  {all(x[1], x[1]+"\n"+x[1]), []string{"SHOAL-X"}, nil},
	"another order":                 {all(x[1], x[3], x[3], x[1]), []string{"SHOAL-X"}, nil},
	"another version":               {all(x[3], "-A SHOAL-X + -j OLD"), []string{"SHOAL-X"}, nil},
	"a chain that others jump to":   {all(sub[1], ""), []string{"SHOAL-SUB"}, nil},
	"a chain with jumps from two":   {all(y[1], ""), []string{"SHOAL-Y"}, nil},
	"a jump lost":                   {all(toX, ""), nil, []string{"INPUT"}},
	"somebody else's in front":      {all(toX, "-A INPUT -j DROP\n"+toX), nil, []string{"INPUT"}},
	"somebody else's between":       {all(toX, toX+"\n-A INPUT -j DROP"), nil, []string{"INPUT"}},
	"jumps in another order":        {all(toX, toY, toY, toX), nil, []string{"INPUT"}},
	"a jump twice":                  {all(toX, toX+"\n"+toX), nil, []string{"INPUT"}},
	"a jump of an older version":    {all(toX, "-A INPUT -j SHOAL-X"), nil, []string{"INPUT"}},
	"a jump from a chain of others": {all(toX, toX+"\n-N OTHERS\n-A OTHERS -j SHOAL-X"), nil, []string{"OTHERS"}},
}

func TestOnlyWhatDiffersIsWritten(t *testing.T) {
	for name, tc := range hosts {
		t.Run(name, func(t *testing.T) {
			edits, wrong := Diff(want, tc.have)
			var anew, from []string
			for _, e := range edits {
				switch e.Op {
				case EmptyChain:
					anew = append(anew, e.Chain)
				case Insert, Delete:
					from = append(from, e.Chain)
				}
			}
			if d := cmp.Diff(tc.anew, anew); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(tc.from, slices.Compact(from)); d != "" {
				t.Error(d)
			}
			if well := tc.anew == nil && tc.from == nil; (len(wrong) == 0) != well || (len(edits) == 0) != well {
				t.Errorf("wrong: %q, edits: %q", wrong, edits)
			}
		})
	}
}

// Whatever is there, the edits make of it what is wanted, and leave the rest
// alone.
func TestEditsMakeWhatIsWanted(t *testing.T) {
	for name, tc := range hosts {
		t.Run(name, func(t *testing.T) {
			now := clone(tc.have["filter"])
			edits, _ := Diff(want, tc.have)
			for _, e := range edits {
				apply(t, now, e)
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
	if !exists && e.Op != EmptyChain && e.Op != Insert {
		t.Fatalf("%s: there is no such chain", e)
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
	case EmptyChain:
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
	}
	if to := target(e.Rule); strings.HasPrefix(to, Prefix) && e.Op != Delete {
		if _, exists := table[to]; !exists {
			t.Fatalf("%s: there is no chain %s", e, to)
		}
	}
}

func TestTransactionIsWhatIptablesRestoreReads(t *testing.T) {
	edits, _ := Diff(want[:2], all(sub[1], "", toX, toX+"\n"+toX))
	var lines []string
	for line := range strings.Lines(transaction("filter", edits)) {
		lines = append(lines, commentless(line))
	}
	if d := cmp.Diff([]string{
		"*filter", ":SHOAL-SUB - [0:0]", "-A SHOAL-SUB -j DROP",
		"-D INPUT -d 10.96.0.0/16 -j SHOAL-X", "-D INPUT -d 10.96.0.0/16 -j SHOAL-X", "-I INPUT 1 -d 10.96.0.0/16 -j SHOAL-X",
		"COMMIT",
	}, lines); d != "" {
		t.Error(d)
	}
	for text, want := range map[string]string{
		"iptables-restore: line 2 failed":                          ":SHOAL-SUB - [0:0]",
		"Error occurred at line: 3\nTry `iptables-restore -h' ...": edits[1].String(),
		"line 99: RULE_APPEND failed":                              "",
		"Another app is currently holding the xtables lock":        "",
	} {
		got := ""
		if e, ok := refused(text, edits); ok {
			got = e.String()
		}
		if got != want {
			t.Errorf("%q complains of %q, want %q", text, got, want)
		}
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
	have := all(toX, "-A INPUT -j DROP\n"+toX+"\n-A INPUT -j SHOAL-X")
	now := clone(have["filter"])
	ours := func(c string) bool { return c == "SHOAL-X" || c == "SHOAL-SUB" }
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
