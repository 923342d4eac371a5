package lb

import (
	"context"
	"errors"
	"strings"
	"time"

	"shoal/catalog"
	"shoal/kernel/ipset"
	"shoal/kernel/ipvs"
)

// drainLook is how often a draining destination is looked at.
const drainLook = 200 * time.Millisecond

// Reconcile makes the kernel carry what the Snapshot says. A full pass reads
// everything back and repairs what others broke; it is due at the start and
// every few seconds. Any other pass compares with the Snapshot before, runs no
// program and takes time by what has changed.
//
// Next is when to call again for the sake of a draining task or of something
// that failed; 0: only with the next Snapshot. The problems are all there are,
// each time; one does not stop the others.
func (b *Balancer) Reconcile(ctx context.Context, snap *catalog.Snapshot, full bool) (next time.Duration, problems []catalog.Problem) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.snap == nil || b.snap.Self != snap.Self || b.twice() {
		full = true
		b.forget()
	}
	t := newTouched(full)
	if full {
		if err := b.read(); err != nil {
			b.forget() // what the kernel has is not known: nothing is done by guess
			b.failing.put(object{part: "kernel"}, err, now)
			return firstRetry, b.failing.problems(snap.Self.Name, b.owner)
		}
		b.failing.put(object{part: "kernel"}, nil, now)
	} else {
		b.look(t, now)
	}
	changed(b.snap, snap, func(old, new *catalog.Service) {
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
	return next, b.failing.problems(snap.Self.Name, b.owner)
}

// look adds what is to be looked at again though no Snapshot changed it:
// draining destinations, with fresh counts of their connections, and fronts
// that failed.
func (b *Balancer) look(t touched, now time.Time) {
	for f := range b.draining {
		v := b.table[b.marks.of[f]]
		if v == nil {
			continue
		}
		dests, err := b.ipvs.Destinations(v.Mark)
		if err != nil {
			b.failing.put(object{front: f}, err, now)
			continue
		}
		v.Dests = dests
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

// read takes stock of the kernel, makes the sets that are missing, and takes
// over the marks that the others hold.
func (b *Balancer) read() error {
	b.sets, b.table, b.draining = map[string]entries{}, map[uint32]*ipvs.Virtual{}, map[front]bool{}
	for _, s := range sets {
		held, err := ipset.List(s.Name)
		if errors.Is(err, ipset.ErrNotExist) {
			if err = ipset.Create(s); err != nil {
				return err
			}
			b.log.Debug("set made", "set", s.Name)
			held = entries{}
		}
		if err != nil {
			return err
		}
		b.sets[s.Name] = held
	}
	for _, s := range sets {
		for e, mark := range b.sets[s.Name] {
			if f, has := frontOf(s.Name, e); has {
				b.marks.adopt(f, mark)
			}
		}
	}
	table, err := b.ipvs.Table()
	if err != nil {
		return err
	}
	for mark, v := range table {
		if ours(mark) {
			b.table[mark] = v
		}
	}
	return nil
}

// found is what the kernel has of a front.
func (b *Balancer) found(f front) found {
	set, e := f.where()
	have := found{service: b.table[b.marks.of[f]]}
	if mark, has := b.sets[set][e]; has {
		have.entry = max(mark, 1) // somebody's entry without a mark is still an entry
	}
	return have
}

// orphans are the services in the kernel that no front has.
func (b *Balancer) orphans() (steps []step) {
	for mark := range b.table {
		if !b.marks.reserve(mark) {
			steps = append(steps, step{kind: delService, mark: mark})
		}
	}
	return steps
}
