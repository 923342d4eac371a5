package vip

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"shoal/model"
	"shoal/reconcile"
)

// Store is where claims become facts. [catalog.Catalog] is one.
type Store interface {
	// ClaimVIP makes addr the VIP of a service that has none, and returns the
	// VIP it has. A [model.TakenError] says that addr is another's, a
	// [model.RestingError] that it was until not long ago, [model.ErrAway] that
	// nothing can be claimed now.
	ClaimVIP(ctx context.Context, id model.ServiceID, addr netip.Addr) (netip.Addr, error)
	// RemoveService gives back the VIP of a service without tasks.
	RemoveService(ctx context.Context, id model.ServiceID) error
}

const (
	// Claims that wait for the disk together are committed together.
	parallel = 128
	// In each round of two hosts that want the same addresses, either gets
	// half of what it wants: with 10,000 each it takes about 14.
	rounds = 30
	// A VIP that a service did not get is tried again: the store may be back,
	// or an idle service have come of age, which no Snapshot tells.
	retry = 5 * time.Second
)

// Allocator decides which addresses to claim, and claims them. One goroutine at a time may use it.
type Allocator struct {
	o       Options
	store   Store
	failing *reconcile.Failures[model.ServiceID]
	resting map[netip.Addr]time.Time // addresses that are nobody's for a while, until when

	snap    *model.Snapshot          // the last one
	waiting map[model.ServiceID]bool // services of it that have something to be decided
}

// New makes an Allocator.
func New(o Options, store Store) *Allocator {
	return &Allocator{o: o, store: store, failing: reconcile.NewFailures[model.ServiceID](retry, retry), resting: map[netip.Addr]time.Time{}, waiting: map[model.ServiceID]bool{}}
}

// look takes in what changed with a Snapshot: nothing has to be decided while no
// service of this host waits for something.
func (a *Allocator) look(s *model.Snapshot) {
	changed, known := s.ServicesSince(a.snap)
	a.snap = s
	if !known {
		clear(a.waiting)
		for _, svc := range s.Services {
			if waits(a.o, svc, s.Self.Name) {
				a.waiting[svc.ID] = true
			}
		}
	}
	for _, id := range changed {
		delete(a.waiting, id)
		if svc, ok := s.Service(id); ok && waits(a.o, svc, s.Self.Name) {
			a.waiting[id] = true
		}
	}
}

// Reconcile gives each service on this host that needs it a VIP. The VIPs are
// in a later Snapshot. Every pass is a full one.
func (a *Allocator) Reconcile(ctx context.Context, s *model.Snapshot, _ bool) reconcile.Result {
	now := time.Now()
	maps.DeleteFunc(a.resting, func(_ netip.Addr, until time.Time) bool { return !now.Before(until) })
	if a.look(s); len(a.waiting) == 0 {
		a.failing.PutAll(nil, now)
		return reconcile.Result{}
	}
	l := learnt{map[netip.Addr]model.ServiceID{}, map[model.ServiceID]netip.Addr{}, a.resting}
	var failed map[model.ServiceID]error
	for again, round := true, 0; again && round < rounds; round++ {
		var claims []Claim
		claims, failed = decide(a.o, s, l, now)
		again = a.carryOut(ctx, claims, l, failed)
	}
	a.failing.PutAll(failed, now)
	return reconcile.Result{Again: a.failing.Next(now), Problems: a.failing.Problems(func(id model.ServiceID, err error) model.Problem {
		return model.Problem{Node: s.Self.Name, Code: model.CodeOf(err, model.Unclassified), Kind: "service", Object: id.String(), Reason: err.Error()}
	})}
}

// carryOut claims, learns, and adds the services that failed. It tells whether
// some address was another's, so that there is more to decide.
func (a *Allocator) carryOut(ctx context.Context, claims []Claim, l learnt, failed map[model.ServiceID]error) (again bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var work errgroup.Group
	work.SetLimit(parallel)
	for _, claim := range claims {
		work.Go(func() error {
			vip, err := a.claim(ctx, claim)
			mu.Lock()
			defer mu.Unlock()
			var taken *model.TakenError
			var resting *model.RestingError
			switch {
			case err == nil:
				l.holders[vip] = claim.Service
				l.given[claim.Service] = vip
				return nil
			case errors.As(err, &taken):
				l.holders[claim.Addr] = taken.Holder
				again = true
				return nil
			case errors.As(err, &resting):
				maps.Copy(l.resting, resting.Resting)
				again = true
				return nil
			case errors.Is(err, model.ErrAway), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
				// The others need not wait as long each.
				cancel()
				err = model.StoreUnreachable.Errorf("no VIP yet: the store does not answer, and it is tried again; see: shoal status")
			}
			failed[claim.Service] = err
			return nil
		})
	}
	work.Wait()
	return again && ctx.Err() == nil
}

func (a *Allocator) claim(ctx context.Context, c Claim) (netip.Addr, error) {
	if c.From != (model.ServiceID{}) {
		if err := a.store.RemoveService(ctx, c.From); err != nil && !errors.Is(err, model.ErrNoService) {
			return netip.Addr{}, fmt.Errorf("no VIP: the pool is full, and to take the one of %s, long idle: %w", c.From, err)
		}
	}
	return a.store.ClaimVIP(ctx, c.Service, c.Addr)
}
