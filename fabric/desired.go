package fabric

import (
	"cmp"
	"net/netip"
	"slices"

	"shoal/fabric/transport"
	"shoal/lb"
	"shoal/model"
)

// state is what the fabric has in the kernel, or should have.
type state struct {
	devices map[string]transport.Device // by name
	fdb     map[fdbKey]netip.Addr       // forwarding entries: tunnel end -> host
	neigh   map[neighKey]model.MAC      // neighbours: host -> tunnel end
	routes  map[netip.Prefix]route      // by destination
	foreign map[netip.Prefix]string     // routes of others, with what they are; only read
}

// fdbKey and neighKey are what there can be one entry for, on a device.
type (
	fdbKey struct {
		dev string
		mac model.MAC
	}
	neighKey struct {
		dev  string
		host netip.Addr
	}
)

func newState() state {
	return state{
		devices: map[string]transport.Device{},
		fdb:     map[fdbKey]netip.Addr{},
		neigh:   map[neighKey]model.MAC{},
		routes:  map[netip.Prefix]route{},
		foreign: map[netip.Prefix]string{},
	}
}

// route is the way to a subnet. The next hop need not be on the device's link
// ("onlink").
type route struct {
	via netip.Addr
	dev string
}

// path is the way to one peer.
type path struct {
	peer model.Node
	by   transport.Transport
	dev  string // the device that its packets leave and come in by
	link string // with [Auto], the device with a link to the peer; "": there is none
}

// probed tells whether the link to the peer is probed.
func (p *path) probed(self model.Node) bool {
	return p.link != "" && p.peer.Probe.Is4() && p.peer.Subnet.Contains(p.peer.Probe) && self.Probe.IsValid()
}

// inputs are what of a Snapshot matters here. Whether a host is alive does
// not.
type inputs struct {
	self     model.Node
	nodes    []model.Node
	networks []model.Network

	// proven tells whether host-gw is used to a peer that has a link to this host,
	// by that device; nil: it is.
	proven func(peer model.Node, link string) bool
}

func inputsOf(s *model.Snapshot) inputs {
	in := inputs{self: s.Self, nodes: slices.Clone(s.Nodes), networks: s.Networks}
	in.self.Alive = false
	for i := range in.nodes {
		in.nodes[i].Alive = false
	}
	return in
}

func (in inputs) equal(o inputs) bool {
	return in.self == o.self && (model.Shared(in.nodes, o.nodes) || slices.Equal(in.nodes, o.nodes)) &&
		slices.EqualFunc(in.networks, o.networks, func(a, b model.Network) bool {
			return a.Name == b.Name && a.Bridge == b.Bridge && slices.Equal(a.Subnets, b.Subnets)
		})
}

// desired is what the kernel of host in.self should have, by which way each
// peer is reached, and why others cannot be.
func desired(o Options, in inputs, addrs []transport.Addr) (want state, paths []path, failed map[object]error) {
	want, failed = newState(), map[object]error{}
	refuse := func(node string, err error) {
		failed[object{kind: "node", name: node, refused: err.Error()}] = err
	}
	addrs = slices.DeleteFunc(slices.Clone(addrs), func(a transport.Addr) bool {
		return slices.ContainsFunc(in.networks, func(n model.Network) bool { return n.Bridge == a.Device })
	})

	tunnels := true
	if own := find(in.self.Addr, addrs); own == nil {
		tunnels = false
		refuse(in.self.Name, model.AddressMissing.Errorf("the host's address %s is on none of its devices, so no tunnel can start from it: name one that is with --advertise", in.self.Addr))
	} else {
		for name, t := range o.tunnels() {
			want.devices[name] = t.Device(in.self, own.MTU)
		}
	}
	clash := model.AnyOverlap(in.nodes)
	if err := model.Overlap(in.self, in.nodes); err != nil {
		refuse(in.self.Name, err)
	}
	for _, peer := range in.nodes {
		if peer.Name == in.self.Name || !peer.Subnet.IsValid() {
			continue
		}
		p, err := way(o, in, peer, addrs, clash)
		if err == nil && p.by.Tunnel() != nil && !tunnels {
			continue // said once above
		}
		if err != nil {
			refuse(peer.Name, err)
			continue
		}
		paths = append(paths, p)
		want.add(p)
		if p.probed(in.self) {
			// Always straight over the link, whichever way the subnet's is.
			want.routes[netip.PrefixFrom(p.peer.Probe, 32)] = route{via: p.peer.Addr, dev: p.link}
		}
	}
	return want, paths, failed
}

// way is how a peer is reached, by the first transport that can. Clash tells that some
// subnets overlap.
func way(o Options, in inputs, peer model.Node, addrs []transport.Addr, clash bool) (p path, err error) {
	if !peer.Addr.Is4() || !peer.Subnet.Addr().Is4() {
		return path{}, model.SubnetInvalid.Errorf("host %s has address %s and subnet %s: only IPv4 is carried between hosts", peer.Name, peer.Addr, peer.Subnet)
	}
	if peer.Addr == in.self.Addr {
		return path{}, model.AddressTaken.Errorf("host %s has the address %s, as this host, %s, has: if it is gone, remove it with `shoal node rm %s`", peer.Name, peer.Addr, in.self.Name, peer.Name)
	}
	if clash {
		if err := model.Overlap(peer, in.nodes); err != nil {
			return path{}, err
		}
	}
	if peer.Subnet.Overlaps(in.self.Subnet) {
		return path{}, model.SubnetOverlap.Errorf("the subnet %s of host %s overlaps %s of this host, %s", peer.Subnet, peer.Name, in.self.Subnet, in.self.Name)
	}
	if err := shadowed(in.self, peer, in.networks); err != nil {
		return path{}, err
	}
	for _, a := range addrs {
		if a.Net.Overlaps(peer.Subnet) {
			return path{}, model.SubnetOverlap.Errorf("the subnet %s of host %s overlaps %s on device %s of this host, %s: give %[2]s another subnet",
				peer.Subnet, peer.Name, a.Net, a.Device, in.self.Name)
		}
	}
	for _, t := range o.transports() {
		var dev string
		if dev, err = t.Reach(in.self, peer, addrs); err != nil {
			continue
		}
		p.peer, p.by, p.dev = peer, t, dev
		if o.Backend == Auto && t.Tunnel() == nil {
			p.link = dev
			if p.probed(in.self) && in.proven != nil && !in.proven(peer, dev) {
				continue // to the tunnel
			}
		}
		return p, nil
	}
	return path{}, err
}

// add puts in what it takes to reach a peer.
func (s *state) add(p path) {
	host := p.peer.Addr
	s.routes[p.peer.Subnet.Masked()] = route{via: host, dev: p.dev}
	if t := p.by.Tunnel(); t != nil {
		if mac, ok := t.Neighbour(p.peer); ok {
			s.neigh[neighKey{p.dev, host}] = mac
			s.fdb[fdbKey{p.dev, mac}] = host
		}
	}
}

// between is what passes the rules of this host.
func between(o Options, in inputs, paths []path) lb.Between {
	b := lb.Between{Own: in.self.Subnet.Masked()}
	for _, p := range paths {
		subnet, host := p.peer.Subnet.Masked(), p.peer.Addr
		b.Nets = append(b.Nets, subnet)
		b.Hosts = append(b.Hosts, host)
		b.HostAddrs = append(b.HostAddrs, host)
		if plan := model.PlanOf(subnet); plan != (model.Plan{}) {
			b.HostAddrs = append(b.HostAddrs, plan.Tunnel, plan.Gateway, plan.Probe)
		}
		b.Links = append(b.Links, lb.Link{Net: subnet, Device: p.dev})
		direct := p.link
		if p.by.Tunnel() == nil {
			direct = p.dev
		}
		if direct != "" {
			// The peer's own processes send from its own address.
			b.Links = append(b.Links, lb.Link{Net: netip.PrefixFrom(host, host.BitLen()), Device: direct})
		}
		if p.link != "" {
			// The peer may have chosen the other way, or not yet the same.
			b.Links = append(b.Links, lb.Link{Net: subnet, Device: p.link})
			for name := range o.tunnels() {
				b.Links = append(b.Links, lb.Link{Net: subnet, Device: name})
			}
		}
	}
	// Where the containers' packets come from, before they go to other hosts.
	for _, n := range in.networks {
		if slices.Contains(n.Subnets, in.self.Subnet) {
			b.Links = append(b.Links, lb.Link{Net: b.Own, Device: n.Bridge})
		}
	}
	for _, t := range o.transports() {
		if t := t.Tunnel(); t != nil {
			protocol, port := t.Outer()
			b.Tunnels = append(b.Tunnels, lb.Tunnel{Protocol: protocol, Port: port})
		}
	}
	slices.SortFunc(b.Nets, netip.Prefix.Compare)
	slices.SortFunc(b.Hosts, netip.Addr.Compare)
	slices.SortFunc(b.HostAddrs, netip.Addr.Compare)
	slices.SortFunc(b.Links, func(x, y lb.Link) int {
		return cmp.Or(x.Net.Compare(y.Net), cmp.Compare(x.Device, y.Device))
	})
	b.Links = slices.Compact(b.Links)
	return b
}
