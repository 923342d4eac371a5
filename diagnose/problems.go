package diagnose

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"shoal/model"
)

// Problems is what keeps single objects from working, by the part that found
// out. Each part always reports all of its own.
type Problems struct {
	log  *slog.Logger
	node string

	mu       sync.Mutex
	bySource map[string][]model.Problem
}

// NewProblems makes an empty list for the host called node.
func NewProblems(node string, log *slog.Logger) *Problems {
	return &Problems{log: log, node: node, bySource: map[string][]model.Problem{}}
}

type problemKey struct{ kind, object, reason string }

func keyOf(p model.Problem) problemKey { return problemKey{p.Kind, p.Object, p.Reason} }

// Set replaces what source has to report. A problem is logged when it comes
// and when it goes. One that the source has not dated keeps the time it was first
// seen.
func (ps *Problems) Set(source string, now []model.Problem) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	old := map[problemKey]model.Problem{}
	for _, p := range ps.bySource[source] {
		old[keyOf(p)] = p
	}
	list := make([]model.Problem, 0, len(now))
	for _, p := range now {
		k := keyOf(p)
		p.Node, p.Code = cmp.Or(p.Node, ps.node), cmp.Or(p.Code, model.Unclassified)
		was, known := old[k]
		if p.Since.IsZero() {
			p.Since = was.Since
		}
		if known {
			delete(old, k)
		} else {
			if p.Since.IsZero() {
				p.Since = time.Now()
			}
			level, what := slog.LevelWarn, "problem"
			if p.Notice {
				level, what = slog.LevelInfo, "notice"
			}
			ps.log.Log(context.Background(), level, what, "code", p.Code, "kind", p.Kind, "object", p.Object, "node", p.Node, "reason", p.Reason)
		}
		list = append(list, p)
	}
	for k := range old {
		ps.log.Info("problem is gone", "kind", k.kind, "object", k.object)
	}
	ps.bySource[source] = list
}

// List is every problem, oldest first.
func (ps *Problems) List() []model.Problem {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	all := []model.Problem{}
	for _, list := range ps.bySource {
		all = append(all, list...)
	}
	model.SortProblems(all)
	return all
}
