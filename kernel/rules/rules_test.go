package rules

import (
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
}

const jumpRule = "-d 10.96.0.0/16 -j SHOAL-X"

// short puts the names of rules where their comments, or the words that they
// are wanted in, would be.
var short = strings.NewReplacer(
	signed(want[0].Rules[0]), "ONE", signed(want[0].Rules[1]), "TWO", signed(want[0].Rules[2]), "THREE",
	signed(want[1].Rules[0]), "SUB", signed(jumpRule), "JUMP",
	"-m comment --comment "+signature("in place of "+jumpRule)+" "+jumpRule, "STANDIN",
)

// host is a filter table: the names stand for the comments that the rules have,
// and the rules are printed in other words than they were given in.
func host(lines ...string) State {
	comment := func(rule string) string { return "-m comment --comment \"" + signature(rule) + "\"" }
	r := strings.NewReplacer(
		"ONE", comment(want[0].Rules[0])+" -p tcp -m tcp", "TWO", comment(want[0].Rules[1]), "THREE", comment(want[0].Rules[2]),
		"SUB1", comment(want[1].Rules[0]), "JUMP", "-d 10.96.0.0/16 "+comment(jumpRule), "STANDIN", "-d 10.96.0.0/16 "+comment("in place of "+jumpRule),
	)
	var printed []string
	for _, l := range append([]string{"# Warning: other tables present", "-P INPUT ACCEPT", "-N SHOAL-X", "-N SHOAL-SUB"}, lines...) {
		printed = append(printed, r.Replace(l))
	}
	return State{"filter": parse(printed)}
}

func TestDiff(t *testing.T) {
	const (
		one, two, three = "-A SHOAL-X ONE -j ACCEPT", "-A SHOAL-X TWO -j SHOAL-SUB", "-A SHOAL-X THREE -j REJECT --reject-with icmp-port-unreachable"
		sub, jump       = "-A SHOAL-SUB SUB1 -j DROP", "-A INPUT JUMP -j SHOAL-X"
	)
	drop := "-D INPUT -d 10.96.0.0/16 -m comment --comment \"" + signature(jumpRule) + "\" -j SHOAL-X"
	again := func(dropped ...string) []string { // another stands in
		return slices.Concat([]string{"-I INPUT 1 STANDIN"}, dropped, []string{"-I INPUT 1 JUMP", "-D INPUT STANDIN"})
	}
	type lines = []string
	chain := func(more ...string) State { return host(append(lines{one, two, three, sub}, more...)...) }
	filled := func(more ...string) State { return host(append(more, sub, jump)...) }
	for name, tc := range map[string]struct {
		have  State
		edits lines
	}{
		"nothing there: chains, then rules, then the jump": {State{}, lines{
			"-N SHOAL-X", "-N SHOAL-SUB", "-I SHOAL-X 1 ONE", "-I SHOAL-X 2 TWO", "-I SHOAL-X 3 THREE", "-I SHOAL-SUB 1 SUB", "-I INPUT 1 JUMP"}},
		"all there":                {chain(jump, "-A INPUT -j DROP"), nil},
		"another of ours in front": {chain("-A INPUT -j SHOAL-Y", jump), nil},

		"a rule lost":                    {filled(one, three), lines{"-I SHOAL-X 2 TWO"}},
		"the last lost":                  {filled(one, two), lines{"-I SHOAL-X 3 THREE"}},
		"emptied":                        {filled(), lines{"-I SHOAL-X 1 ONE", "-I SHOAL-X 2 TWO", "-I SHOAL-X 3 THREE"}},
		"a rule more":                    {filled(one, "-A SHOAL-X -j LOG", two, three), lines{"-D SHOAL-X 2"}},
		"rules more, from behind":        {filled("-A SHOAL-X -j LOG", one, two, three, "-A SHOAL-X -j LOG"), lines{"-D SHOAL-X 5", "-D SHOAL-X 1"}},
		"a rule twice":                   {filled(one, one, two, three), lines{"-D SHOAL-X 1"}},
		"another version: in before out": {filled(one, "-A SHOAL-X -j OLD", three), lines{"-I SHOAL-X 2 TWO", "-D SHOAL-X 3"}},
		"another version of all":         {filled("-A SHOAL-X -j OLD", "-A SHOAL-X -j OLD"), lines{"-I SHOAL-X 1 ONE", "-I SHOAL-X 2 TWO", "-I SHOAL-X 3 THREE", "-D SHOAL-X 5", "-D SHOAL-X 4"}},
		"another order":                  {filled(two, one, three), lines{"-I SHOAL-X 3 TWO", "-D SHOAL-X 1"}},
		"some lost, some more, here, there": {filled("-A SHOAL-X -j OLD", two, "-A SHOAL-X -j LOG"), lines{
			"-I SHOAL-X 1 ONE", "-I SHOAL-X 4 THREE", "-D SHOAL-X 5", "-D SHOAL-X 2"}},

		"jump lost":                  {chain(), lines{"-I INPUT 1 JUMP"}},
		"somebody else's in front":   {chain("-A INPUT -j DROP", jump), again(drop)},
		"the jump twice":             {chain(jump, jump), again(drop, drop)},
		"a jump of an older version": {chain("-A INPUT -j SHOAL-X"), lines{"-I INPUT 1 JUMP", "-D INPUT -j SHOAL-X"}},
		"the stand-in was left":      {chain("-A INPUT STANDIN -j SHOAL-X"), lines{"-I INPUT 1 JUMP", "-D INPUT -d 10.96.0.0/16 -m comment --comment \"" + signature("in place of "+jumpRule) + "\" -j SHOAL-X"}},
		"chain and jump lost, not a sub": {State{"filter": {"SHOAL-SUB": host(sub)["filter"]["SHOAL-SUB"]}}, lines{
			"-N SHOAL-X", "-I SHOAL-X 1 ONE", "-I SHOAL-X 2 TWO", "-I SHOAL-X 3 THREE", "-I INPUT 1 JUMP"}},
	} {
		t.Run(name, func(t *testing.T) {
			edits, wrong := Diff(want, tc.have)
			if d := cmp.Diff(tc.edits, text(t, edits)); d != "" {
				t.Error(d)
			}
			if (len(wrong) > 0) != (tc.edits != nil) {
				t.Errorf("wrong: %q", wrong)
			}
		})
	}
}

// text is the edits of the filter table, in short.
func text(t *testing.T, edits []Edit) (lines []string) {
	t.Helper()
	for _, e := range edits {
		line, ok := strings.CutPrefix(e.String(), "-t filter ")
		if !ok {
			t.Errorf("%s: another table", e)
		}
		lines = append(lines, short.Replace(line))
	}
	return lines
}

// Whatever is there, the edits make of it what is wanted: done one by one on a
// list, as iptables does them.
func TestEditsLeadToWhatIsWanted(t *testing.T) {
	c := Chain{Table: "filter", Name: "SHOAL-X", Rules: []string{"-j A", "-j B", "-j C", "-j B"}}
	var all []string // every rule wanted, and one that is not
	for _, r := range []string{"-j A", "-j B", "-j C", "-j OTHER"} {
		all = append(all, signed(r))
	}
	final := []string{all[0], all[1], all[2], all[1]}
	for n := range 5 { // every chain of up to five rules
		for code := range pow(len(all), n+1) {
			var have []string
			for range n + 1 {
				have = append(have, all[code%len(all)])
				code /= len(all)
			}
			now := slices.Clone(have)
			edits := fillChain(c, have)
			for _, e := range edits {
				if e.Op == Insert {
					now = slices.Insert(now, e.At-1, e.Rule)
				} else {
					now = slices.Delete(now, e.At-1, e.At)
				}
			}
			if !slices.Equal(now, final) {
				t.Fatalf("of %q the edits %q make %q", have, edits, now)
			}
		}
	}
}

func pow(base, n int) int {
	p := 1
	for range n {
		p *= base
	}
	return p
}

func TestRemoveTakesOutOursOnly(t *testing.T) {
	have := host("-A INPUT -j SHOAL-Y", "-A INPUT JUMP -j SHOAL-X", "-A INPUT -j DROP", "-A INPUT -j SHOAL-X", "-A SHOAL-X -j REJECT")
	got := text(t, remove(func(c string) bool { return c == "SHOAL-X" || c == "SHOAL-SUB" }, have))
	if d := cmp.Diff([]string{"-D INPUT -d 10.96.0.0/16 -m comment --comment \"" + signature(jumpRule) + "\" -j SHOAL-X", "-D INPUT -j SHOAL-X",
		"-F SHOAL-SUB", "-F SHOAL-X", "-X SHOAL-SUB", "-X SHOAL-X"}, got); d != "" {
		t.Error(d)
	}
	if got := remove(func(c string) bool { return c == "SHOAL-Z" }, have); got != nil {
		t.Errorf("nothing to remove, and yet: %q", got)
	}
}

func TestPrintedRuleIsReadAsItsArguments(t *testing.T) {
	for printed, want := range map[string][]string{
		"":                                 nil,
		"-p tcp -j ACCEPT":                 {"-p", "tcp", "-j", "ACCEPT"},
		`--comment "a b" -j X`:             {"--comment", "a b", "-j", "X"},
		`--comment "say \"a\\b\"" ! -i lo`: {"--comment", `say "a\b"`, "!", "-i", "lo"},
		`--log-prefix "" -j LOG`:           {"--log-prefix", "", "-j", "LOG"},
	} {
		if d := cmp.Diff(want, words(printed)); d != "" {
			t.Errorf("%s: %s", printed, d)
		}
	}
}

func TestBriefNamesTheFirst(t *testing.T) {
	for want, wrong := range map[string][]string{
		"":                 nil,
		"a; b; c":          {"a", "b", "c"},
		"a; b; and 2 more": {"a", "b", "c", "d"},
	} {
		if got := Brief(wrong); got != want {
			t.Errorf("%q: %q, want %q", wrong, got, want)
		}
	}
}
