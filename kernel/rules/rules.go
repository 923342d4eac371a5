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
// jumps to such chains stand in front of all other rules: those of one call to
// [Keep] in the order of its chains, and those of several calls in any, so that
// packages do not fight for the first place.
const Prefix = "SHOAL-"

// tables is the order they are written in.
var tables = []string{"raw", "mangle", "nat", "filter"}

// State is the rules there are: table -> chain -> rules, without "-A CHAIN ".
type State map[string]map[string][]string

// parse reads a table as "iptables -S" prints it: "-P INPUT ACCEPT",
// "-N CHAIN" and "-A CHAIN RULE".
func parse(lines []string) map[string][]string {
	table := map[string][]string{}
	for _, line := range lines {
		command, rest, _ := strings.Cut(line, " ")
		name, rule, _ := strings.Cut(rest, " ")
		switch command {
		case "-P", "-N":
			table[name] = nil
		case "-A":
			table[name] = append(table[name], rule)
		}
	}
	return table
}

// signature is a comment that holds the hash of a rule. Programs print a rule in
// other words than it was given in, and each version in its own: by the comment
// a rule is known again, whatever printed it.
func signature(rule string) string {
	h := fnv.New64a()
	h.Write([]byte(rule))
	return fmt.Sprintf("shoal:%012x", h.Sum64()&(1<<48-1))
}

// signed is a rule with its signature.
func signed(rule string) string {
	return "-m comment --comment " + signature(rule) + " " + rule
}

// matches tells whether a rule as it was read is the one that was wanted.
func matches(have, want string) bool { return strings.Contains(have, signature(want)) }

func (j Jump) rule(chain string) string { return strings.TrimSpace(j.Match + " -j " + chain) }

// target is where a rule jumps to; "" for none.
func target(rule string) string {
	f := strings.Fields(rule)
	if i := slices.Index(f, "-j"); i >= 0 && i+1 < len(f) {
		return f[i+1]
	}
	return ""
}
