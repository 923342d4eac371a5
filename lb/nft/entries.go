package nft

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"shoal/lb"
	"shoal/model"
)

// entry is one of a set or a map, in the kernel's own bytes. Of a concatenated
// range the key is its first address and its last. The value of a map of
// verdicts is the chain to go to.
type entry struct {
	key, value string
	packets    uint64 // counted
}

// entries is what sets hold: key -> value.
type entries map[*set]map[string]string

func (es entries) put(s *set, key []byte, value []byte) {
	if es[s] == nil {
		es[s] = map[string]string{}
	}
	es[s][string(key)] = string(value)
}

// frontend is a frontend as it is to be in the kernel.
type frontend struct {
	*lb.Frontend
	backends []lb.Backend // those that are not retired
	slots    []int        // indices of backends
	balancer balancer
}

// entriesOf are those that a frontend alone has; shared are those that another
// may want too.
func (f *frontend) entriesOf(number uint16) (own, shared entries) {
	own, shared = entries{}, entries{}
	key := frontendKey(f.Key)
	for _, b := range f.backends {
		own.put(backends, slices.Concat(key, endpointOf(b)), be16(uint16(b.Weight)))
	}
	if f.Published() {
		// Those that are done draining too: a host that has not heard of it goes on
		// sending them connections, whose replies have to go back by it.
		shared.merge(targetsOf(f.Key, f.Backends))
	}
	for i, b := range f.slots {
		to, slot := f.backends[b], slices.Concat(key, u32(uint32(i)))
		if f.Affinity == 0 {
			own.put(slots, slot, endpointOf(to))
			continue
		}
		own.put(ids, slot, idOf(to))
		own.put(slots, slices.Concat(key, idOf(to)), endpointOf(to))
	}
	for _, k := range f.services() {
		own.put(services, k, be16(number))
		if f.Published() && len(f.slots) == 0 {
			own.put(refused, k, nil)
		}
	}
	if !f.Published() && len(f.slots) > 0 {
		shared.put(vips, f.VIP.AsSlice(), nil)
	}
	return own, shared
}

// targetsOf are where connections of a published port reach this host's tasks,
// whichever host they come by.
func targetsOf(k lb.Key, bs []lb.Backend) entries {
	es := entries{}
	for _, b := range bs {
		if b.Local {
			es.put(targets, entryKey(b.Addr.Addr().As4(), byte(k.Protocol), b.Addr.Port()), nil)
		}
	}
	return es
}

// idOf is a name of 32 bits that a backend has for good, its address and port.
// Clients' affinity is to that: a backend that takes no connections has no such
// slot, and one that comes back has it again.
func idOf(b lb.Backend) []byte {
	return be32(binary.BigEndian.Uint32(b.Addr.Addr().AsSlice()) + 2654435761*uint32(b.Addr.Port()))
}

// services are the keys by which packets find the frontend.
func (f *frontend) services() (keys [][]byte) {
	switch k := f.Key; {
	case k.Published() && len(f.On) > 0:
		for _, a := range f.On {
			keys = append(keys, entryKey(a.As4(), byte(k.Protocol), k.Port))
		}
	case formOf(k) == ofTCP:
		keys = append(keys, frontendKey(k), entryKey(k.VIP.As4(), byte(model.SCTP), 0))
	default:
		keys = append(keys, frontendKey(k))
	}
	return keys
}

// readKey reads an address, a protocol and a port.
func readKey(k string) (a netip.Addr, p model.Protocol, port uint16) {
	b := []byte(k)
	if len(b) < 10 {
		return a, p, port // of a table of another version
	}
	return netip.AddrFrom4([4]byte(b)), model.Protocol(b[4]), binary.BigEndian.Uint16(b[8:])
}

// keyOf is the frontend that an entry of slots or backends belongs to.
func keyOf(k string) lb.Key {
	a, p, port := readKey(k)
	if a.IsUnspecified() {
		a = netip.Addr{}
	}
	return lb.Key{VIP: a, Protocol: p, Port: port}
}

// readEndpoint reads an address and a port.
func readEndpoint(k string) netip.AddrPort {
	b := []byte(k)
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), binary.BigEndian.Uint16(b[4:]))
}

func endpointEntries(addr netip.Addr, e lb.Endpoint) entries {
	es := entries{}
	a := addr.AsSlice()
	es.put(tasks, a, nil)
	if e.Local {
		es.put(local, a, nil)
		if !e.Host {
			es.put(hairpin, slices.Concat(a, a), nil)
		}
	}
	return es
}

// entries are those that depend on hosts and networks.
func (w *surroundings) entries() entries {
	es := entries{}
	var networks []netip.Prefix
	byBridge := map[string][]netip.Prefix{}
	for _, n := range w.base.Networks {
		for _, p := range n.Subnets {
			if p.Addr().Is4() && p.Bits() > 0 {
				networks = append(networks, p)
				byBridge[n.Bridge] = append(byBridge[n.Bridge], p)
			}
		}
	}
	es.ranges(nets, "", networks)
	for dev, ps := range byBridge {
		es.ranges(bridges, dev, ps)
	}
	byLink := map[string][]netip.Prefix{}
	for _, l := range w.between.Links {
		byLink[l.Device] = append(byLink[l.Device], l.Net)
	}
	for dev, ps := range byLink {
		es.ranges(links, dev, ps)
	}
	es.ranges(remote, "", w.between.Nets)
	es.ranges(inside, "", w.base.Inside)
	es.ranges(cluster, "", w.base.Cluster)
	for _, a := range w.base.Guard.Trusted {
		es.put(trusted, a.AsSlice(), nil)
	}
	for _, h := range w.between.Hosts {
		es.put(hosts, h.AsSlice(), nil)
	}
	for _, a := range w.between.HostAddrs {
		es.put(hostAddrs, a.AsSlice(), nil)
	}
	for _, p := range w.base.Peers {
		mark := u32(lb.ConnMark | uint32(p.Number))
		for _, m := range p.MACs {
			es.put(macs, m[:], nil)
			es.put(senders, m[:], []byte(originOf(p)))
			es.put(zones, m[:], be16(p.Number))
		}
		es.put(outers, p.Addr.AsSlice(), mark)
		es.put(origins, mark, []byte(originOf(p)))
		es.put(inners, mark, be16(p.Number))
		es.put(replies, mark, []byte(replyTo(p)))
	}
	return es
}

// ranges puts networks into a set of ranges, which must not overlap. Two that
// touch become one.
func (es entries) ranges(s *set, dev string, ps []netip.Prefix) {
	ps = slices.Clone(ps)
	for i := range ps {
		ps[i] = ps[i].Masked()
	}
	slices.SortFunc(ps, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	type span struct{ first, last uint32 }
	var spans []span
	for _, p := range ps {
		first := binary.BigEndian.Uint32(p.Addr().AsSlice())
		last := first | ^uint32(0)>>p.Bits()
		if n := len(spans); n > 0 && (first <= spans[n-1].last || first == spans[n-1].last+1) {
			spans[n-1].last = max(spans[n-1].last, last)
			continue
		}
		spans = append(spans, span{first, last})
	}
	var prefix []byte
	if s.concatenated() {
		prefix = name16(dev)
	}
	for _, sp := range spans {
		key := binary.BigEndian.AppendUint32(slices.Clone(prefix), sp.first)
		key = binary.BigEndian.AppendUint32(append(key, prefix...), sp.last)
		es.put(s, key, nil)
	}
}

// bound is where a range begins or, if it is an end, the address after it.
type bound struct {
	at    uint32
	isEnd bool
}

// pairs makes ranges of bounds.
func pairs(bs []bound) (keys []string) {
	slices.SortFunc(bs, func(a, b bound) int { return cmp.Compare(a.at, b.at) })
	for i, b := range bs {
		if b.isEnd {
			continue
		}
		last := ^uint32(0)
		for _, e := range bs[i+1:] {
			if e.isEnd || e.at > b.at {
				last = e.at - 1
				break
			}
		}
		keys = append(keys, string(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, b.at), last)))
	}
	return keys
}

func (es entries) merge(o entries) {
	for s, m := range o {
		if es[s] == nil {
			es[s] = m
			continue
		}
		for k, v := range m {
			es[s][k] = v
		}
	}
}

// readNumber reads what [be16] writes.
func readNumber(s string) uint16 { return binary.BigEndian.Uint16([]byte(s)) }
