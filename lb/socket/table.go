package socket

import (
	"errors"
	"fmt"
	"slices"

	"shoal/lb"
)

// table is what the maps have of frontends, as last read and written since.
type table struct {
	maps     *kernelMaps
	entries  map[lb.Key]*entry
	numbers  map[uint32]bool   // of frontends, in use
	fillings map[uint32]lb.Key // of slots, in use: whose they are
	filling  uint32            // the last that was given out
	free     uint32            // no number below is free

	audit audit
}

// entry is what they have of one.
type entry struct {
	wanted
	number, filling uint32
	broken          bool // something of it is not as it was written
	shared          bool // its number is another's too

	since uint32 // in which round of the audit it was written
	seen  uint32 // how much of it this round has found
}

// read takes in what the maps have; with clean, it deletes what belongs to no
// frontend: a process was killed while it wrote.
func (t *table) read(clean bool) error {
	n := &table{maps: t.maps, entries: map[lb.Key]*entry{}, numbers: map[uint32]bool{}, fillings: map[uint32]lb.Key{}, filling: t.filling,
		audit: audit{round: 1}}
	orphans, err := n.list()
	if err != nil {
		return err
	}
	*t = *n
	if !clean {
		return nil
	}
	var errs []error
	for _, drop := range orphans {
		errs = append(errs, drop())
	}
	return errors.Join(errs...)
}

// list reads the maps into an empty table. What belongs to no frontend is
// returned, to be deleted.
func (t *table) list() (orphans []func() error, err error) {
	byFilling := map[uint32]*entry{}
	vips := map[*entry][4]byte{}
	if err := list(t.maps, "services", func(k serviceKey, s service) {
		e := &entry{wanted: s.decode(), number: s.Frontend, filling: s.Filling}
		e.shared = t.numbers[s.Frontend]
		_, taken := t.fillings[s.Filling]
		e.broken = e.shared || s.VIP != k.VIP || s.Slots > 0 && taken || s.Slots > maxSlots
		if !e.broken {
			e.slots = make([]target, s.Slots)
		}
		t.entries[k.key()] = e
		t.numbers[s.Frontend] = true
		if s.Slots > 0 {
			t.fillings[s.Filling], byFilling[s.Filling], vips[e] = k.key(), e, k.VIP
			t.filling = max(t.filling, s.Filling)
		}
	}); err != nil {
		return nil, err
	}
	orphan := func(name string, key any) {
		orphans = append(orphans, func() error { return t.maps.remove(name, key) })
	}
	if err := list(t.maps, "slots", func(k slotKey, s slot) {
		e := byFilling[k.Filling]
		switch {
		case e == nil || int(k.Index) >= len(e.slots):
			orphan("slots", k)
			t.filling = max(t.filling, k.Filling)
		case s.VIP == vips[e]:
			e.slots[k.Index] = s.To
		}
	}); err != nil {
		return nil, err
	}
	found := map[*entry]map[target]bool{}
	if err := list(t.maps, "backends", func(k backendKey, _ uint32) {
		e := byFilling[k.Filling]
		if e == nil || e.affinity == 0 || !slices.Contains(e.slots, k.To) {
			orphan("backends", k)
			t.filling = max(t.filling, k.Filling)
			return
		}
		if found[e] == nil {
			found[e] = map[target]bool{}
		}
		found[e][k.To] = true
	}); err != nil {
		return nil, err
	}
	for _, e := range t.entries {
		bs := e.backends()
		if bs[target{}] || e.affinity > 0 && len(found[e]) != len(bs) {
			e.broken = true
		}
	}
	return orphans, nil
}

// put has the maps say that of a frontend. New slots are there before the entry
// leads to them, and the old ones as long as it may. Where it fails the data
// plane behind carries the frontend.
func (t *table) put(k lb.Key, w wanted) error {
	old := t.entries[k]
	if old != nil && !old.broken && old.equal(&w) {
		return nil
	}
	e := &entry{wanted: w, since: t.audit.current()}
	var err error
	if old != nil && !old.shared {
		e.number = old.number
	} else if e.number, err = t.number(); err != nil {
		return err
	}
	if len(w.slots) > 0 {
		e.filling = t.fill(k)
	}
	err = t.write(k, e)
	if err == nil {
		err = t.maps.set("services", keyOf(k), e.encode(k, e.number, e.filling))
	}
	if err != nil {
		undone := t.erase(e)
		e.slots, e.filling = nil, 0
		return errors.Join(err, undone, t.hide(k, e, old))
	}
	t.entries[k] = e
	t.numbers[e.number] = true
	if old != nil {
		return t.drop(old, e)
	}
	return nil
}

// hide has the maps say that the data plane carries the frontend, after an entry
// could not be written: a named port must not be led as every other one is.
func (t *table) hide(k lb.Key, e, old *entry) error {
	if err := t.maps.set("services", keyOf(k), e.encode(k, e.number, 0)); err != nil {
		if old != nil {
			old.broken = true
		}
		return err
	}
	e.broken = true // to be written when it is tried again
	t.entries[k] = e
	t.numbers[e.number] = true
	if old != nil {
		return t.drop(old, e)
	}
	return nil
}

// remove has the maps say nothing of a frontend.
func (t *table) remove(k lb.Key) error {
	e := t.entries[k]
	if e == nil {
		return nil
	}
	if err := t.maps.remove("services", keyOf(k)); err != nil {
		return err
	}
	delete(t.entries, k)
	return t.drop(e, nil)
}

// drop lets go of what an entry had that the one in its place does not.
func (t *table) drop(old, new *entry) error {
	if new == nil && !old.shared {
		delete(t.numbers, old.number)
		t.free = min(t.free, old.number)
	}
	return t.erase(old)
}

// write writes an entry's slots.
func (t *table) write(k lb.Key, e *entry) error {
	vip := k.VIP.As4()
	for i, s := range e.slots {
		if err := t.maps.set("slots", slotKey{e.filling, uint32(i)}, slot{VIP: vip, To: s}); err != nil {
			return err
		}
	}
	if e.affinity > 0 {
		for b := range e.backends() {
			if err := t.maps.set("backends", backendKey{Filling: e.filling, To: b}, uint32(1)); err != nil {
				return err
			}
		}
	}
	return nil
}

// erase deletes an entry's slots. What cannot be deleted is found by a full pass.
func (t *table) erase(e *entry) error {
	var errs []error
	for i := range e.slots {
		errs = append(errs, t.maps.remove("slots", slotKey{e.filling, uint32(i)}))
	}
	if e.affinity > 0 {
		for b := range e.backends() {
			errs = append(errs, t.maps.remove("backends", backendKey{Filling: e.filling, To: b}))
		}
	}
	delete(t.fillings, e.filling)
	return errors.Join(errs...)
}

// number is one that no frontend has, with a count of 0.
func (t *table) number() (uint32, error) {
	for t.numbers[t.free] {
		t.free++
	}
	if t.free >= maxServices {
		return 0, fmt.Errorf("the BPF map services is full: %d entries", maxServices)
	}
	var count uint64
	if err := t.maps.byName["counts"].Lookup(t.free, &count); err != nil {
		return 0, fmt.Errorf("read the BPF map counts: %w", err)
	}
	if count > 0 {
		if err := t.maps.set("counts", t.free, uint64(0)); err != nil {
			return 0, err
		}
	}
	return t.free, nil
}

// fill is a filling that no entry had, for one of that frontend.
func (t *table) fill(k lb.Key) uint32 {
	for {
		t.filling++
		if _, taken := t.fillings[t.filling]; t.filling != 0 && !taken {
			t.fillings[t.filling] = k
			return t.filling
		}
	}
}
