//go:build e2e

package fabric_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	. "shoal/fabric"
	"shoal/fabric/ipip"
	"shoal/fabric/vxlan"
)

func TestTheMarkOfAPacketDoesNotLeadItsTunnelIntoItself(t *testing.T) {
	for _, backend := range []Backend{VXLAN, IPIP} {
		t.Run(string(backend), func(t *testing.T) {
			w := newWorld(t, Options{Backend: backend})
			w.serveAll()
			w.reconcileAll()
			a := w.hosts["a"]
			dev := map[Backend]string{VXLAN: vxlan.Device, IPIP: ipip.Device}[backend]
			a.run("", "iptables", "-t", "mangle", "-A", "PREROUTING", "-s", a.addr.String(), "-j", "MARK", "--set-mark", "0x77")
			a.run("", "ip", "rule", "add", "fwmark", "0x77", "lookup", "77")
			a.run("", "ip", "route", "add", "default", "via", "10.2.0.3", "dev", dev, "onlink", "table", "77")
			w.reaches("a", "c")

			if backend == IPIP {
				return // the kernel looks its outer packet's route up without the mark
			}
			a.run("", "iptables", "-t", "mangle", "-F", chain)
			if _, _, err := a.container.ask("udp4", w.hosts["c"].addr.String(), 0, time.Second); err == nil {
				t.Error("works without the rule too: the test shows nothing")
			}
		})
	}
}

func TestOnlyHostsOfTheClusterAreTrusted(t *testing.T) {
	w := newWorld(t, Options{Backend: Auto})
	w.serveAll()
	w.reconcileAll()
	a, b, c := w.hosts["a"], w.hosts["b"], w.hosts["c"]
	tcp := func(s *space, to string) error {
		_, _, err := s.ask("tcp4", to, 0, time.Second)
		return err
	}
	// pretend gives somebody a container's address, for packets to one subnet.
	pretend := func(s *space, address, subnet, via string) {
		s.run("", "ip", "addr", "add", address+"/32", "dev", "lo")
		s.run("", "ip", "route", "replace", subnet, "via", via, "src", address)
	}
	count := func() string { return echoes(a.container) }

	if tcp(w.near, a.addr.String()) == nil {
		t.Error("somebody on the link reaches a container")
	}
	w.near.run("", "ip", "route", "replace", "10.244.1.0/24", "via", "10.1.0.1")
	if tcp(w.near, a.addr.String()) == nil {
		t.Error("somebody on the link reaches a container through its host")
	}
	// c is reached by vxlan, so nothing of its containers comes by eth0.
	before := count()
	pretend(w.near, "10.244.3.2", "10.244.1.0/24", "10.1.0.1")
	_ = w.near.ping(a.addr, 100, 300*time.Millisecond)
	if after := count(); after != before {
		t.Errorf("a packet from a container's address over the wrong device arrived: %s, %s", before, after)
	}
	a.run("", "ipset", "add", "SHOAL-FABRIC-LINKS", "10.244.3.0/24,eth0")
	_ = w.near.ping(a.addr, 100, 300*time.Millisecond)
	if count() == before {
		t.Error("it does not arrive where the device is right: the test shows nothing")
	}
	w.reconcileAll()
	before = count()
	// The same through the tunnel, from somebody who is no host.
	w.near.run("", "ip", "link", "add", "fake", "address", vxlan.VTEPMAC(hostC.Addr).String(), "type", "vxlan", "id", fmt.Sprint(vxlan.DefaultVNI),
		"dstport", fmt.Sprint(vxlan.DefaultPort), "local", "10.1.0.66", "nolearning")
	w.near.run("", "ip", "link", "set", "fake", "up")
	w.near.run("", "ip", "neigh", "add", "10.1.0.1", "lladdr", vxlan.VTEPMAC(hostA.Addr).String(), "dev", "fake")
	w.near.run("", "bridge", "fdb", "add", vxlan.VTEPMAC(hostA.Addr).String(), "dev", "fake", "dst", "10.1.0.1")
	w.near.run("", "ip", "route", "replace", "10.244.1.0/24", "via", "10.1.0.1", "dev", "fake", "onlink", "src", "10.244.3.2")
	_ = w.near.ping(a.addr, 100, 300*time.Millisecond)
	if after := count(); after != before {
		t.Errorf("a packet through the tunnel from no host of the cluster arrived: %s, %s", before, after)
	}
	a.run("", "iptables", "-F", chainIn)
	_ = w.near.ping(a.addr, 100, 300*time.Millisecond)
	if count() == before {
		t.Error("it does not arrive without the rule either: the test shows nothing")
	}
	// Bridges of one host stay apart.
	if tcp(b.other, b.addr.String()) == nil || tcp(b.container, "172.30.0.2") == nil {
		t.Error("containers on two networks of a host reach each other")
	}
	if tcp(c.container, "172.30.0.2") == nil {
		t.Error("a container reaches another host's other network")
	}
}

// echoes is how many echo requests have come to a namespace.
func echoes(s *space) (n string) {
	s.t.Helper()
	for line := range strings.Lines(s.run("", "cat", "/proc/net/snmp")) {
		if f := strings.Fields(line); f[0] == "Icmp:" {
			n = f[9] // InEchos, of the last line
		}
	}
	return n
}
