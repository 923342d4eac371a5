package ipvs

import (
	"fmt"

	"shoal/kernel/rules"
)

// restingChain meets what is sent to an address that a task of this host has just
// left. Other hosts may mean that task, and somebody else may have the address by
// now: they are refused. What this host redirects itself is for who has it, and
// so is what its containers send.
//
// Of connections of before the kernel that has the address now knows nothing, and
// says so; but datagrams it would take. Behind a dropped packet the client would
// try again, until the rest is over: so it is refused.
//
// SHOAL-FABRIC jumps here before it accepts anything, and SHOAL-IN, which may
// come before that, accepts nothing that goes to such an address.
func restingChain() rules.Chain {
	return rules.Chain{Table: "filter", Name: "SHOAL-RESTING", Rules: []string{
		"-i " + hostDev + " -j RETURN",
		fmt.Sprintf("-m set --match-set %s src,src -j RETURN", setBridges.Name),
		"-m conntrack --ctstate RELATED,DNAT -j RETURN",
		"-m conntrack --ctdir REPLY -j RETURN",
		"-p tcp --syn -j REJECT --reject-with tcp-reset",
		"! -p udp -m conntrack --ctstate ESTABLISHED -j RETURN",
		"-p tcp -j REJECT --reject-with tcp-reset",
		"-p sctp -j REJECT --reject-with icmp-proto-unreachable",
		"-j REJECT --reject-with icmp-port-unreachable",
	}}
}
