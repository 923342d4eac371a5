package dnsd

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"
)

// TestInItsPlace runs the server as an agent does, in a network namespace of
// its own: on the DNS VIP, bound before that address exists, with a resolver
// on 127.0.0.53 named by resolv.conf.
func TestInItsPlace(t *testing.T) {
	const inside = "DNSD_TEST_IN_NAMESPACE"
	if os.Getenv(inside) == "" {
		if os.Geteuid() != 0 {
			t.Fatal("this test makes a network namespace: run it as root")
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestInItsPlace$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Fatalf("in a namespace: %v\n%s", err, out)
		}
		return
	}

	run := func(args ...string) {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run("link", "set", "lo", "up")
	pc, err := net.ListenPacket("udp4", "127.0.0.53:53")
	if err != nil {
		t.Fatal(err)
	}
	resolved := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		w.WriteMsg(replyTo(m, "example.com. 60 IN A 192.0.2.1"))
	})}
	go resolved.ActivateAndServe()
	defer resolved.Shutdown()

	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.53\noptions edns0 trust-ad\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := options()
	o.Listen = []netip.AddrPort{netip.MustParseAddrPort("10.96.0.10:53"), netip.MustParseAddrPort("[fd00:96::10]:53")}
	o.Upstreams, o.ResolvConf = nil, conf
	s := started(t, o)

	run("route", "add", "local", "10.96.0.0/16", "dev", "lo")
	run("-6", "route", "add", "local", "fd00:96::/64", "dev", "lo")
	for range 10 { // however the kernel spreads clients over the sockets
		mustContain(t, ask(t, s, "dig", "web"), "10.96.1.1")
	}
	mustContain(t, ask(t, s, "dig", "+tcp", "web"), "10.96.1.1")
	mustContain(t, ask(t, s, "dig", "example.com"), "192.0.2.1")
	mustContain(t, ask(t, s, "dig", "mesh.internal", "A"), "mesh.internal. 5 IN A 10.96.0.10")

	mustContain(t, askAt(t, o.Listen[1], "dig", "web"), "10.96.1.1")
	mustContain(t, askAt(t, o.Listen[1], "dig", "+tcp", "web"), "10.96.1.1")
	mustContain(t, askAt(t, o.Listen[1], "dig", "mesh.internal", "AAAA"), "mesh.internal. 5 IN AAAA fd00:96::10")

	again, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Shutdown()
	if err := again.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "10.96.0.10:53/tcp") {
		t.Errorf("a second server on the same address: %v", err)
	}
}
