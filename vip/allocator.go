package vip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"shoal/model"
)

// Store is where claims become facts. [catalog.Catalog] is one.
type Store interface {
	// ClaimVIP makes addr the VIP of a service that has none, and returns the
	// VIP it has. A [model.TakenError] says that addr is another's,
	// [model.ErrAway] that nothing can be claimed now.
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
)

// Allocator decides which addresses to claim, and claims them. One goroutine at a time may use it.
type Allocator struct {
	o     Options
	store Store
	since map[string]time.Time // object of a problem and its reason -> when it was first seen
}

// New makes an Allocator.
func New(o Options, store Store) *Allocator {
	return &Allocator{o: o, store: store, since: map[string]time.Time{}}
}

// Reconcile gives each service on this host that needs it a VIP, and returns
// the problems of those that did not get one. The VIPs are in a later Snapshot.
func (a *Allocator) Reconcile(ctx context.Context, s *model.Snapshot) []model.Problem {
	now := time.Now()
	l := learnt{map[netip.Addr]model.ServiceID{}, map[model.ServiceID]netip.Addr{}}
	var problems []model.Problem
	for again, round := true, 0; again && round < rounds; round++ {
		var claims []Claim
		claims, problems = decide(a.o, s, l, now)
		var failed []model.Problem
		again, failed = a.carryOut(ctx, s.Self.Name, claims, l)
		problems = append(problems, failed...)
	}
	a.date(problems, now)
	return problems
}

// carryOut claims, and learns. It tells whether some address was another's, so
// that there is more to decide.
func (a *Allocator) carryOut(ctx context.Context, node string, claims []Claim, l learnt) (again bool, problems []model.Problem) {
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
			switch {
			case err == nil:
				l.holders[vip] = claim.Service
				l.given[claim.Service] = vip
				return nil
			case errors.As(err, &taken):
				l.holders[claim.Addr] = taken.Holder
				again = true
				return nil
			case errors.Is(err, model.ErrAway), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
				// The others need not wait as long each.
				cancel()
				err = errors.New("no VIP yet: the store does not answer, and it is tried again; see: shoal status")
			}
			problems = append(problems, model.Problem{Node: node, Kind: "service", Object: claim.Service.String(), Reason: err.Error()})
			return nil
		})
	}
	work.Wait()
	return again && ctx.Err() == nil, problems
}

func (a *Allocator) claim(ctx context.Context, c Claim) (netip.Addr, error) {
	if c.From != (model.ServiceID{}) {
		if err := a.store.RemoveService(ctx, c.From); err != nil && !errors.Is(err, model.ErrNoService) {
			return netip.Addr{}, fmt.Errorf("no VIP: the pool is full, and to take the one of %s, long idle: %w", c.From, err)
		}
	}
	return a.store.ClaimVIP(ctx, c.Service, c.Addr)
}

// date says since when each problem is there.
func (a *Allocator) date(problems []model.Problem, now time.Time) {
	since := map[string]time.Time{}
	for i := range problems {
		p := &problems[i]
		key := p.Object + "\x00" + p.Reason
		p.Since = now
		if t, ok := a.since[key]; ok {
			p.Since = t
		}
		since[key] = p.Since
	}
	a.since = since
}
