package ipvs

import (
	"net/netip"
	"slices"

	"shoal/kernel/ipset"
	"shoal/model"
)

// maxElem is the most entries of a set: the kernel's 65536 would be 65536
// VIPs.
const maxElem = 1 << 20

// The sets. Those of marks hold, for each front, its mark.
var (
	setVIP     = ipset.Set{Name: "SHOAL-VIP", Type: "hash:ip", Mark: true, MaxElem: maxElem}           // all ports of TCP and SCTP
	setVIPUDP  = ipset.Set{Name: "SHOAL-VIP-UDP", Type: "hash:ip", Mark: true, MaxElem: maxElem}       // all ports of UDP
	setPort    = ipset.Set{Name: "SHOAL-VIP-PORT", Type: "hash:ip,port", Mark: true, MaxElem: maxElem} // named ports
	setPing    = ipset.Set{Name: "SHOAL-PING", Type: "hash:ip", MaxElem: maxElem}                      // addresses that answer ping
	setTasks   = ipset.Set{Name: "SHOAL-TASKS", Type: "hash:ip", MaxElem: maxElem}                     // addresses of all tasks, here and elsewhere
	setLocal   = ipset.Set{Name: "SHOAL-LOCAL", Type: "hash:ip", MaxElem: maxElem}                     // addresses of this host's tasks
	setHairpin = ipset.Set{Name: "SHOAL-HAIRPIN", Type: "hash:net,net", MaxElem: maxElem}              // (task, task) of each task on this host
	setNets    = ipset.Set{Name: "SHOAL-NETS", Type: "hash:net", MaxElem: maxElem}                     // this host's container networks
	setBridges = ipset.Set{Name: "SHOAL-BRIDGES", Type: "hash:net,iface", MaxElem: maxElem}            // each by way of its bridge
	setCluster = ipset.Set{Name: "SHOAL-CLUSTER", Type: "hash:net", MaxElem: maxElem}                  // the hosts of the cluster and their containers

	// ground is what is filled before the first mark is set.
	ground = []ipset.Set{setNets, setBridges, setCluster, setTasks, setLocal, setHairpin}
	// sets are in the order in which entries go in; they come out in the reverse one.
	sets = slices.Concat(ground, []ipset.Set{setVIP, setVIPUDP, setPort, setPing})
)

// entries is what a set holds: entry -> mark.
type entries map[ipset.Entry]uint32

// where tells which set holds a front's mark, and as which entry.
func (f front) where() (set string, e ipset.Entry) {
	switch {
	case f.port != 0:
		return setPort.Name, ipset.AddrPort(f.vip, uint8(f.proto), f.port)
	case f.proto == model.UDP:
		return setVIPUDP.Name, ipset.Addr(f.vip)
	default:
		return setVIP.Name, ipset.Addr(f.vip)
	}
}

// frontOf is the reverse of where; false for a set without marks.
func frontOf(set string, e ipset.Entry) (front, bool) {
	switch set {
	case setVIP.Name:
		return front{vip: e.Net.Addr(), proto: model.TCP}, true
	case setVIPUDP.Name:
		return front{vip: e.Net.Addr(), proto: model.UDP}, true
	case setPort.Name:
		return front{vip: e.Net.Addr(), proto: model.Protocol(e.Proto), port: e.Port}, true
	}
	return front{}, false
}

// addresses are the task addresses of a service: of all tasks, of those on this
// host, and of those whose packets to themselves need masquerading. A task that
// is the host itself (host network) does not.
func addresses(s *model.Service, self model.Node) (tasks, local, hairpin []netip.Addr) {
	for i := range s.Tasks {
		t := &s.Tasks[i]
		if !t.Addr.Is4() || t.State == model.Unreached {
			continue
		}
		tasks = append(tasks, t.Addr)
		if t.Node == self.Name {
			local = append(local, t.Addr)
			if t.Addr != self.Addr {
				hairpin = append(hairpin, t.Addr)
			}
		}
	}
	return tasks, local, hairpin
}
