package ipvs

import (
	"fmt"

	"shoal/kernel/rules"
	"shoal/lb"
)

// guardChains keep others from the ports of this host's agent, and this host's
// containers from those of other hosts'. They are in chains of their own, in front of
// what lets packets in; what they let pass meets all other rules still.
func guardChains(o *Options, g *lb.Guard) []rules.Chain {
	const reset = " -j REJECT --reject-with tcp-reset"
	in := rules.Chain{Table: "filter", Name: "SHOAL-AGENT"}
	// The port of a VIP is a service's, whatever its number.
	jump := func(proto string, port uint16) {
		in.From = append(in.From, rules.Jump{From: "INPUT", Match: fmt.Sprintf("! -d %s -p %s --dport %d", o.Pool, proto, port)})
	}
	for _, p := range g.TCP {
		jump("tcp", p)
	}
	for _, p := range g.UDP {
		jump("udp", p)
	}
	if g.Join != 0 {
		jump("tcp", g.Join)
	}
	if len(in.From) > 0 {
		in.Rules = append(in.Rules, "-i lo -j RETURN")
		container := fmt.Sprintf("-m set --match-set %s src", setNets.Name)
		in.Rules = append(in.Rules, container+" -p tcp"+reset, container+" -j DROP")
		if g.Join != 0 {
			in.Rules = append(in.Rules, fmt.Sprintf("-p tcp --dport %d -j RETURN", g.Join))
		}
		in.Rules = append(in.Rules, fmt.Sprintf("-m set --match-set %s src -j RETURN", setTrusted.Name), "-p tcp"+reset, "-j DROP")
	}
	out := rules.Chain{Table: "filter", Name: "SHOAL-AGENT-OUT"}
	for _, p := range g.RemoteTCP {
		out.From = append(out.From, rules.Jump{From: "FORWARD", Match: fmt.Sprintf("-p tcp --dport %d", p)})
	}
	for _, p := range g.RemoteUDP {
		out.From = append(out.From, rules.Jump{From: "FORWARD", Match: fmt.Sprintf("-p udp --dport %d", p)})
	}
	if len(out.From) > 0 {
		toHost := fmt.Sprintf("-m set --match-set %s src -m set --match-set %s dst", setNets.Name, setTrusted.Name)
		out.Rules = []string{toHost + " -p tcp" + reset, toHost + " -j DROP"}
	}
	return []rules.Chain{in, out}
}
