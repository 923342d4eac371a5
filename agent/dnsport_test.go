package agent

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"shoal/dnsd"
	"shoal/kernel/sockets"
	"shoal/model"
)

func TestWhoHasPort53IsNamed(t *testing.T) {
	listens := func(proto model.Protocol, at string, inode uint32) sockets.Listener {
		return sockets.Listener{Protocol: proto, Addr: netip.MustParseAddrPort(at), Inode: inode}
	}
	names := map[uint32]string{1: "dnsmasq (pid 7)", 2: "dnsmasq (pid 7)", 3: "unbound (pid 8)"}
	for _, test := range []struct {
		listeners []sockets.Listener
		err       error
		want      string
	}{
		{nil, nil, ""},
		{[]sockets.Listener{listens(model.UDP, "0.0.0.0:53", 1), listens(model.TCP, "0.0.0.0:53", 2)}, nil, "dnsmasq (pid 7) listens on 0.0.0.0:53/tcp and 0.0.0.0:53/udp"},
		{[]sockets.Listener{listens(model.UDP, "10.96.0.10:53", 3), listens(model.UDP, "[::]:53", 1)}, nil, "dnsmasq (pid 7) listens on [::]:53/udp, unbound (pid 8) listens on 10.96.0.10:53/udp"},
		{[]sockets.Listener{listens(model.UDP, "127.0.0.53:53", 3)}, nil, ""},
		{[]sockets.Listener{listens(model.UDP, "0.0.0.0:53", 9)}, nil, "another process listens on 0.0.0.0:53/udp"},
		{[]sockets.Listener{listens(model.UDP, "0.0.0.0:53", 3), listens(model.UDP, "0.0.0.0:53", 3)}, nil, "unbound (pid 8) listens on 0.0.0.0:53/udp"},
		{nil, errors.New("no udp_diag"), "another process has the port (who, is not known: no udp_diag)"},
	} {
		h := portHolders{listeners: test.listeners, names: names, err: test.err}
		if got := h.of(netip.MustParseAddr("10.96.0.10")); got != test.want {
			t.Errorf("%v: %q, want %q", test.listeners, got, test.want)
		}
	}
}

// TestHoldersOfPort53AreFound has this process take the port, in a network namespace where nobody else has it.
func TestHoldersOfPort53AreFound(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("this test makes a network namespace: run it as root (%v)", err)
	}
	defer ns.Close()
	at := netip.MustParseAddrPort("10.96.0.10:53")
	c, err := net.ListenPacket("udp4", "0.0.0.0:53")
	if err != nil {
		t.Fatal(err)
	}
	dns, err := dnsd.New(dnsd.Options{Zone: "mesh.internal", Listen: []netip.AddrPort{at}, SparePort: spareDNSPort, Pool: netip.MustParsePrefix("10.96.0.0/16")})
	if err != nil {
		t.Fatal(err)
	}
	defer dns.Shutdown()
	if err := dns.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := &Agent{dns: dns}
	if port := a.dnsPorts()[at.Addr()]; port == 0 || port == 53 {
		t.Fatalf("the ports are %v", a.dnsPorts())
	}
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	again, ps := a.dnsPortProblems()
	if len(ps) != 1 || again == 0 || ps[0].Code != model.DNSPortTaken || !ps[0].Notice || ps[0].Object != at.String() ||
		!strings.HasPrefix(ps[0].Reason, strings.TrimSpace(string(comm))+" (pid ") || !strings.Contains(ps[0].Reason, "listens on 0.0.0.0:53/udp") {
		t.Errorf("looks again in %s; problems %+v", again, ps)
	}
	c.Close()
	a.holders.looked = time.Time{} // as if the period had passed
	if again, ps := a.dnsPortProblems(); len(ps) > 0 || again == 0 {
		t.Errorf("with the port free: looks again in %s; problems %+v", again, ps)
	}
	if len(a.dnsPorts()) == 0 {
		t.Error("the address is taken back while who had it may be starting anew")
	}
}
