package ipvs

import (
	"fmt"
	"net/netip"
	"slices"

	"shoal/kernel/ipset"
	"shoal/kernel/rules"
	"shoal/lb"
	"shoal/model"
)

// chains are the rules of the host's namespace.
func (p *Plane) chains() []rules.Chain {
	base := p.base
	if base == nil {
		base = new(lb.Base)
	}
	return hostChains(&p.opts, base)
}

// hostChains are all of the host's that depend on a base.
func hostChains(o *Options, base *lb.Base) []rules.Chain {
	return slices.Concat(guardChains(o, &base.Guard), vipChains(o, base), meshChains(o.Pool))
}

// vipChains are the rules for VIPs, however many services there are.
func vipChains(o *Options, base *lb.Base) []rules.Chain {
	toPool := "-d " + o.Pool.String()
	jumps := func(from ...string) (js []rules.Jump) {
		for _, f := range from {
			js = append(js, rules.Jump{From: f, Match: toPool})
		}
		return js
	}
	match := func(s ipset.Set, dir string) string {
		return fmt.Sprintf("-m set --match-set %s %s", s.Name, dir)
	}
	// From one of this host's container networks, over its own bridge: a source
	// address alone proves nothing, whoever is on the host's link can send it.
	fromHere := match(setBridges, "src,src")
	mark := func(proto, set string) string {
		return fmt.Sprintf("-p %s -j SET --map-set %s dst --map-mark", proto, set)
	}
	vip := []string{
		// The VIPs are for this host and its containers. Without this, whoever is on
		// the host's link and routes the pool to it would be balanced too.
		fmt.Sprintf("! -i lo -m set ! --match-set %s src,src -j REJECT", setBridges.Name),
		// IPVS takes these next, at the end of the same hook.
		fmt.Sprintf("-m mark --mark %#x/%#x -j ACCEPT", marksOf, liveMask),
		// Of a frontend that takes no new connections, those it still holds.
		// IPVS finds a connection before it asks for a mark.
		fmt.Sprintf("-m mark --mark %#x/%#x -m conntrack --ctstate ESTABLISHED -j ACCEPT", marksOf|noNewConns, liveMask),
		// ICMP errors about a connection (path MTU): IPVS passes them on.
		"-p icmp -m conntrack --ctstate RELATED -j ACCEPT",
		fmt.Sprintf("-p icmp --icmp-type echo-request -m set --match-set %s dst -j ACCEPT", setPing.Name),
	}
	if o.DNS.IsValid() {
		for _, proto := range []string{"udp", "tcp"} {
			vip = append(vip, fmt.Sprintf("-d %s -p %s --dport %d -j ACCEPT", o.DNS, proto, base.DNSPort(o.DNS)))
		}
	}
	// The whole pool is this host's by the local route: what is no service
	// would reach whoever listens on 0.0.0.0.
	vip = append(vip,
		"-p tcp -j REJECT --reject-with tcp-reset",
		// An unreachable port is to the kernel's SCTP only a hint, after which it
		// goes on trying; an unreachable protocol ends the association (RFC 9260,
		// section 10).
		"-p sctp -j REJECT --reject-with icmp-proto-unreachable",
		"-j REJECT --reject-with icmp-port-unreachable")

	// Other hosts' containers, and the hosts, reach this host's DNS server by the
	// address of the mesh's bridge.
	dns := rules.Chain{Table: "filter", Name: "SHOAL-DNS"}
	server := model.PlanOf(base.Self.Subnet).DNS
	// Where port 53 is somebody else's, the server answers on another.
	toServer := rules.Chain{Table: "nat", Name: "SHOAL-DNS", Rules: otherPort(base, server)}
	if len(toServer.Rules) > 0 {
		toServer.From = []rules.Jump{{From: "PREROUTING", Match: "-d " + server.String()}, {From: "OUTPUT", Match: "-d " + server.String()}}
	}
	if o.DNSPeers.IsValid() && server.IsValid() {
		dns.From = []rules.Jump{{From: "INPUT", Match: "-d " + server.String()}}
		for _, proto := range []string{"udp", "tcp"} {
			dns.Rules = append(dns.Rules, fmt.Sprintf("-p %s --dport %d %s -j ACCEPT", proto, base.DNSPort(server), match(setCluster, "src")))
		}
	}
	// While the agent is away nobody listens there. A resolver that is told so
	// goes on to the next server at once (Docker's own otherwise waits for four
	// seconds); but where there is no other server it may give up, and one that
	// hears nothing asks again.
	var silent []string
	if base.Alone {
		for _, a := range []netip.Addr{o.DNS, o.DNSPeers, server} {
			if a.IsValid() {
				silent = append(silent, fmt.Sprintf("-s %s -p icmp --icmp-type port-unreachable -m conntrack --ctstate RELATED --ctproto udp --ctorigdstport %d -j DROP", a, lb.DNSPort))
			}
		}
	}

	return []rules.Chain{
		{
			// Engines from 28 on drop here what comes to a container's address from
			// elsewhere than its own bridge. That hits packets between bridges, and
			// the reply of a task on one bridge to a client on another.
			Table: "raw", Name: "SHOAL-RAW", From: []rules.Jump{{From: "PREROUTING"}},
			Rules: []string{
				fmt.Sprintf("%s %s -j ACCEPT", fromHere, match(setLocal, "dst")),
				fmt.Sprintf("%s %s -j ACCEPT", fromHere, match(setLocal, "src")),
			},
		},
		{
			// The last to match sets the mark: a named port wins over all ports. IPVS
			// acts at the end of INPUT and, for this host's own processes, early in
			// OUTPUT; so a rule of others that restores marks in PREROUTING, as
			// wg-quick(8)'s do, comes before and takes none away.
			Table: "mangle", Name: "SHOAL-MARK", From: jumps("INPUT", "OUTPUT"),
			Rules: []string{
				mark("tcp", setVIP.Name),
				mark("sctp", setVIP.Name),
				mark("udp", setVIPUDP.Name),
				fmt.Sprintf("-j SET --map-set %s dst,dst --map-mark", setPort.Name),
			},
		},
		{
			// Docker's rules for published ports (-p) take every address that is
			// local to the host, which VIPs are.
			Table: "nat", Name: "SHOAL-VIP", From: jumps("PREROUTING", "OUTPUT"),
			Rules: append(otherPort(base, o.DNS), "-j ACCEPT"),
		},
		{
			// A task that reached itself would answer itself directly, not by way
			// of IPVS. A task on this host sees the address of every other container
			// on it: Docker would masquerade what leaves its bridge. To tasks of other
			// hosts it must, as those have no route to this host's other networks;
			// only the mesh's own is theirs to answer to, and what keeps those
			// addresses is the fabric's.
			Table: "nat", Name: "SHOAL-POSTROUTING", From: []rules.Jump{{From: "POSTROUTING"}},
			Rules: []string{
				match(setHairpin, "src,dst") + " -j MASQUERADE",
				fmt.Sprintf("%s %s -j ACCEPT", match(setNets, "src"), match(setLocal, "dst")),
			},
		},
		{Table: "filter", Name: "SHOAL-VIP", From: jumps("INPUT"), Rules: vip},
		{
			// Requests leave IPVS through OUTPUT, whoever sent them, with the task's
			// address and our mark. What is still for the pool comes back over lo and
			// is refused there: refused here, a datagram's sender would see EPERM,
			// not ECONNREFUSED.
			Table: "filter", Name: "SHOAL-OUTPUT", From: []rules.Jump{{From: "OUTPUT"}},
			Rules: append(silent,
				toPool+" -j ACCEPT",
				fmt.Sprintf("-m mark --mark %#x/%#x -j ACCEPT", marksOf, ownMask)),
		},
		{
			// Replies of tasks, to other bridges and other hosts; and from this
			// host's containers to tasks on its other bridges, by their own addresses
			// (tasks.NAME, dnsrr). Connections that a task makes elsewhere, and those
			// that others make to a task, stay under Docker's and the user's rules.
			Table: "filter", Name: "SHOAL-FORWARD", From: []rules.Jump{{From: "FORWARD"}},
			Rules: []string{
				match(setTasks, "src") + " -m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY -j ACCEPT",
				fmt.Sprintf("%s %s -j ACCEPT", fromHere, match(setLocal, "dst")),
			},
		},
		dns,
		toServer,
	}
}

// otherPort are the rules that lead what is sent to port 53 of an address to the
// port where the DNS server answers; none where that is the same.
func otherPort(base *lb.Base, a netip.Addr) (rs []string) {
	if port := base.DNSPort(a); port != lb.DNSPort {
		for _, proto := range []string{"udp", "tcp"} {
			rs = append(rs, fmt.Sprintf("-d %s -p %s --dport %d -j DNAT --to-destination %s:%d", a, proto, lb.DNSPort, a, port))
		}
	}
	return rs
}
