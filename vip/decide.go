package vip

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"time"

	"shoal/model"
)

// Options say which addresses there are to give.
type Options struct {
	Pool netip.Prefix
	// Reserved addresses of the pool are no service's, such as those of the
	// DNS servers. The network's own address is reserved anyway, and in IPv4
	// its broadcast address.
	Reserved []netip.Addr
	// ReclaimIdle lets a full pool take the VIP of the service that is
	// longest without tasks, if it is so at least that long. 0: never.
	ReclaimIdle time.Duration
	// Rest is how long a VIP is not handed on after its service's last task,
	// however short ReclaimIdle is.
	Rest time.Duration
}

// Claim is an address to be claimed for a service.
type Claim struct {
	Service model.ServiceID
	Addr    netip.Addr
	From    model.ServiceID // the idle service to take it from; zero: it is free
}

// learnt is what is known beyond a Snapshot.
type learnt struct {
	holders map[netip.Addr]model.ServiceID // of addresses
	given   map[model.ServiceID]netip.Addr // VIPs of services that had none
	resting map[netip.Addr]time.Time       // addresses that were given back not long ago -> when they are free
}

// decide finds addresses for the services with tasks on this host that need a
// VIP and have none: those their labels ask for first, then free ones. The search
// for one starts at a hash of the service's ID, so hosts that start services at
// the same time seldom want the same address. Services come in the order of their IDs, so that hosts with one
// Snapshot decide alike. Now is for telling how long services have been idle.
func decide(o Options, s *model.Snapshot, l learnt, now time.Time) (claims []Claim, failed map[model.ServiceID]error) {
	failed = map[model.ServiceID]error{}
	p := newPool(o, s, l)
	var anyAddr []model.ServiceID
	for _, svc := range s.Services {
		asked := svc.Spec.VIP
		_, given := l.given[svc.ID]
		switch {
		case given || !waits(o, svc, s.Self.Name):
		case svc.VIP.IsValid() && (svc.VIP == asked || !asked.IsValid()):
			failed[svc.ID] = model.VIPOutsidePool.Errorf("its VIP %s is outside the pool %s; stop its tasks and run: shoal service rm %s", svc.VIP, o.Pool, svc.ID)
		case svc.VIP.IsValid():
			failed[svc.ID] = model.VIPFixed.Errorf("shoal.vip asks for %s, but it has %s, for good; to change that, stop its tasks, run: shoal service rm %s, and start them again", asked, svc.VIP, svc.ID)
		case !asked.IsValid():
			anyAddr = append(anyAddr, svc.ID)
		case !o.Pool.Contains(asked):
			failed[svc.ID] = model.VIPOutsidePool.Errorf("shoal.vip=%s is outside the pool %s; choose an address in it", asked, o.Pool)
		case p.reserved[asked]:
			failed[svc.ID] = model.VIPReserved.Errorf("shoal.vip=%s is reserved; choose another address of %s", asked, o.Pool)
		default:
			if holder, held := p.held[asked]; held && holder != svc.ID {
				failed[svc.ID] = model.VIPTaken.Errorf("shoal.vip=%s is the VIP of %s; choose another, or give that one's back: shoal service rm %[2]s", asked, holder)
			} else if until, rests := l.resting[asked]; rests && !held {
				failed[svc.ID] = model.VIPResting.Errorf("shoal.vip=%s was another service's until not long ago, and clients may still use it for that one: it is free at %s", asked, until.Format(time.RFC3339))
			} else if first := p.asked[asked]; first != svc.ID {
				failed[svc.ID] = model.VIPTaken.Errorf("shoal.vip=%s is asked for by %s too, which comes first; choose another", asked, first)
			} else {
				claims = append(claims, Claim{Service: svc.ID, Addr: asked})
			}
		}
	}
	for _, id := range anyAddr {
		if a, ok := p.next(id); ok {
			claims = append(claims, Claim{Service: id, Addr: a})
		} else if idle, ok := p.reclaim(o, s, now); ok {
			claims = append(claims, Claim{Service: id, Addr: idle.VIP, From: idle.ID})
		} else {
			failed[id] = model.VIPPoolFull.Errorf("no VIP: all addresses of the pool %s are taken; give one back with shoal service rm, or use a larger pool", o.Pool)
		}
	}
	return claims, failed
}

// waits tells whether something is to be decided of a service: it has tasks on this
// host, needs a VIP, and does not have the one that it should have.
func waits(o Options, svc *model.Service, self string) bool {
	asked := svc.Spec.VIP
	has := svc.VIP.IsValid() && (svc.VIP == asked || !asked.IsValid()) && o.Pool.Contains(svc.VIP)
	return svc.Spec.Mode == model.ModeVIP && !has && slices.ContainsFunc(svc.Tasks, func(t *model.Task) bool { return t.Node == self })
}

// pool is the pool in the course of one decision.
type pool struct {
	prefix   netip.Prefix
	held     map[netip.Addr]model.ServiceID // VIPs services have
	asked    map[netip.Addr]model.ServiceID // VIPs labels ask for, of any host -> the first service to
	reserved map[netip.Addr]bool
	resting  map[netip.Addr]time.Time // free in a while
	full     bool                     // a search found nothing
	idle     []*model.Service         // longest first; sorted when first needed
	sorted   bool
}

func newPool(o Options, s *model.Snapshot, l learnt) *pool {
	prefix := o.Pool.Masked()
	p := &pool{
		prefix:   prefix,
		held:     make(map[netip.Addr]model.ServiceID, len(s.Services)),
		asked:    map[netip.Addr]model.ServiceID{},
		reserved: map[netip.Addr]bool{prefix.Addr(): true},
	}
	for _, a := range o.Reserved {
		p.reserved[a] = true
	}
	if b, ok := broadcast(prefix); ok {
		p.reserved[b] = true
	}
	for _, svc := range s.Services {
		if svc.VIP.IsValid() {
			p.held[svc.VIP] = svc.ID
		}
		if a := svc.Spec.VIP; a.IsValid() && !svc.VIP.IsValid() && svc.Spec.Mode == model.ModeVIP {
			if _, ok := p.asked[a]; !ok {
				p.asked[a] = svc.ID
			}
		}
	}
	maps.Copy(p.held, l.holders)
	p.resting = l.resting
	return p
}

// next is a free address for a service, each once: the first one from a place
// that its ID gives, round the pool. It looks at no more addresses than are
// taken, however large the pool.
func (p *pool) next(id model.ServiceID) (netip.Addr, bool) {
	if p.full {
		return netip.Addr{}, false
	}
	h := fnv.New32a()
	h.Write([]byte(id.String()))
	first := addrAt(p.prefix, h.Sum32())
	for a := first; ; {
		if p.free(a) {
			p.held[a] = id
			return a, true
		}
		if a = a.Next(); !p.prefix.Contains(a) {
			a = p.prefix.Addr()
		}
		if a == first {
			p.full = true
			return netip.Addr{}, false
		}
	}
}

func (p *pool) free(a netip.Addr) bool {
	_, held := p.held[a]
	_, asked := p.asked[a]
	_, rests := p.resting[a]
	return !held && !asked && !rests && !p.reserved[a]
}

// addrAt is an address of a network, by a number that may be of any size.
func addrAt(p netip.Prefix, n uint32) netip.Addr {
	b := p.Addr().AsSlice()
	if free := len(b)*8 - p.Bits(); free < 32 {
		n &= 1<<free - 1
	}
	low := b[len(b)-4:]
	binary.BigEndian.PutUint32(low, binary.BigEndian.Uint32(low)|n)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// reclaim is the service that is longest idle, if that is long enough, each
// once.
func (p *pool) reclaim(o Options, s *model.Snapshot, now time.Time) (idle *model.Service, ok bool) {
	if o.ReclaimIdle <= 0 {
		return idle, false
	}
	if !p.sorted {
		p.sorted = true
		for _, svc := range s.Services {
			_, asked := p.asked[svc.VIP]
			usable := p.prefix.Contains(svc.VIP) && p.held[svc.VIP] == svc.ID && !p.reserved[svc.VIP] && !asked
			if usable && len(svc.Tasks) == 0 && !svc.IdleSince.IsZero() && now.Sub(svc.IdleSince) >= max(o.ReclaimIdle, o.Rest) {
				p.idle = append(p.idle, svc)
			}
		}
		slices.SortFunc(p.idle, func(a, b *model.Service) int {
			return cmp.Or(a.IdleSince.Compare(b.IdleSince), a.ID.Compare(b.ID))
		})
	}
	if len(p.idle) == 0 {
		return idle, false
	}
	idle, p.idle = p.idle[0], p.idle[1:]
	return idle, true
}

// broadcast is the last address of an IPv4 network that has one (RFC 3021: one
// of two addresses has none).
func broadcast(p netip.Prefix) (netip.Addr, bool) {
	if !p.Addr().Is4() || p.Bits() >= 31 {
		return netip.Addr{}, false
	}
	b := p.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|(1<<(32-p.Bits())-1))
	return netip.AddrFrom4(b), true
}
