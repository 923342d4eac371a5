package dnsd

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

// TestATakenPortIsNoEnd has other processes' sockets on all addresses, over UDP, TCP
// or both, as dnsmasq and Unbound have them on port 53.
func TestATakenPortIsNoEnd(t *testing.T) {
	take := func(t *testing.T, network, addr string) {
		t.Helper()
		switch network {
		case "udp", "udp4":
			c, err := net.ListenPacket(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
		default:
			l, err := net.Listen(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}
	}
	for _, test := range []struct{ udp, tcp string }{
		{"0.0.0.0", "0.0.0.0"}, {"[::]", "[::]"}, {"0.0.0.0", ""}, {"", "0.0.0.0"}, {"127.0.0.7", ""},
	} {
		t.Run(test.udp+" "+test.tcp, func(t *testing.T) {
			at, spare := free(t, ip("127.0.0.7")), free(t, ip("127.0.0.7"))
			for network, host := range map[string]string{"udp": test.udp, "tcp": test.tcp} {
				if host != "" {
					take(t, network, host+":"+portOf(at))
				}
			}
			o := options()
			o.Listen = []netip.AddrPort{at}
			s := unstarted(t, o)
			if err := s.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
				t.Errorf("without another port to go to: %v", err)
			}

			o.SparePort = spare.Port()
			s = unstarted(t, o)
			if err := s.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := s.Displaced()[at]; got != spare.Port() || len(s.Displaced()) != 1 {
				t.Errorf("displaced are %v, want %s at %d", s.Displaced(), at, spare.Port())
			}
			for _, transport := range []string{"+notcp", "+tcp"} {
				mustContain(t, askAt(t, spare, "dig", transport, "+short", "web.mesh.internal"), "10.96.1.1")
			}
			if !s.isOwn(at) || !s.isOwn(spare) {
				t.Error("where it is asked, or where it answers, could be an upstream")
			}

			// A second one finds both taken.
			second := unstarted(t, o)
			if err := second.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			port := second.Displaced()[at]
			if port == 0 || port == at.Port() || port == spare.Port() {
				t.Errorf("with both taken it is on port %d", port)
			}
			mustContain(t, askAt(t, netip.AddrPortFrom(at.Addr(), port), "dig", "+short", "web.mesh.internal"), "10.96.1.1")
		})
	}
}

func portOf(a netip.AddrPort) string {
	_, port, _ := net.SplitHostPort(a.String())
	return port
}

func TestAFreePortIsKept(t *testing.T) {
	o := options()
	o.SparePort = free(t, ip("127.0.0.1")).Port()
	s := started(t, o)
	if len(s.Displaced()) != 0 || s.Addrs()[0] != o.Listen[0] {
		t.Errorf("it is on %v, displaced are %v", s.Addrs(), s.Displaced())
	}
}
