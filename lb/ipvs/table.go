package ipvs

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"shoal/kernel/ipvs"
	"shoal/lb"
	"shoal/model"
)

// table is the virtual services of one network namespace as they are known: as
// last read, and with every write since that succeeded.
type table struct {
	ipvs  *ipvs.Handle             // nil while the namespace is not open
	known map[uint32]*ipvs.Virtual // by mark
	count int                      // how many services there are, with those of others; -1: not known
}

// raise does the first half of a plan. One step that fails does not stop the
// others: a service that cannot be changed, to a scheduler the kernel does not
// have for one, is still given its destinations.
func (t *table) raise(s ipvs.Service, p plan) error {
	var errs []error
	if p.put {
		v, err := t.known[s.Mark], t.ipvs.Put(s)
		if errors.Is(err, unix.ENOENT) {
			err = model.SchedulerMissing.Errorf("%w: this kernel has no scheduler of that name; load its module, or choose another", err)
		}
		switch {
		case err == nil && v == nil:
			t.known[s.Mark] = &ipvs.Virtual{Service: s, Dests: map[netip.AddrPort]ipvs.Dest{}}
			t.count++
		case err == nil:
			v.Service = s
		case v == nil:
			return err
		default:
			errs = append(errs, err)
		}
	}
	for _, d := range p.raise {
		errs = append(errs, t.weigh(s.Mark, d))
	}
	return errors.Join(errs...)
}

// lower does the second half. A service that is not there, or could not be made,
// is no error.
func (t *table) lower(mark uint32, p plan) error {
	v := t.known[mark]
	if v == nil {
		return nil
	}
	if p.gone {
		return t.delete(mark)
	}
	var errs []error
	for _, addr := range p.lower {
		errs = append(errs, t.weigh(mark, ipvs.Destination{Addr: addr}))
	}
	for _, addr := range p.remove {
		err := t.ipvs.DeleteDestination(mark, addr)
		if err == nil {
			delete(v.Dests, addr)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// delete removes a service with all it has.
func (t *table) delete(mark uint32) error {
	err := t.ipvs.Delete(mark)
	if err == nil {
		t.forget(mark)
	}
	return err
}

// forget takes a service as one that is not there any more.
func (t *table) forget(mark uint32) {
	if t.known[mark] != nil {
		delete(t.known, mark)
		t.count--
	}
}

// recount reads the destinations of a known service anew, with what they hold.
func (t *table) recount(mark uint32) error {
	v := t.known[mark]
	if v == nil {
		return nil
	}
	dests, err := t.ipvs.Destinations(mark)
	if err == nil {
		v.Dests = dests
	}
	return err
}

// held reads what the known services hold to a task, on any of its ports, and tells whether
// it has inactive connections besides. Some of those may be closed by one end alone.
func (t *table) held(task netip.Addr) (h lb.Held, inactive bool, err error) {
	for mark, v := range t.known {
		if !hasDest(v, task) {
			continue
		}
		dests, err := t.ipvs.Destinations(mark)
		if err != nil {
			return lb.Held{}, false, err
		}
		for addr, d := range dests {
			if addr.Addr() == task {
				h.Connections += d.Active
				h.Open = h.Open || d.Weight > 0
				inactive = inactive || d.Inactive > 0
			}
		}
	}
	return h, inactive, nil
}

func hasDest(v *ipvs.Virtual, task netip.Addr) bool {
	for addr := range v.Dests {
		if addr.Addr() == task {
			return true
		}
	}
	return false
}

func (t *table) weigh(mark uint32, d ipvs.Destination) error {
	err := t.ipvs.PutDestination(mark, d)
	if err == nil {
		known := t.known[mark].Dests[d.Addr]
		known.Weight = d.Weight
		t.known[mark].Dests[d.Addr] = known
	}
	return err
}
