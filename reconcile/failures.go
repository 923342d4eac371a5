package reconcile

import (
	"cmp"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"

	"shoal/model"
)

// Failures records which objects are not as they should be: why, since when,
// and when each is worth another try. One goroutine at a time may use it.
type Failures[K comparable] struct {
	first, last time.Duration
	failing     map[K]*failure
}

type failure struct {
	err     error
	since   time.Time
	next    time.Time
	backoff backoff.ExponentialBackOff
}

// NewFailures makes an empty record. A failed attempt is repeated after first,
// and after twice as long each further time, up to last.
func NewFailures[K comparable](first, last time.Duration) *Failures[K] {
	return &Failures[K]{first: first, last: last, failing: map[K]*failure{}}
}

// Put records how an attempt at an object ended. A nil error forgets its
// failure; another one postpones the next try.
func (fs *Failures[K]) Put(k K, err error, now time.Time) {
	if f := fs.put(k, err, now); f != nil {
		f.next = now.Add(f.backoff.NextBackOff())
	}
}

// Note records how an object fares where no attempt was made. A nil error
// forgets its failure; another one replaces the reason and leaves the time of
// the next try as it is.
func (fs *Failures[K]) Note(k K, err error, now time.Time) {
	if f := fs.put(k, err, now); f != nil && f.next.IsZero() {
		f.next = now.Add(f.backoff.NextBackOff())
	}
}

func (fs *Failures[K]) put(k K, err error, now time.Time) *failure {
	if err == nil {
		delete(fs.failing, k)
		return nil
	}
	f := fs.failing[k]
	if f == nil {
		f = &failure{since: now, backoff: backoff.ExponentialBackOff{InitialInterval: fs.first, MaxInterval: fs.last, Multiplier: 2}}
		fs.failing[k] = f
	}
	f.err = err
	return f
}

// PutAll records how an attempt at every object ended: those in errs failed,
// all others are as they should be.
func (fs *Failures[K]) PutAll(errs map[K]error, now time.Time) {
	fs.DeleteFunc(func(k K) bool { return errs[k] == nil })
	for k, err := range errs {
		fs.Put(k, err, now)
	}
}

// DeleteFunc forgets the failures of the objects that del picks.
func (fs *Failures[K]) DeleteFunc(del func(K) bool) {
	for k := range fs.failing {
		if del(k) {
			delete(fs.failing, k)
		}
	}
}

// Err is why an object fails; nil: it does not.
func (fs *Failures[K]) Err(k K) error {
	if f := fs.failing[k]; f != nil {
		return f.err
	}
	return nil
}

// Since is when an object began to fail; zero: it does not.
func (fs *Failures[K]) Since(k K) time.Time {
	if f := fs.failing[k]; f != nil {
		return f.since
	}
	return time.Time{}
}

// Len is the number of failing objects.
func (fs *Failures[K]) Len() int { return len(fs.failing) }

// Due lists the objects that are worth another try now, in no order.
func (fs *Failures[K]) Due(now time.Time) (due []K) {
	for k, f := range fs.failing {
		if !now.Before(f.next) {
			due = append(due, k)
		}
	}
	return due
}

// Next is how long until the first object is worth another try; 0: none fails.
func (fs *Failures[K]) Next(now time.Time) (wait time.Duration) {
	for _, f := range fs.failing {
		wait = Sooner(wait, max(f.next.Sub(now), time.Millisecond))
	}
	return wait
}

// Sooner is the shorter of two times to wait, of which 0 is no end.
func Sooner(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// Problems tells every failure, ordered by kind, object and reason. Describe
// makes a problem of an object and why it fails; the date is added to it.
func (fs *Failures[K]) Problems(describe func(K, error) model.Problem) []model.Problem {
	ps := make([]model.Problem, 0, len(fs.failing))
	for k, f := range fs.failing {
		p := describe(k, f.err)
		p.Since = f.since
		ps = append(ps, p)
	}
	slices.SortFunc(ps, func(a, b model.Problem) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Reason, b.Reason))
	})
	return ps
}
