package virtual

import (
	"errors"
	"net/netip"

	"shoal/kernel/ipvs"
)

// Table is the virtual services of one network namespace as they are known: as
// last read, and with every write since that succeeded. It is for one goroutine
// at a time.
type Table struct {
	IPVS  *ipvs.Handle
	Known map[uint32]*ipvs.Virtual // by mark
}

// Raise does the first half of a plan. One step that fails does not stop the
// others: a service that cannot be changed, to a scheduler the kernel does not
// have for one, is still given its destinations.
func (t *Table) Raise(s ipvs.Service, p Plan) error {
	var errs []error
	if p.Put {
		v, err := t.Known[s.Mark], t.IPVS.Put(s)
		switch {
		case err == nil && v == nil:
			t.Known[s.Mark] = &ipvs.Virtual{Service: s, Dests: map[netip.AddrPort]ipvs.Dest{}}
		case err == nil:
			v.Service = s
		case v == nil:
			return err
		default:
			errs = append(errs, err)
		}
	}
	for _, d := range p.Raise {
		errs = append(errs, t.weigh(s.Mark, d))
	}
	return errors.Join(errs...)
}

// Lower does the second half. A service that is not there, or could not be made,
// is no error.
func (t *Table) Lower(mark uint32, p Plan) error {
	v := t.Known[mark]
	if v == nil {
		return nil
	}
	if p.Gone {
		return t.Delete(mark)
	}
	var errs []error
	for _, addr := range p.Lower {
		errs = append(errs, t.weigh(mark, ipvs.Destination{Addr: addr}))
	}
	for _, addr := range p.Remove {
		err := t.IPVS.DeleteDestination(mark, addr)
		if err == nil {
			delete(v.Dests, addr)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Delete removes a service with all it has.
func (t *Table) Delete(mark uint32) error {
	err := t.IPVS.Delete(mark)
	if err == nil {
		delete(t.Known, mark)
	}
	return err
}

// Count reads the destinations of a known service anew, with what they hold.
func (t *Table) Count(mark uint32) error {
	dests, err := t.IPVS.Destinations(mark)
	if err == nil {
		t.Known[mark].Dests = dests
	}
	return err
}

// Held is what a balancer still has to do with a task.
type Held struct {
	Connections int  `json:"connections"` // established; the others end by themselves
	Open        bool `json:"open"`        // it is given new ones
}

// Held reads what the known services hold to a task, on any of its ports.
func (t *Table) Held(task netip.Addr) (Held, error) {
	var h Held
	for mark, v := range t.Known {
		if !hasDest(v, task) {
			continue
		}
		dests, err := t.IPVS.Destinations(mark)
		if err != nil {
			return Held{}, err
		}
		for addr, d := range dests {
			if addr.Addr() == task {
				h.Connections += d.Active
				h.Open = h.Open || d.Weight > 0
			}
		}
	}
	return h, nil
}

func hasDest(v *ipvs.Virtual, task netip.Addr) bool {
	for addr := range v.Dests {
		if addr.Addr() == task {
			return true
		}
	}
	return false
}

func (t *Table) weigh(mark uint32, d ipvs.Destination) error {
	err := t.IPVS.PutDestination(mark, d)
	if err == nil {
		known := t.Known[mark].Dests[d.Addr]
		known.Weight = d.Weight
		t.Known[mark].Dests[d.Addr] = known
	}
	return err
}
