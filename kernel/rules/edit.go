package rules

import (
	"fmt"
	"strings"
)

// Op is what an edit does.
type Op int

// The operations of an [Edit].
const (
	EmptyChain  Op = iota // make the chain, or take out all its rules
	Append                // add Rule at the end
	Insert                // put Rule in front
	Delete                // take out the first rule that is Rule
	DeleteChain           // take out the chain, which is empty
)

// Edit is one change of a chain.
type Edit struct {
	Op           Op
	Table, Chain string
	Rule         string // of Delete as it was printed
}

// String is the edit as a line for iptables-restore.
func (e Edit) String() string {
	switch e.Op {
	case EmptyChain:
		return fmt.Sprintf(":%s - [0:0]", e.Chain)
	case Append:
		return fmt.Sprintf("-A %s %s", e.Chain, e.Rule)
	case Insert:
		return fmt.Sprintf("-I %s 1 %s", e.Chain, e.Rule)
	case Delete:
		return fmt.Sprintf("-D %s %s", e.Chain, e.Rule)
	default:
		return "-X " + e.Chain
	}
}

// transaction is the edits of one table as iptables-restore reads them.
func transaction(table string, edits []Edit) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", table)
	for _, e := range edits {
		fmt.Fprintln(&b, e)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// Brief is what was wrong, short enough for a line of a log.
func Brief(wrong []string) string {
	const most = 2
	if len(wrong) <= most+1 {
		return strings.Join(wrong, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(wrong[:most], "; "), len(wrong)-most)
}
