package ipvs

import (
	"context"
	"strings"
	"time"

	"shoal/model"
)

// drainLook is how often a draining destination is looked at.
const drainLook = 200 * time.Millisecond

// Reconcile makes the kernel carry what the Snapshot says. A full pass reads
// everything back and repairs what others broke; it is due at the start and
// every few seconds. Any other pass compares with the Snapshot before, runs no
// program and takes time by what has changed.
//
// Next is when to call again for the sake of a draining task or of something
// that failed; 0: only with the next Snapshot; [GoOn]: at once, since a full pass
// is not finished. The first one is finished in one call. The problems are all
// there are, each time; one does not stop the others.
func (b *Balancer) Reconcile(ctx context.Context, snap *model.Snapshot, full bool) (next time.Duration, problems []model.Problem) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	first := b.snap == nil || b.snap.Self != snap.Self || b.twice()
	t := newTouched(first)
	if first {
		b.unknown()
	} else {
		b.look(t, now)
	}
	if (first || full) && len(b.audit) == 0 {
		b.audit = b.pieces()
	}
	full = len(b.audit) > 0
	if err := b.goOn(t); err != nil {
		b.unknown() // nothing is done by guess
		b.failing.put(object{part: "kernel"}, err, now)
		return firstRetry, b.failing.problems(snap.Self.Name, b.owner)
	}
	b.failing.put(object{part: "kernel"}, nil, now)
	full = full && len(b.audit) == 0 // it is finished
	changed(b.snap, snap, func(old, new *model.Service) {
		if new != nil {
			b.update(new.ID, partOf(new, snap.Self), t)
		} else {
			b.update(old.ID, nil, t)
		}
	})
	b.networks(b.snap, snap, t)
	b.nodes(b.snap, snap, t)
	b.snap = snap

	b.apply(t, now)
	if full || len(t.entries[setHairpin.Name]) > 0 {
		b.failing.put(object{part: "bridge ports"}, b.hairpin(), now)
	}
	if full {
		// Last, so that nothing is let in or sent on before there is a service.
		b.foundation(ctx, now)
	}
	next = b.failing.wait(now)
	if len(b.draining) > 0 && (next == 0 || next > drainLook) {
		next = drainLook
	}
	if len(b.audit) > 0 {
		next = GoOn
	}
	return next, b.failing.problems(snap.Self.Name, b.owner)
}

// look adds what is to be looked at again though no Snapshot changed it:
// draining destinations, with fresh counts of their connections, and fronts
// that failed.
func (b *Balancer) look(t touched, now time.Time) {
	for f := range b.draining {
		mark := b.marks.of[f]
		if b.table.Known[mark] == nil {
			continue
		}
		if err := b.table.Count(mark); err != nil {
			b.failing.put(object{front: f}, err, now)
			continue
		}
		t.fronts[f] = true
	}
	for o, failed := range b.failing {
		if o.part == "" && !now.Before(failed.next) {
			t.fronts[o.front] = true
		}
	}
}

// twice tells whether two services have wanted one VIP, and forgets it: both
// must be looked at anew.
func (b *Balancer) twice() (found bool) {
	for o := range b.failing {
		if strings.HasPrefix(o.part, vipPart) {
			delete(b.failing, o)
			found = true
		}
	}
	return found
}
