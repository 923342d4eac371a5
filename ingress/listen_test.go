package ingress

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"shoal/kernel/rules"
	"shoal/kernel/sockets"
	"shoal/lb"
	"shoal/model"
)

func TestOccupy(t *testing.T) {
	pool := netip.MustParsePrefix("10.96.0.0/16")
	listens := func(proto model.Protocol, addr string) []sockets.Listener {
		return []sockets.Listener{{Protocol: proto, Addr: netip.MustParseAddrPort(addr)}}
	}
	for _, test := range []struct {
		name      string
		addrs     []netip.Addr
		listeners []sockets.Listener
		rule      string
		want      bool
	}{
		{name: "nobody"},
		{name: "everywhere", listeners: listens(model.TCP, "0.0.0.0:80"), want: true},
		{name: "everywhere, by IPv6", listeners: listens(model.TCP, "[::]:80"), want: true},
		{name: "everywhere, by IPv6 alone", listeners: []sockets.Listener{{Protocol: model.TCP, Addr: netip.MustParseAddrPort("[::]:80"), V6Only: true}}},
		{name: "on an address of IPv6", listeners: listens(model.TCP, "[::1]:80")},
		{name: "on one address", listeners: listens(model.TCP, "127.0.0.53:80"), want: true},
		{name: "on a VIP", listeners: listens(model.TCP, "10.96.0.10:80")},
		{name: "another port", listeners: listens(model.TCP, "0.0.0.0:81")},
		{name: "another protocol", listeners: listens(model.UDP, "0.0.0.0:80")},
		{name: "on the wanted address", addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, listeners: listens(model.TCP, "127.0.0.1:80"), want: true},
		{name: "on another than the wanted address", addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, listeners: listens(model.TCP, "192.0.2.1:80")},
		{name: "Docker's rule", rule: "! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80", want: true},
		{name: "Docker's rule for one address", rule: "-d 127.0.0.1/32 ! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80", want: true},
		{name: "Docker's rule for another address", addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, rule: "-d 127.0.0.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80"},
		{name: "a rule for a range", rule: "-p tcp -m tcp --dport 79:81 -j REDIRECT --to-ports 8080", want: true},
		{name: "a rule for several", rule: "-p tcp -m multiport --dports 22,80 -j DNAT --to-destination 172.17.0.2", want: true},
		{name: "a rule for all but one", rule: "-p tcp -m tcp ! --dport 80 -j DNAT --to-destination 172.17.0.2"},
		{name: "a rule for another protocol", rule: "-p udp -m udp --dport 80 -j DNAT --to-destination 172.17.0.2:80"},
		{name: "a rule that sends nothing elsewhere", rule: "-p tcp -m tcp --dport 80 -j RETURN"},
		{name: "a rule for everything", rule: "-j DNAT --to-destination 172.17.0.2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			state := rules.State{"nat": {"DOCKER": {test.rule}, "SHOAL-IN": {"-p tcp --dport 80 -j DNAT --to-destination 169.254.83.1"}}}
			who, got := occupy(lb.Key{Protocol: model.TCP, Port: 80}, test.addrs, pool, test.listeners, redirects(state), func(sockets.Listener) bool { return true })
			if got != test.want {
				t.Errorf("occupied by %v: %t, want %t", who, got, test.want)
			}
		})
	}
}

// TestProcessesAreLookedForOnce, however many ports are taken; and not at all where rules take them.
func TestProcessesAreLookedForOnce(t *testing.T) {
	var fs []*lb.Frontend
	var ls []sockets.Listener
	for n := range uint16(100) {
		fs = append(fs, &lb.Frontend{Key: lb.Key{Protocol: model.TCP, Port: 8000 + n}, Service: model.ServiceID{Stack: "s", Name: "web"}})
		if n < 50 {
			ls = append(ls, sockets.Listener{Protocol: model.TCP, Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), 8000+n), Inode: 1000 + uint32(n)})
		}
	}
	looked := 0
	look := func(inodes map[uint32]bool) map[uint32]string {
		looked++
		names := map[uint32]string{}
		for i := range inodes {
			if i != 1049 {
				names[i] = fmt.Sprintf("nginx (pid %d)", i)
			}
		}
		return names
	}
	pool := netip.MustParsePrefix("10.96.0.0/16")
	rule := redirect{model.TCP, netip.IPv4Unspecified(), 8050, 8059, "-A DOCKER …"}
	errs := occupied(fs, pool, ls, []redirect{rule}, nil, look)
	if looked != 1 {
		t.Errorf("it was looked %d times", looked)
	}
	if len(errs) != 60 {
		t.Errorf("%d ports are taken, want 60", len(errs))
	}
	for n, says := range map[uint16]string{8007: "nginx (pid 1007) listens on 0.0.0.0:8007", 8049: "a process listens on 0.0.0.0:8049", 8055: "DOCKER"} {
		if err := errs[lb.Key{Protocol: model.TCP, Port: n}]; err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("port %d: %v, want %q", n, err, says)
		}
	}
	if errs := occupied(fs, pool, nil, []redirect{rule}, nil, look); len(errs) != 10 || looked != 1 {
		t.Errorf("for rules alone it was looked too; %d ports are taken", len(errs))
	}
}
