package dockerwatch

import (
	"net/netip"
	"slices"
	"time"

	"shoal/model"
)

// The address of a task that leaves may be another container's in tenths of a
// second. The other hosts learn later that the task left, and send to it until then:
// they would reach the wrong service. So the address rests: the data plane of this
// host refuses what other hosts send there. Whoever has the address meanwhile
// enters rotation only when the rest is over, or its own service would lose the
// requests of other hosts; see damp.go for another reason to wait. If it serves
// all that the address was left by, nothing can be sent to the wrong service, and the
// address is opened at once: so it is with a container that is restarted.

// restTime is more than the two seconds in which other hosts follow a change.
const restTime = 3 * time.Second

// rests is which addresses of this host's tasks rest. It does no I/O. Another
// process knows nothing of it.
type rests struct {
	reached func(netip.Addr) bool // by other hosts
	served  map[netip.Addr]holder // addresses that tasks have
	resting map[netip.Addr]rest
}

// newRests makes an empty record. Addresses that other hosts do not reach never
// rest; nil: they reach none.
func newRests(reached func(netip.Addr) bool) *rests {
	if reached == nil {
		reached = func(netip.Addr) bool { return false }
	}
	return &rests{reached: reached, served: map[netip.Addr]holder{}, resting: map[netip.Addr]rest{}}
}

// holder is the container that has an address, and what is served there. A
// container that shares its network serves there as well.
type holder struct {
	container string // its ID; "": none
	services  []model.ServiceID
}

// serves tells whether all of these services are served.
func (h holder) serves(ids []model.ServiceID) bool {
	return !slices.ContainsFunc(ids, func(id model.ServiceID) bool { return !slices.Contains(h.services, id) })
}

// rest is that of one address.
type rest struct {
	services []model.ServiceID // that other hosts may take the address for
	until    time.Time
}

// holders are those of the addresses that are a container's own. The host's own
// address is none.
func holders(containers []model.Container) map[netip.Addr]holder {
	all := map[netip.Addr]holder{}
	for i := range containers {
		for _, a := range containers[i].Addrs {
			if a.Is4() {
				all[a] = holder{container: containers[i].ID}
			}
		}
	}
	for i := range containers {
		for _, t := range containers[i].Tasks {
			if h, has := all[t.Addr]; has {
				h.services = append(h.services, t.Service)
				all[t.Addr] = h
			}
		}
	}
	return all
}

// apply takes in what the engine has now, and puts into it which addresses rest
// and which tasks wait. It returns when something of that changes by itself; 0:
// never.
func (r *rests) apply(l *model.Local, now time.Time) (next time.Duration) {
	held := holders(l.Containers)
	for a, was := range r.served {
		_, waited := r.resting[a] // other hosts were never given the task that has left now
		if is := held[a]; is.container != was.container && !is.serves(was.services) && !waited && r.reached(a) {
			r.resting[a] = rest{was.services, now.Add(restTime)}
		}
	}
	clear(r.served)
	for a, h := range held {
		if len(h.services) > 0 {
			r.served[a] = h
		}
	}
	for a, rest := range r.resting {
		wait := rest.until.Sub(now)
		if wait <= 0 || held[a].serves(rest.services) {
			delete(r.resting, a)
			continue
		}
		l.Resting = append(l.Resting, a)
		if next == 0 || wait < next {
			next = wait
		}
	}
	slices.SortFunc(l.Resting, netip.Addr.Compare)
	for i := range l.Containers {
		for j := range l.Containers[i].Tasks {
			t := &l.Containers[i].Tasks[j]
			if _, waits := r.resting[t.Addr]; waits && t.State == model.Running {
				t.State, t.Since = model.Starting, t.Started
				t.Reason = "waits until other hosts may send to its address, which a task has just left"
			}
		}
	}
	return next
}
