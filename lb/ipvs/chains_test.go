package ipvs

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"shoal/kernel/rules"
	"shoal/lb"
	"shoal/model"
)

var pool = netip.MustParsePrefix("10.96.0.0/16")

func testOptions() *Options {
	return &Options{PlaneOptions: lb.PlaneOptions{Pool: pool, DNS: netip.MustParseAddr("10.96.0.10"), DNSPeers: netip.MustParseAddr("10.96.0.11")}}
}

func TestRulesAreAsManyForAnyNumberOfServices(t *testing.T) {
	n := 0
	for _, c := range vipChains(testOptions(), &lb.Base{Self: model.Node{Subnet: netip.MustParsePrefix("10.244.1.0/24")}, Alone: true}) {
		n += len(c.Rules) + len(c.From)
	}
	if n != 38 {
		t.Errorf("%d rules, and doc.go says 38", n)
	}
}

// TestTakenPortOfDNSIsLedElsewhere: what is sent to port 53 reaches the server on its other port, and nothing else of the
// host is let in.
func TestTakenPortOfDNSIsLedElsewhere(t *testing.T) {
	vip, bridge := netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("10.244.1.1")
	base := &lb.Base{Self: model.Node{Subnet: netip.MustParsePrefix("10.244.1.0/24")}, Alone: true,
		DNSPorts: map[netip.Addr]uint16{vip: 10053, bridge: 10054}}
	n := 0
	text := map[string]string{}
	for _, c := range vipChains(testOptions(), base) {
		n += len(c.Rules) + len(c.From)
		text[c.Table+" "+c.Name] = strings.Join(c.Rules, "\n")
	}
	if n != 38+6 {
		t.Errorf("%d rules, and doc.go says 44", n)
	}
	for chain, want := range map[string]string{
		"nat SHOAL-VIP": "-d 10.96.0.10 -p udp --dport 53 -j DNAT --to-destination 10.96.0.10:10053\n" +
			"-d 10.96.0.10 -p tcp --dport 53 -j DNAT --to-destination 10.96.0.10:10053\n-j ACCEPT",
		"nat SHOAL-DNS": "-d 10.244.1.1 -p udp --dport 53 -j DNAT --to-destination 10.244.1.1:10054\n" +
			"-d 10.244.1.1 -p tcp --dport 53 -j DNAT --to-destination 10.244.1.1:10054",
		"filter SHOAL-DNS": "-p udp --dport 10054 -m set --match-set SHOAL-CLUSTER src -j ACCEPT\n-p tcp --dport 10054 -m set --match-set SHOAL-CLUSTER src -j ACCEPT",
	} {
		if text[chain] != want {
			t.Errorf("%s:\n%s\nwant:\n%s", chain, text[chain], want)
		}
	}
	if vip := text["filter SHOAL-VIP"]; !strings.Contains(vip, "-d 10.96.0.10 -p udp --dport 10053 -j ACCEPT") || strings.Contains(vip, "dport 53 ") {
		t.Errorf("what is let in:\n%s", vip)
	}
}

func TestRulesAreAsManyForAnyNumberOfHosts(t *testing.T) {
	count := func(hosts int) (n int) {
		base, between := &lb.Base{}, &lb.Between{}
		for i := range hosts {
			a := netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
			base.Peers = append(base.Peers, lb.Peer{Number: uint16(i + 1), Addr: a, MACs: []model.MAC{{2, 0, 0, 0, byte(i >> 8), byte(i)}}})
			base.Guard.Trusted, between.Hosts = append(base.Guard.Trusted, a), append(between.Hosts, a)
		}
		for _, c := range slices.Concat(hostChains(testOptions(), base), betweenChains(between)) {
			n += len(c.Rules) + len(c.From)
		}
		return n
	}
	if none, many := count(0), count(1000); none != many {
		t.Errorf("%d rules without another host, %d with 1000", none, many)
	}
}

func TestEveryChainIsOneThatPackageRulesKeeps(t *testing.T) {
	host := slices.Concat(guardChains(testOptions(), new(lb.Guard)), vipChains(testOptions(), new(lb.Base)), meshChains(pool), betweenChains(new(lb.Between)))
	for _, chains := range [][]rules.Chain{host, sandboxChains()} {
		seen := map[string]bool{}
		for _, c := range chains {
			if !strings.HasPrefix(c.Name, rules.Prefix) || len(c.Name) > 26 {
				t.Errorf("chain %s", c.Name)
			}
			if seen[c.Table+c.Name] {
				t.Errorf("chain %s is in table %s twice", c.Name, c.Table)
			}
			seen[c.Table+c.Name] = true
		}
		for _, c := range chains {
			for _, r := range c.Rules {
				if i := strings.Index(r, "-j SHOAL-"); i >= 0 && !seen[c.Table+r[i+3:]] {
					t.Errorf("rule %q jumps to no chain of the table %s", r, c.Table)
				}
			}
		}
	}
}

func TestRepliesAreMarkedOtherwiseThanConnections(t *testing.T) {
	text := map[string]string{}
	for _, c := range meshChains(pool) {
		text[c.Table+" "+c.Name] = strings.Join(c.Rules, "\n")
	}
	for chain, want := range map[string]string{
		"mangle SHOAL-IN-PEERS": "-m mark --mark 0x54000000/0xff000000 -j CONNMARK --save-mark --nfmask 0xff00ffff --ctmask 0xff00ffff",
		"mangle SHOAL-IN-REPLY": "-j CONNMARK --restore-mark --nfmask 0xffff --ctmask 0xffff\n-j MARK --set-xmark 0x55000000/0xff000000",
		"mangle SHOAL-IN-POST":  "-m mark --mark 0x54000000/0xfe000000 -j MARK --set-xmark 0x0/0xff00ffff",
		"nat SHOAL-IN-POST":     "-m connmark --mark 0x54000000/0xff000000 -j ACCEPT",
	} {
		if !strings.Contains(text[chain], want) {
			t.Errorf("%s:\n%s\nwant in it: %s", chain, text[chain], want)
		}
	}
}

func TestTunnelsAreOpenToHostsOfTheClusterOnly(t *testing.T) {
	for _, c := range betweenChains(&lb.Between{Own: netip.MustParsePrefix("10.244.1.0/24"), Tunnels: []lb.Tunnel{{Protocol: 17, Port: 4789}, {Protocol: 4}}}) {
		if c.Name != "SHOAL-FABRIC-IN" {
			continue
		}
		want := []string{
			"-p udp --dport 4789 -m set --match-set SHOAL-FABRIC-HOSTS src -j ACCEPT", "-p udp --dport 4789 -j DROP",
			"-p 4 -m set --match-set SHOAL-FABRIC-HOSTS src -j ACCEPT", "-p 4 -j DROP",
		}
		if !slices.Equal(c.Rules, want) {
			t.Errorf("%q, want %q", c.Rules, want)
		}
	}
}
