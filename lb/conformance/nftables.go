package conformance

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

var nftablesTests = []test{
	{"AnEngineThatUsesNftables", engineOfNftables, true},
}

// nftablesRules are what an engine from 29 on has with its setting
// firewall-backend at nftables (moby: nftabler, and the rulesets in
// integration/network/bridge/nftablesdoc). The network mesh has the gateway mode
// nat-unprotected, all others have nat. It has a mark for what is to pass
// (bridge-accept-fwmark) if that is not "".
func (h *host) nftablesRules(mark string) string {
	var raw, ins, outs, inChains, outChains, natChains, nats strings.Builder
	for _, c := range h.containers {
		if c.bridge != "mesh" {
			fmt.Fprintf(&raw, "ip daddr %s iifname != %s counter drop\n", c.addr, c.bridge)
		}
	}
	accept := ""
	if value, mask, marks := strings.Cut(mark, "/"); marks {
		accept = fmt.Sprintf("meta mark and %s == %s counter accept", mask, value)
	}
	for _, n := range h.nets {
		last := "drop"
		if n.Bridge == "mesh" {
			last = "accept"
		}
		fmt.Fprintf(&ins, "%s : jump in__%[1]s,", n.Bridge)
		fmt.Fprintf(&outs, "%s : jump out__%[1]s,", n.Bridge)
		fmt.Fprintf(&nats, "%s : jump nat__%[1]s,", n.Bridge)
		fmt.Fprintf(&inChains, "chain in__%s { \n ct state established,related counter accept\n %s\n iifname %[1]s counter accept\n counter %s\n }\n", n.Bridge, accept, last)
		fmt.Fprintf(&outChains, "chain out__%s { \n ct state established,related counter accept\n counter accept\n }\n", n.Bridge)
		fmt.Fprintf(&natChains, "chain nat__%s { \n oifname != %[1]s ip saddr %s counter masquerade\n }\n", n.Bridge, n.Subnets[0])
	}
	return fmt.Sprintf(`table ip docker-bridges {
	map in { type ifname : verdict; }
	map out { type ifname : verdict; }
	map nat { type ifname : verdict; }
	chain filter-FORWARD {
		type filter hook forward priority filter; policy accept;
		oifname vmap @in
		iifname vmap @out
	}
	chain nat-POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		iifname vmap @nat
	}
	chain nat-PREROUTING {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local counter jump nat-prerouting-and-output
	}
	chain nat-OUTPUT {
		type nat hook output priority -100; policy accept;
		ip daddr != 127.0.0.0/8 fib daddr type local counter jump nat-prerouting-and-output
	}
	chain nat-prerouting-and-output {
		tcp dport 7778 counter dnat to %s
	}
	chain raw-PREROUTING {
		type filter hook prerouting priority raw; policy accept;
%s
	}
%s%s%s
}
add element ip docker-bridges in { %s }
add element ip docker-bridges out { %s }
add element ip docker-bridges nat { %s }
`, "10.244.1.4:80", raw.String(), inChains.String(), outChains.String(), natChains.String(), ins.String(), outs.String(), nats.String())
}

// useNftables has the engine of a host use nftables, until the test ends: there
// is nothing of it in iptables then.
func (w *world) useNftables(h *host, mark string) {
	w.t.Helper()
	h.sh(w.t, "nft delete table ip docker-bridges 2>/dev/null || true")
	h.sh(w.t, flush+"\nnft -f - <<'END'\n"+h.nftablesRules(mark)+"END\n")
	w.t.Cleanup(func() {
		h.sh(w.t, "nft delete table ip docker-bridges 2>/dev/null || true")
		h.must(w.t, func() error { return iptables(h.engineRules()) })
	})
}

// engineOfNftables: what passes by an engine that keeps its rules in nftables,
// where an accept of ours ends nothing.
func engineOfNftables(t *testing.T, w *world) {
	port := func(name string, n uint16) string { return netip.AddrPortFrom(w.names[name].addr, n).String() }
	w.useNftables(w.a, "")
	w.wide()
	w.repair()
	// A client on another bridge than the task is seen as itself, and answered.
	w.service("near", "10.96.0.51", publish("8001:80/tcp", "8001:80/udp"), "a1", "a2")
	w.reconcile()
	for _, network := range []string{"tcp", "udp"} {
		for _, from := range []string{"a4", "x2", "a"} {
			w.evenly(from, network, "10.96.0.51:80", w.seen(from, network), "a1", "a2")
		}
		for _, from := range []string{"a4", "x2", "a", "b2", "c1"} {
			w.evenly(from, network, vip+":80", netip.Addr{}, "a1", "b1", "c1")
		}
		for _, h := range w.hosts {
			w.evenly("client", network, h.at(8000), clientAddr, "a1", "b1", "c1")
			w.evenly("client", network, h.at(8001), clientAddr, "a1", "a2")
		}
		w.by("x2", network, port("a1", 80), "a1")
		w.by("b1", network, port("a4", 80), "a4")
	}
	w.by("client", "tcp", "192.168.88.11:7778", "a3") // docker run -p
	for _, to := range []string{"a1", "a3", "a4", "x1", "x2"} {
		w.unreached("client", port(to, 8080))
	}
	for _, from := range []string{"x1", "x2"} {
		w.unreached(from, port("a4", 80))
	}
	w.unreached("a4", port("x2", 80))

	w.a.sh(t, "nft list ruleset") // in any words, but without a failed assertion

	// Tasks on networks that are not the mesh's are the engine's to let in.
	w.useNftables(w.a, w.plane.Nftables)
	local := publish("8002:80/tcp")
	local.PublishLocal = true
	w.service("other", "10.96.0.52", local, "x1")
	w.reconcile()
	w.by("a4", "tcp", "10.96.0.52:80", "x1")
	w.by("a", "tcp", "10.96.0.52:80", "x1")
	w.by("client", "tcp", w.a.at(8002), "x1")
	w.unreached("client", port("x1", 80))
	w.unreached("a4", port("x2", 80))
}
