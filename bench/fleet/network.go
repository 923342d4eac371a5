package fleet

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"shoal/cluster"
	"shoal/store"

	"golang.org/x/sys/unix"
)

// ownNetwork moves this thread, and what it starts from now on, into a network namespace
// of its own, with the loopback device up and the rules loaded.
func ownNetwork(servers int) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w; run it as root", err)
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("bring the loopback device up: %w: %s", err, out)
	}
	return nft(ruleset(servers))
}

// nft runs a script in this thread's namespace.
func nft(script string) error {
	c := exec.Command("nft", "-f", "-")
	c.Stdin = strings.NewReader(script)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}

// What is counted, by the names of the counters.
const (
	countStore   = "to-store"   // between hosts and the store
	countPeers   = "to-peers"   // between servers of the store
	countPackets = "gossip-udp" // of gossip and questions, UDP
	countStreams = "gossip-tcp" // of gossip, TCP, and what asks whether a host is there
	countEcho    = "icmp-echo"  // ICMP
)

// ruleset counts what is sent, redirects aliases to servers, and drops by two sets: what
// concerns a dead host, and what crosses from the hosts that are cut off to the
// others, to which the store belongs. It is dropped on receipt: a sender is not to
// notice. Connections to the store alone are tracked: pairs of hosts are more than the
// kernel tracks.
func ruleset(servers int) string {
	var s strings.Builder
	s.WriteString("table ip fleet {\n")
	for _, name := range []string{countStore, countPeers, countPackets, countStreams, countEcho} {
		fmt.Fprintf(&s, "\tcounter %s { }\n", name)
	}
	s.WriteString("\tset dead { type ipv4_addr; }\n\tset cut { type ipv4_addr; }\n")
	s.WriteString("\tchain nat { type nat hook output priority -100;\n")
	for i := range servers {
		fmt.Fprintf(&s, "\t\tip daddr 127.%d.0.0/16 tcp dport %d dnat to %s\n", aliasBlock+i, store.ClientPort, serverAddr(i))
	}
	fmt.Fprintf(&s, `	}
	chain untracked { type filter hook output priority -300;
		tcp dport %[1]d accept
		tcp sport %[1]d accept
		notrack
	}
	chain sent { type filter hook output priority 0;
		tcp dport %[1]d counter name %[2]s
		tcp sport %[1]d counter name %[2]s
		tcp dport %[3]d counter name %[4]s
		tcp sport %[3]d counter name %[4]s
		udp dport %[5]d counter name %[6]s
		tcp dport %[5]d counter name %[7]s
		tcp sport %[5]d counter name %[7]s
		ip protocol icmp counter name %[8]s
	}
	chain received { type filter hook input priority 0;
		ip saddr @dead drop
		ip daddr @dead drop
		ct original ip daddr @dead drop
		ct original ip daddr @cut drop
		ip saddr @cut ip daddr 127.%[9]d.0.0/16 ip daddr != @cut drop
		ip daddr @cut ip saddr 127.%[9]d.0.0/16 ip saddr != @cut drop
	}
}
`, store.ClientPort, countStore, store.PeerPort, countPeers, cluster.DefaultGossipPort, countPackets, countStreams, countEcho, hostBlock)
	return s.String()
}

// setMembers replaces the members of a set by hosts, with their aliases of the store.
func setMembers(set string, servers int, hosts []int) string {
	var all []string
	for _, h := range hosts {
		for _, a := range append([]netip.Addr{hostAddr(h)}, aliases(servers, h)...) {
			all = append(all, a.String())
		}
	}
	script := fmt.Sprintf("flush set ip fleet %s\n", set)
	if len(all) > 0 {
		script += fmt.Sprintf("add element ip fleet %s { %s }\n", set, strings.Join(all, ", "))
	}
	return script
}

func aliases(servers, host int) (all []netip.Addr) {
	for s := range servers {
		all = append(all, storeAlias(s, host))
	}
	return all
}

// traffic is what was sent so far.
type traffic map[string]struct{ Packets, Bytes int64 }

// readTraffic reads the counters in this thread's namespace.
func readTraffic() (traffic, error) {
	out, err := exec.Command("nft", "-j", "list", "counters", "table", "ip", "fleet").Output()
	if err != nil {
		return nil, fmt.Errorf("read the counters: %w", err)
	}
	return parseCounters(out)
}

// parseCounters reads what nft -j prints (libnftables-json(5)).
func parseCounters(b []byte) (traffic, error) {
	var list struct {
		Nftables []struct {
			Counter *struct {
				Name           string
				Packets, Bytes int64
			}
		}
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("read the counters: %w", err)
	}
	t := traffic{}
	for _, o := range list.Nftables {
		if c := o.Counter; c != nil {
			t[c.Name] = struct{ Packets, Bytes int64 }{c.Packets, c.Bytes}
		}
	}
	return t, nil
}
