package lb

import (
	"fmt"
	"net/netip"

	"shoal/kernel/rules"
)

// chains are the rules, however many services there are.
func chains(pool netip.Prefix, dns []netip.Addr) []rules.Chain {
	toPool := "-d " + pool.String()
	jumps := func(from ...string) (js []rules.Jump) {
		for _, f := range from {
			js = append(js, rules.Jump{From: f, Match: toPool})
		}
		return js
	}
	fromTo := func(src, dst string) string {
		return fmt.Sprintf("-m set --match-set %s src -m set --match-set %s dst -j ACCEPT", src, dst)
	}
	mark := func(proto, set string) string {
		return fmt.Sprintf("-p %s -j SET --map-set %s dst --map-mark", proto, set)
	}
	vip := []string{
		// IPVS takes these next, at the end of the same hook.
		fmt.Sprintf("-m mark --mark %#x/%#x -j ACCEPT", marksOf, liveMask),
		// Of a front that takes no new connections, those it still holds.
		// IPVS finds a connection before it asks for a mark.
		fmt.Sprintf("-m mark --mark %#x/%#x -m conntrack --ctstate ESTABLISHED -j ACCEPT", marksOf|parked, liveMask),
		// ICMP errors about a connection (path MTU): IPVS passes them on.
		"-p icmp -m conntrack --ctstate RELATED -j ACCEPT",
		fmt.Sprintf("-p icmp --icmp-type echo-request -m set --match-set %s dst -j ACCEPT", setPing.Name),
	}
	for _, a := range dns {
		for _, proto := range []string{"udp", "tcp"} {
			vip = append(vip, fmt.Sprintf("-d %s -p %s --dport 53 -j ACCEPT", a, proto))
		}
	}
	// The whole pool is this host's by the local route: what is no service
	// would reach whoever listens on 0.0.0.0.
	vip = append(vip,
		"-p tcp -j REJECT --reject-with tcp-reset",
		"-j REJECT --reject-with icmp-port-unreachable")

	return []rules.Chain{
		{
			// Engines from 28 on drop here what comes to a container's address from
			// elsewhere than its own bridge. That hits packets between bridges, and
			// the reply of a task on one bridge to a client on another.
			Table: "raw", Name: "SHOAL-RAW", From: []rules.Jump{{From: "PREROUTING"}},
			Rules: []string{fromTo(setNets.Name, setTasks.Name), fromTo(setTasks.Name, setNets.Name)},
		},
		{
			// The last to match sets the mark: a named port wins over all ports.
			Table: "mangle", Name: "SHOAL-MARK", From: jumps("PREROUTING", "OUTPUT"),
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
			Rules: []string{"-j ACCEPT"},
		},
		{
			// A task that reached itself would answer itself directly, not by way
			// of IPVS. Everywhere else the client's address is kept: Docker would
			// masquerade what leaves its bridge.
			Table: "nat", Name: "SHOAL-POSTROUTING", From: []rules.Jump{{From: "POSTROUTING"}},
			Rules: []string{
				fmt.Sprintf("-m set --match-set %s src,dst -j MASQUERADE", setHairpin.Name),
				fromTo(setNets.Name, setTasks.Name),
			},
		},
		{Table: "filter", Name: "SHOAL-VIP", From: jumps("INPUT"), Rules: vip},
		{
			// Requests leave IPVS through OUTPUT, whoever sent them, with the task's
			// address and our mark. What is still for the pool comes back over lo and
			// is refused there: refused here, a datagram's sender would see EPERM,
			// not ECONNREFUSED.
			Table: "filter", Name: "SHOAL-OUTPUT", From: []rules.Jump{{From: "OUTPUT"}},
			Rules: []string{
				toPool + " -j ACCEPT",
				fmt.Sprintf("-m mark --mark %#x/%#x -j ACCEPT", marksOf, ownMask),
			},
		},
		{
			// Replies of tasks, to other bridges and other hosts; and from this
			// host's containers to tasks on its other bridges, by their own addresses
			// (tasks.NAME, dnsrr). Connections that a task makes elsewhere stay under
			// Docker's and the user's rules.
			Table: "filter", Name: "SHOAL-FORWARD", From: []rules.Jump{{From: "FORWARD"}},
			Rules: []string{
				fmt.Sprintf("-m set --match-set %s src -m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY -j ACCEPT", setTasks.Name),
				fromTo(setNets.Name, setTasks.Name),
			},
		},
	}
}
