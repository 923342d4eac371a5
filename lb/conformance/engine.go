package conformance

import (
	"fmt"
	"strings"
)

// engineRules are what a Docker engine, from 28 on, and a firewall that drops
// what it does not know have on a host, in the form of iptables-restore(8).
// Port 7777 is one that the engine itself publishes.
func (h *host) engineRules() string {
	var raw, nat, filter strings.Builder
	for _, c := range h.containers {
		fmt.Fprintf(&raw, "-A PREROUTING -d %s ! -i %s -j DROP\n", c.addr, c.bridge)
	}
	for _, n := range h.nets {
		fmt.Fprintf(&nat, "-A POSTROUTING -s %s ! -o %s -j MASQUERADE\n", n.Subnets[0], n.Bridge)
		fmt.Fprintf(&filter, "-A ISOLATION-1 -i %s ! -o %[1]s -j ISOLATION-2\n-A ISOLATION-2 -o %[1]s -j DROP\n", n.Bridge)
		fmt.Fprintf(&filter, "-A FORWARD -o %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -i %[1]s ! -o %[1]s -j ACCEPT\n-A FORWARD -i %[1]s -o %[1]s -j ACCEPT\n", n.Bridge)
	}
	return fmt.Sprintf(`*raw
:PREROUTING ACCEPT
%s
COMMIT
*mangle
:PREROUTING ACCEPT
:INPUT ACCEPT
:FORWARD ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT
:INPUT ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
:DOCKER -
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER -p tcp --dport 7777 -j DNAT --to-destination 10.244.1.99:7777
%s
COMMIT
*filter
:INPUT DROP
:FORWARD DROP
:OUTPUT ACCEPT
:DOCKER-USER -
:ISOLATION-1 -
:ISOLATION-2 -
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -j DOCKER-USER
-A FORWARD -j ISOLATION-1
%s
COMMIT
`, raw.String(), nat.String(), filter.String())
}

// flush has no rule of iptables on the host, as the restart of a firewall does.
const flush = `for t in raw mangle nat filter; do iptables -t $t -F; iptables -t $t -X; done
iptables -P INPUT ACCEPT; iptables -P FORWARD ACCEPT`

// edit has rules of others there until the test ends: "TABLE -A CHAIN …", or -I
// for the first one; with -D, not there.
func (w *world) edit(h *host, rules ...string) {
	w.t.Helper()
	other := strings.NewReplacer(" -A ", " -D ", " -I ", " -D ", " -D ", " -A ")
	put := func(rule string) error {
		table, rule, _ := strings.Cut(rule, " ")
		return iptables("*" + table + "\n" + rule + "\nCOMMIT\n")
	}
	for _, r := range rules {
		h.must(w.t, func() error { return put(r) })
		w.t.Cleanup(func() {
			if err := h.do(func() error { return put(other.Replace(r)) }); err != nil {
				w.t.Error(err)
			}
		})
	}
}
