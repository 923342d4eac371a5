package ipvs

import (
	"net/netip"
	"slices"

	"shoal/kernel/ipset"
	"shoal/model"
	"shoal/virtual"
)

// The host itself answers DNS on one address of the pool. A second one leads to
// the servers of the other hosts, so that a resolver with both has somewhere to
// go while this host's agent is away.

// dnsPort is where DNS servers answer (RFC 1035 section 4.2).
const dnsPort = 53

// dnsPeersID stands for the second address among the services. It has no stack,
// so no service is called that.
var dnsPeersID = model.ServiceID{Name: "dns-peers"}

// DNSServer is the address, of those that other hosts reach, where a host's DNS
// server answers: the first of its containers' subnet, which is their bridge's.
// It is the zero one while the host has no subnet.
func DNSServer(n model.Node) netip.Addr {
	if !n.Subnet.IsValid() || !n.Subnet.Addr().Is4() {
		return netip.Addr{}
	}
	return n.Subnet.Masked().Addr().Next()
}

// otherServers are the DNS servers of the other hosts that live.
func otherServers(s *model.Snapshot) (addrs []netip.Addr) {
	for _, n := range s.Nodes {
		if a := DNSServer(n); a.IsValid() && n.Alive && n.Name != s.Self.Name {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// dnsPeers are the fronts of the second address: to the other hosts that live,
// to this one if there are none.
func dnsPeers(at, own netip.Addr, s *model.Snapshot) *part {
	p := new(part)
	var servers []netip.Addr
	for _, a := range otherServers(s) {
		servers = append(servers, a)
		p.tasks = append(p.tasks, ipset.Addr(a)) // its replies pass as those of tasks do
	}
	if len(servers) == 0 && own.IsValid() {
		servers = append(servers, own)
	}
	for _, proto := range []model.Protocol{model.TCP, model.UDP} {
		b := balanced{front{at, proto, dnsPort}, virtual.New(proto, dnsPort, &model.Spec{})}
		for _, a := range servers {
			b.Add(&model.Task{Addr: a, State: model.Running, Weight: 1}, dnsPort, a == own)
		}
		if b.Settle(); len(servers) > 0 {
			p.fronts = append(p.fronts, b)
		}
	}
	return p
}

// nodes brings what depends on the hosts of the cluster up to date.
func (b *Balancer) nodes(old, new *model.Snapshot, t touched) {
	if old != nil && slices.Equal(old.Nodes, new.Nodes) {
		return
	}
	if b.opts.DNSPeers.IsValid() {
		b.update(dnsPeersID, dnsPeers(b.opts.DNSPeers, b.opts.DNS, new), t)
	}
	each := func(s *model.Snapshot, n int) {
		if s == nil {
			return
		}
		for _, host := range s.Nodes {
			if host.Addr.Is4() {
				b.wants(setCluster, ipset.Addr(host.Addr), n, t)
			}
			if host.Subnet.IsValid() && host.Subnet.Addr().Is4() {
				b.wants(setCluster, ipset.Entry{Net: host.Subnet.Masked()}, n, t)
			}
		}
	}
	each(old, -1)
	each(new, +1)
}
