//go:build e2e

package ipvs

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"shoal/lb"
	"shoal/lb/conformance"
	"shoal/lb/host"
)

// with gives each host of the suite a sandbox of its own.
func with(o lb.PlaneOptions) Options {
	return Options{PlaneOptions: o, Netns: o.StateDir + "-netns"}
}

func TestConformance(t *testing.T) {
	in := func(command string) string { return "nsenter --net=$STATE-netns sh -ec '" + command + "'" }
	conformance.Run(t, conformance.Plane{
		New: func(o lb.PlaneOptions) (lb.DataPlane, error) { return New(with(o)) },
		Down: func(ctx context.Context, o lb.PlaneOptions) error {
			return errors.Join(host.DropRoute(), Down(ctx, with(o)), host.Down(o.StateDir))
		},
		State: "[ -e $STATE-netns ] && " + in(`iptables-save | sed "s/\[[0-9:]*\]//;/^#/d"; ipset save | sort | sed "s/ initval [^ ]*//"
			ipvsadm-save -n | sort; ip route; ip -4 -o addr | cut -d" " -f2-7`) + "; true",
		Inner:  []netip.Addr{sandboxAddr, hostAddr},
		Direct: "IPVS recognises a reply by its two ends, and takes that of a direct connection for one of a connection to the VIP that it remembers",
		Breaks: []conformance.Break{
			conformance.Command("a rule deleted", "iptables -t mangle -S | grep '^-A SHOAL' | head -n 1 | sed 's/^-A/-D/' | xargs iptables -t mangle", false),
			conformance.Command("chains deleted", "iptables -t mangle -F; iptables -t mangle -X", false),
			conformance.Command("the route deleted", "ip route del local 10.96.0.0/16 dev lo", true),
			conformance.Command("services deleted", "ipvsadm -C", false),
			conformance.Command("another scheduler", `ipvsadm-save -n | sed -n 's/^-A \(-f [0-9]*\) .*/ipvsadm -E \1 -s lc/p' | sh`, false),
			conformance.Command("other weights", `ipvsadm-save -n | grep -- '^-a' | sed 's/^-a/ipvsadm -e/;s/-w 1/-w 0/' | sh`, false),
			conformance.Command("sets emptied", "for s in $(ipset list -n); do ipset flush $s; done", false),
			conformance.Command("wrong marks", "ipset add SHOAL-VIP 10.96.0.50 skbmark 0x7 -exist; ipset add SHOAL-VIP 10.96.9.9 skbmark 0x8", false),
			conformance.Command("wrong marks of hosts", "ipset save SHOAL-IN-SENDERS | sed -n 's/ skbmark .*/ skbmark 0x54000063 -exist/p' | ipset restore;"+
				"ipset add SHOAL-IN-OUTERS 192.0.2.9 skbmark 0x54000063", false),
			// As versions before these sets left them: two rules for each address.
			conformance.Command("an earlier version's rules", "for t in raw mangle; do iptables -t $t -F SHOAL-IN-PEERS; done; iptables -t mangle -F SHOAL-IN-OUTER;"+
				"ipset destroy SHOAL-IN-SENDERS; ipset destroy SHOAL-IN-OUTERS;"+
				"iptables -t raw -A SHOAL-IN-PEERS -m mac --mac-source 02:00:00:00:00:63 -j ACCEPT;"+
				"iptables -t mangle -A SHOAL-IN-PEERS -m mac --mac-source 02:00:00:00:00:63 -j CONNMARK --set-xmark 0x54000063/0xff00ffff;"+
				"iptables -t mangle -A SHOAL-IN-OUTER -s 192.0.2.9 -j MARK --set-xmark 0x54000063/0xff00ffff", false),
			conformance.Command("IPVS' parameters", "sysctl -qw net.ipv4.vs.conntrack=0; ipvsadm --set 900 0 0", false),
			conformance.Command("the sandbox's link deleted", "ip link del "+hostDev, true),
			conformance.Command("strict reverse paths", "sysctl -qw net.ipv4.conf."+hostDev+".rp_filter=1", false),
			conformance.Command("the sandbox deleted", "umount -l $STATE-netns", false),
			conformance.Command("the sandbox's rules deleted", in("iptables -t nat -F; iptables -t mangle -F"), false),
			conformance.Command("the sandbox's sets emptied", in("for s in $(ipset list -n); do ipset flush $s; done"), false),
			conformance.Command("the sandbox's route deleted", in("ip route del default"), false),
			conformance.Command("the sandbox's services deleted", in("ipvsadm -C"), false),
		},
	})
}
