package socket

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"shoal/lb"
)

// auditShare is how many entries of the maps a full pass compares with the table at the most. It goes
// on where the one before ended: what others break is found within as many passes as it takes to
// go round, and a pass takes no longer the more services there are.
var auditShare = 4 << 10

// audit is how far the round has come in which the maps are compared with the table.
type audit struct {
	round   uint32 // counts rounds, from 1
	at      int    // which of auditOrder
	cursor  *ebpf.MapBatchCursor
	batches map[string]int // the size of a map's batches, where it had to grow
}

// current is the round that does not judge what is written now: the one that is under way, if any.
func (a *audit) current() uint32 {
	if a.at == 0 && a.cursor == nil {
		return a.round - 1
	}
	return a.round
}

// auditOrder are the maps that are compared.
var auditOrder = []string{"services", "slots", "backends"}

// compare compares a share of the maps with the table. What belongs to no frontend is deleted, and what
// is not as it was written is broken: those frontends are returned.
func (t *table) compare() (broken []lb.Key, err error) {
	a := &t.audit
	note := func(k lb.Key, e *entry) {
		if !e.broken {
			e.broken = true
			broken = append(broken, k)
		}
	}
	var errs []error
	drop := func(name string, key any) { errs = append(errs, t.maps.remove(name, key)) }
	for left := auditShare; left > 0; {
		if a.cursor == nil {
			a.cursor = new(ebpf.MapBatchCursor)
		}
		var n int
		var done bool
		switch name := auditOrder[a.at]; name {
		case "services":
			n, done, err = batch(t, name, func(k serviceKey, s service) {
				switch key := k.key(); {
				case t.entries[key] == nil:
					drop(name, k)
				case s != t.entries[key].encode(key, t.entries[key].number, t.entries[key].filling):
					note(key, t.entries[key])
				default:
					t.entries[key].seen++
				}
			})
		case "slots":
			n, done, err = batch(t, name, func(k slotKey, s slot) {
				switch of, has := t.fillings[k.Filling]; {
				case !has || int(k.Index) >= len(t.entries[of].slots):
					drop(name, k)
				case s.VIP != of.VIP.As4() || s.To != t.entries[of].slots[k.Index]:
					note(of, t.entries[of])
				default:
					t.entries[of].seen++
				}
			})
		case "backends":
			n, done, err = batch(t, name, func(k backendKey, _ uint32) {
				of, has := t.fillings[k.Filling]
				if !has || t.entries[of].affinity == 0 || !slices.Contains(t.entries[of].slots, k.To) {
					drop(name, k)
					return
				}
				t.entries[of].seen++
			})
		}
		if err != nil {
			a.cursor, a.at = nil, 0
			t.begin()
			return broken, errors.Join(append(errs, err)...)
		}
		left -= n
		if !done {
			continue
		}
		a.cursor = nil
		if a.at++; a.at < len(auditOrder) {
			continue
		}
		for k, e := range t.entries {
			if e.since != a.round && e.seen != e.parts() {
				note(k, e)
			}
		}
		a.at = 0
		t.begin()
		break
	}
	return broken, errors.Join(errs...)
}

// begin begins another round.
func (t *table) begin() {
	t.audit.round++
	for _, e := range t.entries {
		e.seen = 0
	}
}

// parts is how many entries of the maps a frontend has.
func (e *entry) parts() uint32 {
	n := 1 + len(e.slots)
	if e.affinity > 0 {
		n += len(e.backends())
	}
	return uint32(n)
}

// batch visits the next entries of a map. What changes meanwhile may be among them or not.
func batch[K, V any](t *table, name string, visit func(K, V)) (n int, done bool, err error) {
	a := &t.audit
	if a.batches == nil {
		a.batches = map[string]int{}
	}
	size := max(a.batches[name], 1024)
	keys, values := make([]K, size), make([]V, size)
	n, err = t.maps.byName[name].BatchLookup(a.cursor, keys, values, nil)
	for i := range n {
		visit(keys[i], values[i])
	}
	switch {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return n, true, nil
	case errors.Is(err, unix.ENOSPC): // more in one bucket than would fit
		a.batches[name] = 2 * size
		return n, false, nil
	case err != nil:
		return n, false, fmt.Errorf("read the BPF map %s: %w", name, err)
	}
	return n, false, nil
}
