package iptables

import (
	"fmt"

	"shoal/fabric"
	"shoal/kernel/ipset"
	"shoal/kernel/rules"
	"shoal/model"
)

// The names of the chains.
const (
	chain   = "SHOAL-FABRIC"
	chainIn = "SHOAL-FABRIC-IN"
)

// The sets that their rules ask.
var (
	setNets  = ipset.Set{Name: "SHOAL-FABRIC-NETS", Type: "hash:net"}        // the other hosts' containers
	setHosts = ipset.Set{Name: "SHOAL-FABRIC-HOSTS", Type: "hash:ip"}        // the other hosts
	setLinks = ipset.Set{Name: "SHOAL-FABRIC-LINKS", Type: "hash:net,iface"} // who comes in by which device

	sets = []ipset.Set{setNets, setHosts, setLinks}
)

// chains are the rules, however many hosts there are.
func chains(b fabric.Between) []rules.Chain {
	to, from := "-d "+b.Own.String(), "-s "+b.Own.String()
	notFrom := "! " + from
	// Tunnel packets: from hosts of the cluster, and from nobody else.
	var in []string
	for _, t := range b.Tunnels {
		outer := fmt.Sprintf("-p %d", t.Protocol)
		if t.Port != 0 {
			outer = fmt.Sprintf("-p %s --dport %d", model.Protocol(t.Protocol), t.Port)
		}
		in = append(in, fmt.Sprintf("%s -m set --match-set %s src -j ACCEPT", outer, setHosts.Name), outer+" -j DROP")
	}
	return []rules.Chain{
		{
			// Engines from 28 on drop here what comes to a container's address from
			// elsewhere than its own bridge.
			Table: "raw", Name: chain, From: []rules.Jump{{From: "PREROUTING", Match: to}},
			Rules: []string{fmt.Sprintf("%s -m set --match-set %s src,src -j ACCEPT", notFrom, setLinks.Name)},
		},
		{
			// The outer packet inherits the mark of the inner one. Where routes
			// depend on marks, it would be routed into the tunnel again.
			Table: "mangle", Name: chain, From: []rules.Jump{{From: "POSTROUTING", Match: "-o " + fabric.Devices}},
			Rules: []string{"-j MARK --set-xmark 0x0/0xffffffff"},
		},
		{
			Table: "nat", Name: chain, From: []rules.Jump{{From: "POSTROUTING"}},
			Rules: []string{
				// Containers see each other's own addresses: Docker would masquerade
				// what leaves its bridge.
				fmt.Sprintf("%s -m set --match-set %s dst -j ACCEPT", from, setNets.Name),
				// What the host itself sends into a tunnel comes back through it only
				// if sent from an address of this host's subnet.
				fmt.Sprintf("%s -o %s -m addrtype --src-type LOCAL -j MASQUERADE", notFrom, fabric.Devices),
			},
		},
		{
			// Other bridges of this host stay apart from the containers', and those
			// from others': only what other hosts sent comes in, only what the own
			// bridge sent goes out.
			Table: "filter", Name: chain, From: []rules.Jump{{From: "FORWARD"}},
			Rules: []string{
				fmt.Sprintf("%s %s -m set --match-set %s src,src -j ACCEPT", notFrom, to, setLinks.Name),
				fmt.Sprintf("%s -m set --match-set %s src,src -m set --match-set %s dst -j ACCEPT", from, setLinks.Name, setNets.Name),
			},
		},
		{Table: "filter", Name: chainIn, From: []rules.Jump{{From: "INPUT"}}, Rules: in},
	}
}
