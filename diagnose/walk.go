package diagnose

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"

	"shoal/api"
	"shoal/lb"
	"shoal/model"
)

// walk is an [api.Explanation] as it grows.
type walk struct {
	api.Explanation
	node  string // where the steps are seen, of those that say so
	reads bool   // nothing but reading: no connection is tried
}

// newWalk begins the way to what is asked for.
func newWalk(what, node string) *walk {
	return &walk{Explanation: api.Explanation{What: what, OK: true}, node: node}
}

// step adds a step. The first that does not hold is the verdict.
func (e *walk) step(what string, ok bool, format string, args ...any) {
	e.add(api.Step{What: what, Node: e.node, OK: ok, Evidence: fmt.Sprintf(format, args...)})
}

// steps adds what a data plane says of a packet's way.
func (e *walk) steps(all []lb.Step) {
	for _, s := range all {
		e.step(s.What, s.OK, "%s", s.Evidence)
	}
}

func (e *walk) add(s api.Step) {
	e.Steps = append(e.Steps, s)
	if s.OK || !e.OK {
		return
	}
	where := s.What
	if s.Node != "" {
		where += " on " + s.Node
	}
	e.OK, e.Verdict = false, where+": "+strings.ReplaceAll(s.Evidence, "\n", "; ")
}

// adopt adds the steps seen on a host, or that it did not tell them.
func (e *walk) adopt(n model.Node, p Part, err error) {
	if away := new(url.Error); errors.As(err, &away) {
		e.step("agent", false, "the agent of host %s does not answer (%s), so whether a packet gets through there is not known: see that it runs, and shoal nodes", n.Name, away.Err)
	} else if err != nil {
		e.step("agent", false, "the agent of host %s cannot tell what a packet meets there: %s", n.Name, printable(err.Error()))
	}
	for _, s := range p.Steps {
		s.Node = n.Name
		e.add(s)
	}
}

// printable takes out what a terminal would not show, but act on.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
