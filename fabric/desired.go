package fabric

import (
	"fmt"
	"net/netip"
	"slices"

	"shoal/kernel/rules"
	"shoal/model"
)

// state is what the fabric has in the kernel, or should have.
type state struct {
	devices map[string]device         // by name
	fdb     map[model.MAC]netip.Addr  // on shoal.vxlan: tunnel end -> host
	neigh   map[netip.Addr]model.MAC  // on shoal.vxlan: host -> tunnel end
	routes  map[netip.Prefix]route    // by destination
	nets    map[netip.Prefix]struct{} // SHOAL-FABRIC-NETS: subnets of the other hosts
	hosts   map[netip.Addr]struct{}   // SHOAL-FABRIC-HOSTS: addresses of the other hosts
	links   map[linkEntry]struct{}    // SHOAL-FABRIC-LINKS: who comes in by which device
	foreign map[netip.Prefix]string   // routes of others, with what they are; only read
	chains  []rules.Chain             // only wanted; package rules reads them itself
}

func newState() state {
	return state{
		devices: map[string]device{},
		fdb:     map[model.MAC]netip.Addr{},
		neigh:   map[netip.Addr]model.MAC{},
		routes:  map[netip.Prefix]route{},
		nets:    map[netip.Prefix]struct{}{},
		hosts:   map[netip.Addr]struct{}{},
		links:   map[linkEntry]struct{}{},
		foreign: map[netip.Prefix]string{},
	}
}

// route is the way to a subnet. The next hop need not be on the device's link
// ("onlink").
type route struct {
	via netip.Addr
	dev string
}

// linkEntry is a source and the device its packets come in by.
type linkEntry struct {
	net netip.Prefix
	dev string
}

// device is a tunnel device.
type device struct {
	name string

	// What it is made with; it takes another device to change it.
	kind  string // "vxlan" or "ipip"
	local netip.Addr
	vni   int       // vxlan
	port  uint16    // vxlan
	mac   model.MAC // vxlan

	// What can be changed.
	mtu         int
	addr        netip.Addr // the source of what the host itself sends
	up          bool
	loose       bool // rp_filter 2: published ports bring clients' own addresses through tunnels
	checksumOff bool // vxlan: no checksum offload
}

// fixed is the device without what can be changed.
func (d device) fixed() device {
	return device{name: d.name, kind: d.kind, local: d.local, vni: d.vni, port: d.port, mac: d.mac}
}

// inputs are what of a Snapshot matters here. Whether a host is alive does
// not.
type inputs struct {
	self     model.Node
	nodes    []model.Node
	networks []model.Network
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
	return in.self == o.self && slices.Equal(in.nodes, o.nodes) &&
		slices.EqualFunc(in.networks, o.networks, func(a, b model.Network) bool {
			return a.Name == b.Name && a.Bridge == b.Bridge && slices.Equal(a.Subnets, b.Subnets)
		})
}

// desired is what the kernel of host in.self should have, by which way each
// peer is reached, and why others cannot be.
func desired(o Options, in inputs, links []link) (want state, paths []path, failed map[object]error) {
	want, failed = newState(), map[object]error{}
	refuse := func(node string, err error) {
		failed[object{kind: "node", name: node, refused: err.Error()}] = err
	}
	links = slices.DeleteFunc(slices.Clone(links), func(l link) bool {
		return slices.ContainsFunc(in.networks, func(n model.Network) bool { return n.Bridge == l.dev })
	})

	tunnels := true
	if own := linkOf(in.self.Addr, links); own == nil {
		tunnels = false
		refuse(in.self.Name, fmt.Errorf("the host's address %s is on none of its devices, so no tunnel can start from it: name one that is with --advertise", in.self.Addr))
	} else {
		for _, b := range o.backends() {
			if d := b.device(in.self, own.mtu); d != nil {
				want.devices[d.name] = *d
			}
		}
	}
	if err := model.Overlap(in.self, in.nodes); err != nil {
		refuse(in.self.Name, err)
	}
	for _, peer := range in.nodes {
		if peer.Name == in.self.Name || !peer.Subnet.IsValid() {
			continue
		}
		p, err := way(o, in, peer, links)
		if err == nil && p.backend != HostGW && !tunnels {
			continue // said once above
		}
		if err != nil {
			refuse(peer.Name, err)
			continue
		}
		paths = append(paths, p)
		want.add(p)
	}
	// Where the containers' packets come from, before they go to other hosts.
	for _, n := range in.networks {
		if slices.Contains(n.Subnets, in.self.Subnet) {
			want.links[linkEntry{in.self.Subnet, n.Bridge}] = struct{}{}
		}
	}
	want.chains = chains(o, in.self.Subnet)
	return want, paths, failed
}

// way is how a peer is reached, by the first backend that can.
func way(o Options, in inputs, peer model.Node, links []link) (p path, err error) {
	if !peer.Addr.Is4() || !peer.Subnet.Addr().Is4() {
		return path{}, fmt.Errorf("host %s has address %s and subnet %s: only IPv4 is carried between hosts", peer.Name, peer.Addr, peer.Subnet)
	}
	if peer.Addr == in.self.Addr {
		return path{}, fmt.Errorf("host %s has the address %s, as this host, %s, has: if it is gone, remove it with `shoal node rm %s`", peer.Name, peer.Addr, in.self.Name, peer.Name)
	}
	if err := model.Overlap(peer, in.nodes); err != nil {
		return path{}, err
	}
	if peer.Subnet.Overlaps(in.self.Subnet) {
		return path{}, fmt.Errorf("the subnet %s of host %s overlaps %s of this host, %s", peer.Subnet, peer.Name, in.self.Subnet, in.self.Name)
	}
	if err := shadowed(in.self, peer, in.networks); err != nil {
		return path{}, err
	}
	for _, l := range links {
		if l.net.Overlaps(peer.Subnet) {
			return path{}, fmt.Errorf("the subnet %s of host %s overlaps %s on device %s of this host, %s: give %[2]s another subnet",
				peer.Subnet, peer.Name, l.net, l.dev, in.self.Name)
		}
	}
	for _, b := range o.backends() {
		if p, err = b.path(peer, links); err == nil {
			return p, nil
		}
	}
	return path{}, err
}

// add puts in what it takes to reach a peer.
func (s *state) add(p path) {
	subnet, host := p.peer.Subnet.Masked(), p.peer.Addr
	s.nets[subnet] = struct{}{}
	s.hosts[host] = struct{}{}
	s.routes[subnet] = route{via: host, dev: p.dev}
	s.links[linkEntry{subnet, p.dev}] = struct{}{}
	if p.backend == HostGW {
		// The peer's own processes send from its own address.
		s.links[linkEntry{netip.PrefixFrom(host, host.BitLen()), p.dev}] = struct{}{}
	}
	if p.backend == VXLAN {
		mac := VTEPMAC(host)
		s.neigh[host] = mac
		s.fdb[mac] = host
	}
}
