package firewall

import (
	"bytes"

	"github.com/google/nftables/expr"
)

// Table is a table of nftables.
type Table struct {
	Family string // "ip" or "inet"
	Name   string
	Chains map[string]*Chain
	Sets   map[string]*Set
}

// Chain is a chain, and where it is hooked in.
type Chain struct {
	Name     string
	Hook     string // "input", "forward", …; "": others jump here, or it is of no matter
	Priority int
	Drops    bool // its policy
	Rules    []Rule
}

// Rule is the expressions of a rule, in order. One that is not understood is
// nil.
type Rule []expr.Any

// Set is a set or map, with what it holds.
type Set struct {
	Interval bool
	Unknown  bool // its elements could not be read
	Elements []Element
}

// Element is an entry of a set. One of a plain interval goes from Key up to,
// but without, End; one of concatenated intervals is Key to End, each included.
// An empty End of a plain interval is the end of all.
type Element struct {
	Key, End []byte
	Concat   bool
	Verdict  *expr.Verdict
	Value    []byte
}

// holds finds the element that a key matches.
func (s *Set) holds(key []byte) (*Element, bool) {
	for i := range s.Elements {
		e := &s.Elements[i]
		switch {
		case !s.Interval && bytes.Equal(trim(e.Key, key), key):
			return e, true
		case s.Interval && bytes.Compare(key, e.Key) >= 0 && (len(e.End) == 0 ||
			bytes.Compare(key, e.End) < 0 || e.Concat && bytes.Equal(key, e.End)):
			return e, true
		}
	}
	return nil, false
}

// trim cuts what pads a key to whole registers.
func trim(b, like []byte) []byte { return b[:min(len(b), len(like))] }
