package ipvs

import (
	"net/netip"
	"slices"

	"shoal/kernel/ipset"
	"shoal/lb"
	"shoal/model"
)

// maxElem is the most entries of a set: the kernel's 65536 would be 65536
// VIPs.
const maxElem = 1 << 20

// The sets of the host. SHOAL-VIP… hold, for each frontend of a VIP, its mark.
// SCTP is why published ports are in a hash: a bitmap:port sees TCP and UDP
// only (ip_set_getport.c, ip_set_get_ip_port).
var (
	setVIP     = ipset.Set{Name: "SHOAL-VIP", Type: "hash:ip", Mark: true, MaxElem: maxElem}           // all ports of TCP and SCTP
	setVIPUDP  = ipset.Set{Name: "SHOAL-VIP-UDP", Type: "hash:ip", Mark: true, MaxElem: maxElem}       // all ports of UDP
	setPort    = ipset.Set{Name: "SHOAL-VIP-PORT", Type: "hash:ip,port", Mark: true, MaxElem: maxElem} // named ports
	setPing    = ipset.Set{Name: "SHOAL-PING", Type: "hash:ip", MaxElem: maxElem}                      // addresses that answer ping
	setTasks   = ipset.Set{Name: "SHOAL-TASKS", Type: "hash:ip", MaxElem: maxElem}                     // addresses of all tasks, here and elsewhere
	setLocal   = ipset.Set{Name: "SHOAL-LOCAL", Type: "hash:ip", MaxElem: maxElem}                     // addresses of this host's tasks
	setHairpin = ipset.Set{Name: "SHOAL-HAIRPIN", Type: "hash:net,net", MaxElem: maxElem}              // (task, task) of each task on this host
	setResting = ipset.Set{Name: "SHOAL-RESTING", Type: "hash:ip", MaxElem: maxElem}                   // addresses that this host's tasks had until just now
	setNets    = ipset.Set{Name: "SHOAL-NETS", Type: "hash:net", MaxElem: maxElem}                     // this host's container networks
	setBridges = ipset.Set{Name: "SHOAL-BRIDGES", Type: "hash:net,iface", MaxElem: maxElem}            // each by way of its bridge
	setTrusted = ipset.Set{Name: "SHOAL-TRUSTED", Type: "hash:ip", MaxElem: maxElem}                   // hosts of the cluster, whom this one's agent speaks to
	setCluster = ipset.Set{Name: "SHOAL-CLUSTER", Type: "hash:net", MaxElem: maxElem}                  // the hosts of the cluster and their containers

	setInside    = ipset.Set{Name: "SHOAL-IN-INSIDE", Type: "hash:net", MaxElem: maxElem}         // hosts' addresses, containers' networks
	setTargets   = ipset.Set{Name: "SHOAL-IN-TARGETS", Type: "hash:ip,port", MaxElem: maxElem}    // where this host's tasks are reached
	setPublished = ipset.Set{Name: "SHOAL-IN-PUBLISHED", Type: "hash:net,port", MaxElem: maxElem} // ports that the host redirects

	// By whom a connection came, each with the mark of connections of that host.
	setSenders = ipset.Set{Name: "SHOAL-IN-SENDERS", Type: "hash:mac", Mark: true, Mask: lb.MarkMask, MaxElem: maxElem} // Ethernet addresses
	setOuters  = ipset.Set{Name: "SHOAL-IN-OUTERS", Type: "hash:ip", Mark: true, Mask: lb.MarkMask, MaxElem: maxElem}   // outer sources of IP in IP
)

// The sets of the sandbox.
var (
	setClients = ipset.Set{Name: "SHOAL-IN-CLIENTS", Type: "hash:net", MaxElem: maxElem}               // as setInside, and the host on its link
	setPorts   = ipset.Set{Name: "SHOAL-IN-PORTS", Type: "hash:ip,port", Mark: true, MaxElem: maxElem} // port -> mark
)

// Sets are in the order in which entries go in; they come out in the reverse
// one. Ground is what is filled before the first mark is given.
var (
	hostGround = []ipset.Set{setResting, setNets, setBridges, setCluster, setTrusted, setTasks, setLocal, setHairpin, setInside, setTargets, setSenders, setOuters}
	hostSets   = slices.Concat(hostGround, []ipset.Set{setVIP, setVIPUDP, setPort, setPing, setPublished})

	boxGround = []ipset.Set{setClients}
	boxSets   = slices.Concat(boxGround, []ipset.Set{setPorts})
)

// entries is what a set holds: entry -> mark.
type entries map[ipset.Entry]uint32

// where tells which set holds a frontend's mark, and as which entry.
func where(k lb.Key) (set string, e ipset.Entry) {
	switch {
	case k.Published():
		return setPorts.Name, ipset.AddrPort(sandboxAddr, uint8(k.Protocol), k.Port)
	case k.Port != 0:
		return setPort.Name, ipset.AddrPort(k.VIP, uint8(k.Protocol), k.Port)
	case k.Protocol == model.UDP:
		return setVIPUDP.Name, ipset.Addr(k.VIP)
	default:
		return setVIP.Name, ipset.Addr(k.VIP)
	}
}

// keyOf is the reverse of where; false for a set that holds no marks of
// frontends.
func keyOf(set string, e ipset.Entry) (lb.Key, bool) {
	switch set {
	case setPorts.Name:
		return publishedKey(e), true
	case setVIP.Name:
		return lb.Key{VIP: e.Net.Addr(), Protocol: model.TCP}, true
	case setVIPUDP.Name:
		return lb.Key{VIP: e.Net.Addr(), Protocol: model.UDP}, true
	case setPort.Name:
		return lb.Key{VIP: e.Net.Addr(), Protocol: model.Protocol(e.Proto), Port: e.Port}, true
	}
	return lb.Key{}, false
}

// publishedKey is the published port of an entry of setPublished or setPorts.
func publishedKey(e ipset.Entry) lb.Key {
	return lb.Key{Protocol: model.Protocol(e.Proto), Port: e.Port}
}

// every is every address: a set takes no network of length 0, but two halves.
var every = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("128.0.0.0/1")}

// redirections are the entries by which the host redirects a published port.
func redirections(f *lb.Frontend) (es []ipset.Entry) {
	on := every
	if len(f.On) > 0 {
		on = nil
		for _, a := range f.On {
			on = append(on, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	for _, n := range on {
		es = append(es, ipset.Entry{Net: n, Proto: uint8(f.Protocol), Port: f.Port})
	}
	return es
}

// peerMarks are the entries by which connections from other hosts' published
// ports are known, each with its mark. Of two hosts with the same address, the one
// with the higher number is meant: it was added later.
func peerMarks(peers []lb.Peer) (senders, outers entries) {
	senders, outers = entries{}, entries{}
	put := func(to entries, e ipset.Entry, mark uint32) { to[e] = max(to[e], mark) }
	for i := range peers {
		p := &peers[i]
		mark := lb.ConnMark | uint32(p.Number)
		for _, m := range p.MACs {
			put(senders, ipset.Ether(m), mark)
		}
		put(outers, ipset.Addr(p.Addr), mark)
	}
	return senders, outers
}
