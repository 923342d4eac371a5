package ipvs

import (
	"fmt"
	"net/netip"
	"slices"

	"shoal/kernel/ipset"
	"shoal/kernel/rules"
	"shoal/lb"
)

// closedSets are those sets of the VIPs' that closedChain and restingChain ask as
// well.
var closedSets = []ipset.Set{setTargets, setInside, setBridges, setLocal, setResting}

// ensureClosedSets makes those that are missing: what passes between hosts is
// known before the first task is.
func ensureClosedSets() error {
	names, err := ipset.Names()
	if err != nil {
		return err
	}
	for _, s := range closedSets {
		if slices.Contains(names, s.Name) {
			continue
		}
		if err := ipset.Create(s); err != nil {
			return err
		}
	}
	return nil
}

// closedChain keeps the containers of the mesh, whose subnet is own, closed to
// the link and to other bridges of this host. Whether the engine does that
// depends on its version, its settings and how it made the network.
//
// What may pass returns to the rules of others, and is what the other chains
// accept: so it does not matter which of them comes first. What the engine itself
// publishes had its destination changed, and stays under its rules.
func closedChain(own netip.Prefix) rules.Chain {
	c := rules.Chain{Table: "filter", Name: "SHOAL-CLOSED"}
	if !own.IsValid() {
		return c // without a subnet there are no containers
	}
	c.From = []rules.Jump{{From: "FORWARD", Match: "-d " + own.String()}}
	in := func(set ipset.Set, dir string) string { return fmt.Sprintf("-m set --match-set %s %s", set.Name, dir) }
	for _, may := range []string{
		"-m conntrack --ctstate RELATED,ESTABLISHED,DNAT",
		in(setFabricLinks, "src,src"),                                       // their own bridge, and other hosts
		"-i " + hostDev,                                                     // this host's published ports
		fmt.Sprintf("-m connmark --mark %#x/%#x", lb.ConnMark, lb.MarkKind), // other hosts'
		in(setTargets, "dst,dst") + " " + in(setInside, "src"),              // and those in the name of clients inside
		in(setBridges, "src,src") + " " + in(setLocal, "dst"),               // this host's containers to its tasks
	} {
		c.Rules = append(c.Rules, may+" -j RETURN")
	}
	c.Rules = append(c.Rules, "-j DROP")
	return c
}
