package ipvs

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"shoal/kernel/rules"
	"shoal/lb"
)

// meshChains are the rules of published ports on the host, however many ports,
// services, tasks and hosts there are.
func meshChains(pool netip.Prefix) []rules.Chain {
	var (
		ours     = fmt.Sprintf("%#x/%#x", lb.ConnMark, lb.MarkKind)
		fromBox  = "-i " + hostDev
		toBox    = "-o " + hostDev
		targeted = "-m set --match-set " + setTargets.Name + " dst,dst"
		inside   = "--match-set " + setInside.Name
		resting  = "-m set --match-set " + setResting.Name
		awake    = "-m set ! --match-set " + setResting.Name + " dst"
		request  = "-m conntrack --ctdir ORIGINAL"
		reply    = "-m conntrack --ctdir REPLY"
		answers  = fmt.Sprintf("-m connmark --mark %s %s -j SHOAL-IN-REPLY", ours, reply)
		unmark   = fmt.Sprintf("-m mark --mark %#x/%#x -j MARK --set-xmark 0x0/%#x", lb.ConnMark&lb.PacketMark, lb.MarkKind&^(lb.ConnMark^lb.PacketMark), lb.MarkMask)
	)
	// Whose published port a packet comes by. Only on Ethernet is there a sender's
	// address to look up: the set alone would read whatever stands in front of the IP
	// header, the match mac looks at the device. A tunnel of IP in IP has none; there
	// the outer packet was given the connection's mark, and the inner one inherits
	// that.
	const ether = "-m mac ! --mac-source 00:00:00:00:00:00"

	return []rules.Chain{
		{
			// Nobody reaches the sandbox but by a port: a port of 127.0.0.1 is for
			// this host alone. And engines from 28 on drop here what comes to a
			// container's address from elsewhere than its own bridge.
			Table: "raw", Name: "SHOAL-IN", From: []rules.Jump{{From: "PREROUTING"}},
			Rules: []string{
				fmt.Sprintf("! %s -d %s -j DROP", fromBox, linkNet),
				fromBox + " -j ACCEPT",
				targeted + " -j SHOAL-IN-PEERS",
				resting + " dst -j SHOAL-IN-PEERS", // to be refused
			},
		},
		{
			Table: "raw", Name: "SHOAL-IN-PEERS",
			Rules: []string{
				fmt.Sprintf("-m mark --mark %s -j ACCEPT", ours),
				fmt.Sprintf("%s -m set --match-set %s src -j ACCEPT", ether, setSenders.Name),
			},
		},
		{
			// A connection remembers whose published port it came by, by its latest
			// packet; what answers it carries that as its mark, and is routed there.
			// Connections between containers are left alone.
			Table: "mangle", Name: "SHOAL-IN", From: []rules.Jump{{From: "PREROUTING"}},
			Rules: []string{
				fmt.Sprintf("%s %s -j CONNMARK --set-xmark %#x/%#x", fromBox, request, lb.ConnMark, lb.MarkMask),
				fmt.Sprintf("! %s %s -m set ! %s src %s -j SHOAL-IN-PEERS", fromBox, targeted, inside, request),
				// A refusal has to find its way back as well.
				fmt.Sprintf("! %s %s dst -m set ! %s src %s -j SHOAL-IN-PEERS", fromBox, resting, inside, request),
				unmark,
				answers,
				fmt.Sprintf("-p %d -j SHOAL-IN-OUTER", unix.IPPROTO_IPIP),
			},
		},
		{
			// A set can give a mark to a packet only. The connection takes it over, and
			// SHOAL-IN takes it from the packet again: routes do not go by it.
			Table: "mangle", Name: "SHOAL-IN-PEERS",
			Rules: []string{
				fmt.Sprintf("%s -j SET --map-set %s src --map-mark", ether, setSenders.Name),
				fmt.Sprintf("-m mark --mark %s -j CONNMARK --save-mark --nfmask %#x --ctmask %#[2]x", ours, lb.MarkMask),
			},
		},
		{
			// The connection's number, as a packet's mark.
			Table: "mangle", Name: "SHOAL-IN-REPLY",
			Rules: []string{
				fmt.Sprintf("-j CONNMARK --restore-mark --nfmask %#x --ctmask %#[1]x", lb.MarkNumber),
				fmt.Sprintf("-j MARK --set-xmark %#x/%#x", lb.PacketMark, lb.MarkKind),
			},
		},
		{Table: "mangle", Name: "SHOAL-IN-OUTER", Rules: []string{fmt.Sprintf("-j SET --map-set %s src --map-mark", setOuters.Name)}},
		{
			// Replies of tasks that are processes of the host itself, and what the
			// host has to say about a connection on its way (ICMP).
			Table: "mangle", Name: "SHOAL-IN-OUT", From: []rules.Jump{{From: "OUTPUT"}},
			Rules: []string{answers},
		},
		{
			// The outer packet of a tunnel inherits the mark, and would be routed
			// into the tunnel again.
			Table: "mangle", Name: "SHOAL-IN-POST", From: []rules.Jump{{From: "POSTROUTING"}},
			Rules: []string{unmark},
		},
		{
			Table: "nat", Name: "SHOAL-IN",
			From: []rules.Jump{
				{From: "PREROUTING", Match: fmt.Sprintf("! %s ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL", fromBox)},
				{From: "OUTPUT", Match: "-m addrtype --dst-type LOCAL"},
			},
			Rules: []string{
				fmt.Sprintf("-d %s -j RETURN", pool), // VIPs are local to the host as well
				fmt.Sprintf("-m set --match-set %s dst,dst -j DNAT --to-destination %s", setPublished.Name, sandboxAddr),
			},
		},
		{
			// The host's own processes have addresses, 127.0.0.1 among them, that
			// nobody could answer to but the host. What the sandbox sends in its own
			// name takes the address of the device it leaves by, which whoever is
			// reached by that device can answer to. Clients keep theirs, whatever else
			// masquerades what leaves a bridge or this host.
			Table: "nat", Name: "SHOAL-IN-POST", From: []rules.Jump{{From: "POSTROUTING"}},
			Rules: []string{
				fmt.Sprintf("%s -m addrtype --src-type LOCAL -j SNAT --to-source %s", toBox, hostAddr),
				toBox + " -j ACCEPT",
				fmt.Sprintf("-s %s -j MASQUERADE", sandboxAddr),
				fmt.Sprintf("-m connmark --mark %s -j ACCEPT", ours),
			},
		},
		{
			Table: "filter", Name: "SHOAL-IN", From: []rules.Jump{{From: "INPUT"}, {From: "FORWARD"}, {From: "OUTPUT"}},
			Rules: []string{
				fromBox + " -j ACCEPT",
				toBox + " -j ACCEPT",
				// Not to an address that rests: see restingChain.
				fmt.Sprintf("-m connmark --mark %s %s -j ACCEPT", ours, awake),
				// From other hosts' sandboxes, in the name of clients inside.
				fmt.Sprintf("%s -m set %s src %s -j ACCEPT", targeted, inside, awake),
				fmt.Sprintf("-m set --match-set %s src,src -m set %s dst %s -j ACCEPT", setTargets.Name, inside, reply),
			},
		},
	}
}

// sandboxChains are the rules of the sandbox.
func sandboxChains() []rules.Chain {
	return []rules.Chain{
		{
			Table: "mangle", Name: "SHOAL-IN-MARK", From: []rules.Jump{{From: "PREROUTING"}},
			Rules: []string{fmt.Sprintf("-d %s -j SET --map-set %s dst,dst --map-mark", sandboxAddr, setPorts.Name)},
		},
		{
			// A client inside the cluster may be the task itself, on its bridge, or
			// its host: the answer would not come this way.
			Table: "nat", Name: "SHOAL-IN-POST", From: []rules.Jump{{From: "POSTROUTING"}},
			Rules: []string{fmt.Sprintf("-m set --match-set %s src -j SNAT --to-source %s", setClients.Name, sandboxAddr)},
		},
	}
}
