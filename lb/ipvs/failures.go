package ipvs

import (
	"cmp"
	"slices"
	"time"

	"shoal/model"
)

// object is what can fail by itself: a front, or a part of the kernel.
type object struct {
	front front
	part  string // "iptables", "sysctl net.ipv4.ip_forward", …; "" for a front
}

// failure is why an object is not as it should be, and when to try again.
type failure struct {
	err   error
	since time.Time
	tries int
	next  time.Time
}

type failures map[object]*failure

// A failing front is tried again after a second, then after twice as long each
// time, up to five seconds: a full pass compares what has changed in the kernel,
// and would not find it.
const (
	firstRetry = time.Second
	lastRetry  = 5 * time.Second
)

// put records how an attempt ended.
func (fs failures) put(o object, err error, now time.Time) {
	if err == nil {
		delete(fs, o)
		return
	}
	f := fs[o]
	if f == nil {
		f = &failure{since: now}
		fs[o] = f
	}
	f.err, f.next = err, now.Add(min(firstRetry<<min(f.tries, 10), lastRetry))
	f.tries++
}

// wait is how long until the first front is to be tried again; 0: there is
// none. Parts of the kernel wait for the next full pass.
func (fs failures) wait(now time.Time) (d time.Duration) {
	for o, f := range fs {
		if o.part == "" {
			if w := max(f.next.Sub(now), time.Millisecond); d == 0 || w < d {
				d = w
			}
		}
	}
	return d
}

// problems tells all of it, in order.
func (fs failures) problems(node string, owner map[front]model.ServiceID) []model.Problem {
	var ps []model.Problem
	for o, f := range fs {
		p := model.Problem{Node: node, Kind: "kernel", Object: o.part, Reason: f.err.Error(), Since: f.since}
		if o.part == "" {
			p.Kind, p.Object = "service", owner[o.front].String()
			p.Reason = o.front.String() + ": " + p.Reason
		}
		ps = append(ps, p)
	}
	slices.SortFunc(ps, func(a, b model.Problem) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Reason, b.Reason))
	})
	return ps
}
