package lb

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"

	"shoal/model"
)

// Recognise tells by which Ethernet addresses the packets of a host come to
// this one, beside that of its network card: those of the ends of its tunnels.
type Recognise func(model.Node) []model.MAC

// BaseOf reads it off a Snapshot. A host that has no number or no subnet yet is
// not a peer yet. Whether a host lives matters for Alone only.
func BaseOf(s *model.Snapshot, recognise Recognise) *Base {
	b := &Base{Self: s.Self, Networks: s.Networks, Alone: len(otherServers(s)) == 0}
	b.Self.Alive = false
	add := func(to *[]netip.Prefix, p netip.Prefix) {
		if p.IsValid() && p.Addr().Is4() && p.Bits() > 0 {
			*to = append(*to, p.Masked())
		}
	}
	for _, n := range s.Nodes {
		if n.Addr.Is4() {
			add(&b.Cluster, netip.PrefixFrom(n.Addr, 32))
		}
		add(&b.Cluster, n.Subnet)
		if n.Name == s.Self.Name || n.Number == 0 || !n.Addr.Is4() || !n.Subnet.Addr().Is4() {
			continue
		}
		p := Peer{Name: n.Name, Number: n.Number, Addr: n.Addr, Subnet: n.Subnet.Masked()}
		macs := []model.MAC{n.MAC}
		if recognise != nil {
			macs = append(macs, recognise(n)...)
		}
		for _, m := range macs {
			if m != (model.MAC{}) {
				p.MACs = append(p.MACs, m)
			}
		}
		b.Peers = append(b.Peers, p)
	}
	slices.SortFunc(b.Peers, func(x, y Peer) int { return cmp.Compare(x.Number, y.Number) })
	b.Cluster = inOrder(b.Cluster)
	b.Inside = slices.Clone(b.Cluster)
	for _, n := range s.Networks {
		for _, p := range n.Subnets {
			add(&b.Inside, p)
		}
	}
	b.Inside = inOrder(b.Inside)
	return b
}

func inOrder(ps []netip.Prefix) []netip.Prefix {
	slices.SortFunc(ps, netip.Prefix.Compare)
	return slices.Compact(ps)
}

func (b *Base) equal(o *Base) bool { return reflect.DeepEqual(b, o) }

// The host itself answers DNS on one address of the pool. A second one leads to
// the servers of the other hosts, so that a resolver with both has somewhere to
// go while this host's agent is away.

// DNSPort is where clients ask DNS servers (RFC 1035 section 4.2).
const DNSPort = 53

// DNSPort is the port on which this host's DNS server answers what is sent to
// port 53 of one of its addresses. Where it is another, as 53 is somebody else's,
// the plane leads there what is sent to 53.
func (b *Base) DNSPort(a netip.Addr) uint16 {
	if p := b.DNSPorts[a]; p != 0 {
		return p
	}
	return DNSPort
}

// dnsPeersID stands for the second address among the services. It has no stack,
// so no service is called that.
var dnsPeersID = model.ServiceID{Name: "dns-peers"}

// otherServers are the DNS servers of the other hosts that live.
func otherServers(s *model.Snapshot) (addrs []netip.Addr) {
	for _, n := range s.Nodes {
		if a := model.PlanOf(n.Subnet).DNS; a.IsValid() && n.Alive && n.Name != s.Self.Name {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// dnsPeers are the frontends of the second address: to the other hosts that
// live, to this one if there are none. Other hosts are asked on port 53, wherever
// they answer; what is balanced to this one's own is not led on.
func dnsPeers(at, own netip.Addr, ownPort uint16, s *model.Snapshot) *part {
	p := &part{}
	servers, port := otherServers(s), uint16(DNSPort)
	for _, a := range servers {
		p.endpoints = append(p.endpoints, partEndpoint{addr: a}) // its replies pass as those of tasks do
	}
	if len(servers) == 0 && own.IsValid() {
		servers, port = append(servers, own), ownPort
	}
	if len(servers) == 0 {
		return p
	}
	for _, proto := range []model.Protocol{model.TCP, model.UDP} {
		b := newBuilder(Key{at, proto, DNSPort}, &model.Service{ID: dnsPeersID})
		for _, a := range servers {
			b.add(&model.Task{Addr: a, State: model.Running, Weight: 1}, port, a == own)
		}
		p.frontends = append(p.frontends, b.frontend())
	}
	return p
}
