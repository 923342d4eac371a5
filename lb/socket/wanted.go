package socket

import (
	"encoding/binary"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"time"

	"shoal/lb"
	"shoal/lb/slots"
	"shoal/model"
)

// wanted is what the maps are to say of a frontend. Without slots the data plane
// behind carries it.
type wanted struct {
	slots    []target
	affinity time.Duration
	salt     uint32 // of the hash
	hash     bool   // a client's slot is that of its hash; else slots are chosen in turn
}

func (w *wanted) equal(o *wanted) bool {
	return slices.Equal(w.slots, o.slots) && w.hash == o.hash && w.affinity == o.affinity && w.salt == o.salt
}

// backends are the tasks in the slots.
func (w *wanted) backends() map[target]bool {
	bs := map[target]bool{}
	for _, s := range w.slots {
		bs[s] = true
	}
	return bs
}

// surroundings is what beside a frontend itself decides whether it is led.
type surroundings struct {
	scheduler func(string) string // the data plane's
	dnsPeers  netip.Addr
	udp       bool                // connected UDP is led
	hosts     map[netip.Addr]bool // the hosts' own addresses
	self      netip.Addr
}

// ours tells whether a frontend is in the maps at all, led or not. The name of a
// TCP frontend for every port is that of SCTP's too, but a program sees what a
// socket speaks.
func (w *surroundings) ours(k lb.Key) bool {
	return !k.Published() && k.VIP.Is4() && k.VIP != w.dnsPeers && (k.Protocol == model.TCP || k.Protocol == model.UDP)
}

// Why a frontend is left to the data plane.
const (
	noTask      = "no task is in rotation"
	hostNetwork = "a task is on a host's own network, whose firewall may let in what comes by the VIP only"
	udpOff      = "UDP is not led, as its sockets could not be connected again once their task leaves"
)

// want is what a frontend is to have in the maps; and where that is no slot,
// why.
func (w *surroundings) want(f *lb.Frontend) (v wanted, why string) {
	scheduler := w.scheduler(f.Scheduler)
	switch {
	case !f.Live():
		return v, noTask
	case f.Protocol == model.UDP && !w.udp:
		return v, udpOff
	case !slots.Has(scheduler):
		return v, "the scheduler " + scheduler + " is the data plane's"
	case slices.ContainsFunc(f.Backends, func(b lb.Backend) bool { return b.Weight > 0 && w.hosts[b.Addr.Addr()] }):
		return v, hostNetwork
	}
	v.affinity = f.Affinity
	filled := slots.Fill(scheduler, f.Backends)
	v.slots = make([]target, len(filled))
	for at, i := range filled {
		v.slots[at] = targetOf(f.Backends[i].Addr)
	}
	switch scheduler {
	case "dh":
		i := destinationHash(f.Key) % uint32(len(v.slots))
		v.slots = v.slots[i : i+1]
	case "sh", "mh":
		v.hash = true
		if w.self.Is4() {
			self := w.self.As4()
			v.salt = binary.BigEndian.Uint32(self[:])
		}
	}
	return v, ""
}

func destinationHash(k lb.Key) uint32 {
	h := fnv.New32a()
	b, _ := netip.AddrPortFrom(k.VIP, k.Port).MarshalBinary()
	h.Write(b)
	return h.Sum32()
}

// first is what an entry becomes before the data plane takes in a change, when
// it has v and is to have w: nobody is led to a task that leaves, or to one that
// the data plane does not know yet.
func (v *wanted) first(w *wanted) wanted {
	old, new := v.backends(), w.backends()
	if !slices.ContainsFunc(slices.Collect(maps.Keys(new)), func(b target) bool { return !old[b] }) {
		return *w
	}
	f := *v
	f.slots = slices.DeleteFunc(slices.Clone(v.slots), func(b target) bool { return !new[b] })
	return f
}
