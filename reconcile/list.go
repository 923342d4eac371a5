package reconcile

import (
	"slices"
	"time"
)

// Failure is why an object is not as it should be.
type Failure[K comparable] struct {
	Object K
	Err    error
	Since  time.Time
}

// List tells every failure, in the order of compare.
func (fs *Failures[K]) List(compare func(a, b K) int) []Failure[K] {
	all := make([]Failure[K], 0, len(fs.failing))
	for k, f := range fs.failing {
		all = append(all, Failure[K]{k, f.err, f.since})
	}
	slices.SortFunc(all, func(a, b Failure[K]) int { return compare(a.Object, b.Object) })
	return all
}

// Keys lists the objects that fail, in no order.
func (fs *Failures[K]) Keys() []K {
	keys := make([]K, 0, len(fs.failing))
	for k := range fs.failing {
		keys = append(keys, k)
	}
	return keys
}
