package nft

import (
	"golang.org/x/sys/unix"

	"shoal/lb"
)

// guard keeps others from the ports of this host's agent. What it lets pass meets
// the rules of iptables and of others still.
func (w *surroundings) guard() []rule {
	tcp := equal(protocol, []byte{unix.IPPROTO_TCP})
	rs := []rule{
		on("the host itself", equal(inDevice, name16("lo")), accept),
		on("no containers", in(source, nets), goTo("refuse")),
	}
	if j := w.base.Guard.Join; j != 0 {
		rs = append(rs, on("hosts that join, or come back", tcp, equal(toPort, be16(j)), accept))
	}
	return append(rs, on("hosts of the cluster", in(source, trusted), accept), on("and nobody else", goTo("refuse")))
}

// toAgent are the rules that lead to it. What was sent to a service is none of the
// agent's, whatever the number of its port.
func (w *surroundings) toAgent() (rs []rule) {
	g := &w.base.Guard
	add := func(proto byte, port uint16) {
		rs = append(rs, on("a port of the agent", equal(protocol, []byte{proto}), equal(toPort, be16(port)), lacks(ctStatus, statusDNAT), goTo("agent")))
	}
	for _, p := range g.TCP {
		add(unix.IPPROTO_TCP, p)
	}
	for _, p := range g.UDP {
		add(unix.IPPROTO_UDP, p)
	}
	if g.Join != 0 {
		add(unix.IPPROTO_TCP, g.Join)
	}
	return rs
}

// fromContainers keep this host's containers from the agents of other hosts.
func fromContainers(g *lb.Guard) (rs []rule) {
	add := func(proto byte, port uint16) {
		rs = append(rs, on("no container reaches another host's agent", equal(protocol, []byte{proto}), equal(toPort, be16(port)),
			in(source, nets), in(dest, trusted), goTo("refuse")))
	}
	for _, p := range g.RemoteTCP {
		add(unix.IPPROTO_TCP, p)
	}
	for _, p := range g.RemoteUDP {
		add(unix.IPPROTO_UDP, p)
	}
	return rs
}
