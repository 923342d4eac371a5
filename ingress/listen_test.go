package ingress

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"shoal/catalog"
	"shoal/kernel/rules"
)

func TestOccupy(t *testing.T) {
	pool := netip.MustParsePrefix("10.96.0.0/16")
	listens := func(proto catalog.Protocol, addr string) []listener {
		return []listener{{proto: proto, addr: netip.MustParseAddrPort(addr)}}
	}
	for _, test := range []struct {
		name      string
		addrs     []netip.Addr
		listeners []listener
		rule      string
		want      bool
	}{
		{name: "nobody"},
		{name: "everywhere", listeners: listens(catalog.TCP, "0.0.0.0:80"), want: true},
		{name: "everywhere, by IPv6", listeners: listens(catalog.TCP, "[::]:80"), want: true},
		{name: "on one address", listeners: listens(catalog.TCP, "127.0.0.53:80"), want: true},
		{name: "on a VIP", listeners: listens(catalog.TCP, "10.96.0.10:80")},
		{name: "another port", listeners: listens(catalog.TCP, "0.0.0.0:81")},
		{name: "another protocol", listeners: listens(catalog.UDP, "0.0.0.0:80")},
		{name: "on the wanted address", addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, listeners: listens(catalog.TCP, "127.0.0.1:80"), want: true},
		{name: "on another than the wanted address", addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, listeners: listens(catalog.TCP, "192.0.2.1:80")},
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
			who, got := occupy(port{catalog.TCP, 80}, test.addrs, pool, test.listeners, redirects(state))
			if got != test.want {
				t.Errorf("occupied by %v: %t, want %t", who, got, test.want)
			}
		})
	}
}

func TestListenersAreFoundWithTheirProcess(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	// A connection from the port is not one that waits for clients on it.
	c, err := net.Dial("tcp4", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ls, err := listeners(map[catalog.Protocol]bool{catalog.TCP: true})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, l := range ls {
		if l.addr.Port() == c.LocalAddr().(*net.TCPAddr).AddrPort().Port() {
			t.Errorf("a connected socket was listed: %v", l)
		}
		if l.addr != at {
			continue
		}
		found = true
		if who := (occupant{listener: l}).String(); !strings.Contains(who, myself(t)) || !strings.HasSuffix(who, "listens on "+at.String()) {
			t.Errorf("occupant %q", who)
		}
	}
	if !found {
		t.Errorf("%s is not among %v", at, ls)
	}
}

// myself is how this process is named among those of the host.
func myself(t *testing.T) string {
	t.Helper()
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(name)) + " (pid "
}
