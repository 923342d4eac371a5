package ingress

import (
	"cmp"
	"slices"
	"time"

	"shoal/model"
)

// object is what can fail by itself: a port of a service, or a part of the
// kernel that all ports stand on.
type object struct {
	kind string // "service" or "kernel"
	name string // the service, or the part: "iptables", "peer b", …
	port port   // of a service
}

// failure is why an object is not as it should be.
type failure struct {
	err   error
	since time.Time
	tries int
	next  time.Time // when it is worth another try
}

type failures map[object]*failure

// What fails is tried again, by a full pass, after a second, then after twice
// as long each time, up to five seconds: however seldom full passes are, a port
// that somebody has let go of is served soon.
const (
	firstRetry = time.Second
	lastRetry  = 5 * time.Second
)

// update takes in how the objects of one kind fare now: those in errs fail,
// others of that kind do not. Tried tells that it was tried to mend them.
func (fs failures) update(kind string, errs map[object]error, tried bool, now time.Time) {
	for o := range fs {
		if o.kind == kind && errs[o] == nil {
			delete(fs, o)
		}
	}
	for o, err := range errs {
		if o.kind != kind || err == nil {
			continue
		}
		f := fs[o]
		if f == nil {
			f = &failure{since: now}
			fs[o] = f
		}
		f.err = err
		if tried || f.tries == 0 {
			f.next = now.Add(min(firstRetry<<min(f.tries, 10), lastRetry))
			f.tries++
		}
	}
}

// wait is how long until something is worth another try; 0: nothing failed.
func (fs failures) wait(now time.Time) (d time.Duration) {
	for _, f := range fs {
		if w := max(f.next.Sub(now), time.Millisecond); d == 0 || w < d {
			d = w
		}
	}
	return d
}

// due tells whether something is worth another try now.
func (fs failures) due(now time.Time) bool {
	for _, f := range fs {
		if !now.Before(f.next) {
			return true
		}
	}
	return false
}

// problems tells all of it, in order.
func (fs failures) problems(node string) []model.Problem {
	ps := make([]model.Problem, 0, len(fs))
	for o, f := range fs {
		ps = append(ps, model.Problem{Node: node, Code: model.CodeOf(f.err, model.KernelWriteFailed), Kind: o.kind, Object: o.name, Reason: f.err.Error(), Since: f.since})
	}
	slices.SortFunc(ps, func(a, b model.Problem) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Reason, b.Reason))
	})
	return ps
}
