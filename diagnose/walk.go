package diagnose

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
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

	silent map[string]bool // hosts that were said not to tell
}

// newWalk begins the way to what is asked for.
func newWalk(what, node string) *walk {
	return &walk{Explanation: api.Explanation{What: what, OK: true}, node: node}
}

// step adds a step. The first that does not hold is the verdict.
func (e *walk) step(what string, ok bool, format string, args ...any) {
	e.add(api.Step{What: what, Node: e.node, OK: ok, Evidence: fmt.Sprintf(format, args...)})
}

// fix adds a step that does not hold, and what to do.
func (e *walk) fix(what, remedy, format string, args ...any) {
	e.add(api.Step{What: what, Node: e.node, Evidence: fmt.Sprintf(format, args...), Remedy: remedy})
}

// kernelSteps adds what a data plane says of a packet's way.
func (e *walk) kernelSteps(all []lb.Step) {
	for _, s := range all {
		e.add(api.Step{What: s.What, Node: e.node, OK: s.OK, Evidence: s.Evidence, Kernel: true})
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
	if s.Remedy != "" {
		e.Verdict += "; to do: " + s.Remedy
	}
}

// adopt adds the steps seen on a host, or that it did not tell them.
func (e *walk) adopt(n model.Node, p Part, err error) {
	if err != nil && !e.silent[n.Name] {
		e.agentStep(n, err)
	}
	for _, s := range p.Steps {
		s.Node = n.Name
		e.add(s)
	}
}

// agentStep tells that a host's agent does not tell what it is asked.
func (e *walk) agentStep(n model.Node, err error) {
	if e.silent == nil {
		e.silent = map[string]bool{}
	}
	e.silent[n.Name] = true
	if away := new(url.Error); errors.As(err, &away) {
		e.fix("agent", fmt.Sprintf("see that it runs, and that TCP 7947 of %s is open to the hosts of the cluster; shoal nodes tells whether the host is alive", n.Addr),
			"the agent of host %s does not answer (%s), so whether a packet gets through there is not known", n.Name, away.Err)
		return
	}
	e.fix("agent", fmt.Sprintf("see that the engine of host %s runs, and what shoal status says there", n.Name), "the agent of host %s cannot tell what is there: %s", n.Name, printable(err.Error()))
}

// adoptAround adds the steps seen on a host, and in front of the first that is
// neither of the client nor of the name, what between adds.
func (e *walk) adoptAround(n model.Node, p Part, err error, between func()) {
	i := slices.IndexFunc(p.Steps, func(s api.Step) bool { return !slices.Contains(beforeTasks, s.What) })
	if i < 0 {
		i = len(p.Steps)
	}
	e.adopt(n, Part{Steps: p.Steps[:i]}, nil)
	between()
	e.adopt(n, Part{Steps: p.Steps[i:]}, err)
}

// beforeTasks are the steps of a trace that come before a task is of any matter.
var beforeTasks = []string{"client", "resolver", "name", "port"}

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
