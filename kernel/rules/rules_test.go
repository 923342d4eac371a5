package rules

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var want = []Chain{{
	Table: "filter", Name: "SHOAL-X", From: []Jump{{From: "INPUT", Match: "-d 10.96.0.0/16"}},
	Rules: []string{"-p tcp -j ACCEPT", "-j REJECT"},
}}

var (
	jump   = signature("-d 10.96.0.0/16 -j SHOAL-X")
	first  = signature("-p tcp -j ACCEPT")
	second = signature("-j REJECT")
)

// host is a filter table; NAME stands for the comment that rule has, and the
// rules are printed in other words than they were given in.
func host(lines ...string) State {
	s := "*filter\n:INPUT ACCEPT [0:0]\n:SHOAL-X - [0:0]\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
	s = strings.NewReplacer("JUMP", "-m comment --comment \""+jump+"\"", "FIRST", "-m comment --comment "+first,
		"SECOND", "-m comment --comment "+second).Replace(s)
	return parse(s)
}

func TestDiff(t *testing.T) {
	replaced := []string{":SHOAL-X - [0:0]", "-A SHOAL-X " + signed("-p tcp -j ACCEPT"), "-A SHOAL-X " + signed("-j REJECT")}
	insert := "-I INPUT 1 " + signed("-d 10.96.0.0/16 -j SHOAL-X")
	chain := []string{"-A SHOAL-X FIRST -p tcp -m tcp -j ACCEPT", "-A SHOAL-X SECOND -j REJECT --reject-with icmp-port-unreachable"}
	good := "-A INPUT -d 10.96.0.0/16 JUMP -j SHOAL-X"
	for name, tc := range map[string]struct {
		have  State
		lines []string
	}{
		"nothing there":              {State{}, append(replaced[:3:3], insert)},
		"all there":                  {host(append(chain, good, "-A INPUT -j DROP")...), nil},
		"another of ours in front":   {host(append(chain, "-A INPUT -j SHOAL-Y", good)...), nil},
		"somebody else's in front":   {host(append(chain, "-A INPUT -j DROP", good)...), []string{"-D INPUT 2", insert}},
		"the jump twice":             {host(append(chain, good, good)...), []string{"-D INPUT 2"}},
		"a jump of an older version": {host(append(chain, "-A INPUT -j SHOAL-X")...), []string{"-D INPUT 1", insert}},
		"jump lost":                  {host(chain...), []string{insert}},
		"chain emptied":              {host(good), replaced},
		"rule lost":                  {host(chain[0], good), replaced},
		"rules in another order":     {host(chain[1], chain[0], good), replaced},
		"a rule more":                {host(chain[0], chain[1], "-A SHOAL-X -j DROP", good), replaced},
	} {
		t.Run(name, func(t *testing.T) {
			script, edits := Diff(want, tc.have)
			expect := ""
			if tc.lines != nil {
				expect = "*filter\n" + strings.Join(tc.lines, "\n") + "\nCOMMIT\n"
			}
			if d := cmp.Diff(expect, script); d != "" {
				t.Error(d)
			}
			if (len(edits) > 0) != (tc.lines != nil) {
				t.Errorf("edits: %q", edits)
			}
		})
	}
}

func TestRemoveTakesOutOursOnly(t *testing.T) {
	have := host("-A INPUT -j SHOAL-Y", "-A INPUT -d 10.96.0.0/16 JUMP -j SHOAL-X", "-A INPUT -j DROP", "-A INPUT -j SHOAL-X", "-A SHOAL-X -j REJECT")
	got := remove(func(c string) bool { return c == "SHOAL-X" }, have)
	if d := cmp.Diff("*filter\n-D INPUT 4\n-D INPUT 2\n-F SHOAL-X\n-X SHOAL-X\nCOMMIT\n", got); d != "" {
		t.Error(d)
	}
	if got := remove(func(c string) bool { return c == "SHOAL-Z" }, have); got != "" {
		t.Errorf("nothing to remove, and yet: %q", got)
	}
}
