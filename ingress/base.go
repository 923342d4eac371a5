package ingress

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"

	"shoal/kernel/ipset"
	"shoal/model"
)

// base is what all ports stand on, however many there are: the other hosts,
// and who is inside the cluster.
type base struct {
	self   netip.Addr     // of this host
	peers  []peer         // by number
	inside []netip.Prefix // hosts' addresses and containers' networks, in order
}

// peer is another host, whose sandbox may send to tasks of this one.
type peer struct {
	name   string
	number uint16
	addr   netip.Addr
	subnet netip.Prefix
	macs   []model.MAC // its packets come from one of these
}

// mark is that of connections which the peer's sandbox made.
func (p *peer) mark() uint32 { return markOurs | uint32(p.number) }

// baseOf reads it off a Snapshot. A host that has no number or no subnet yet
// is not a peer yet.
func baseOf(snap *model.Snapshot, vtep func(model.Node) model.MAC) (b base) {
	b.self = snap.Self.Addr
	add := func(p netip.Prefix) {
		if p.IsValid() && p.Addr().Is4() && p.Bits() > 0 {
			b.inside = append(b.inside, p.Masked())
		}
	}
	for _, n := range snap.Nodes {
		if n.Addr.Is4() {
			add(netip.PrefixFrom(n.Addr, 32))
		}
		add(n.Subnet)
		if n.Name == snap.Self.Name || n.Number == 0 || !n.Addr.Is4() || !n.Subnet.Addr().Is4() {
			continue
		}
		p := peer{name: n.Name, number: n.Number, addr: n.Addr, subnet: n.Subnet.Masked()}
		macs := []model.MAC{n.MAC}
		if vtep != nil {
			macs = append(macs, vtep(n))
		}
		for _, m := range macs {
			if m != (model.MAC{}) {
				p.macs = append(p.macs, m)
			}
		}
		b.peers = append(b.peers, p)
	}
	slices.SortFunc(b.peers, func(x, y peer) int { return cmp.Compare(x.number, y.number) })
	for _, n := range snap.Networks {
		for _, s := range n.Subnets {
			add(s)
		}
	}
	slices.SortFunc(b.inside, func(x, y netip.Prefix) int {
		return cmp.Or(x.Addr().Compare(y.Addr()), cmp.Compare(x.Bits(), y.Bits()))
	})
	b.inside = slices.Compact(b.inside)
	return b
}

func (b *base) equal(o *base) bool { return reflect.DeepEqual(b, o) }

// wantedSets are the entries of the sets without marks. Of the ports that are
// blocked, this host redirects nothing.
func wantedSets(b *base, ms []mapping, blocked map[port]error) map[string]entries {
	sets := map[string]entries{}
	for _, s := range slices.Concat(hostSets, sandboxSets) {
		sets[s.Name] = entries{}
	}
	put := func(s ipset.Set, e ipset.Entry) { sets[s.Name][e] = 0 }
	for _, p := range b.inside {
		put(setInside, ipset.Entry{Net: p})
		put(setClients, ipset.Entry{Net: p})
	}
	put(setClients, ipset.Entry{Net: linkNet})
	for i := range ms {
		m := &ms[i]
		for _, e := range m.targets {
			put(setTargets, e)
		}
		if blocked[m.port] != nil {
			continue
		}
		for _, e := range m.entries() {
			put(setPublished, e)
		}
	}
	return sets
}

// entries are those by which the host redirects the port.
func (m *mapping) entries() (es []ipset.Entry) {
	on := every
	if len(m.addrs) > 0 {
		on = nil
		for _, a := range m.addrs {
			on = append(on, netip.PrefixFrom(a, 32))
		}
	}
	for _, n := range on {
		es = append(es, ipset.Entry{Net: n, Proto: uint8(m.port.proto), Port: m.port.number})
	}
	return es
}

// redirected are the ports that the host redirects by these sets, on any
// address.
func redirected(sets map[string]entries) map[port]bool {
	ports := map[port]bool{}
	for e := range sets[setPublished.Name] {
		ports[port{model.Protocol(e.Proto), e.Port}] = true
	}
	return ports
}

// change is how a set comes from what it has to what it should have.
func change(want, have entries) (put, remove entries) {
	put, remove = entries{}, entries{}
	for e, mark := range want {
		if m, has := have[e]; !has || m != mark {
			put[e] = mark
		}
	}
	for e := range have {
		if _, wanted := want[e]; !wanted {
			remove[e] = 0
		}
	}
	return put, remove
}
