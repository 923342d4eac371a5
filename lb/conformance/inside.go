package conformance

import (
	"net/netip"
	"testing"
)

var insideTests = []test{
	{"ClientsInsideTheClusterAreServedByEveryTask", inside, true},
	{"AHostsOwnProcessesReachItsPublishedPorts", ownProcesses, true},
	{"ATaskReachesItselfByAPublishedPort", publishedHairpin, true},
	{"PortsOfTheLoopbackAddressAreClosedToTheLink", loopback, false},
}

func inside(t *testing.T, w *world) {
	w.wide()
	for _, from := range []string{"a4", "x2", "b2", "a", "b", "c"} { // containers of both kinds of network, and hosts
		for _, network := range []string{"tcp", "udp"} {
			for _, h := range w.hosts {
				w.evenly(from, network, h.at(8000), netip.Addr{}, "a1", "b1", "c1")
			}
		}
	}
}

func ownProcesses(t *testing.T, w *world) {
	w.wide()
	for _, h := range w.hosts {
		for _, network := range []string{"tcp", "udp"} {
			for _, to := range []string{"127.0.0.1", h.node.Subnet.Addr().Next().String(), h.addr.String()} {
				w.evenly(h.name, network, to+":8000", netip.Addr{}, "a1", "b1", "c1")
			}
		}
	}
	for _, network := range []string{"tcp", "udp"} {
		w.evenly("a4", network, "10.244.1.1:8000", netip.Addr{}, "a1", "b1", "c1") // its gateway
	}
}

func publishedHairpin(t *testing.T, w *world) {
	w.wide()
	for _, task := range []string{"a1", "b1", "c1"} {
		for _, network := range []string{"tcp", "udp"} {
			for _, h := range w.hosts {
				w.evenly(task, network, h.at(8000), netip.Addr{}, "a1", "b1", "c1")
			}
		}
	}
}

// loopback has a neighbour who sends to host a what is for 127.0.0.1, and to the
// plane's own addresses.
func loopback(t *testing.T, w *world) {
	w.listen("a", "127.0.0.1:6000")
	w.edit(w.a, "filter -I INPUT -p tcp --dport 6000 -j ACCEPT", "filter -I INPUT -p tcp --dport 9000 -j ACCEPT")
	w.service("web", "", publish("127.0.0.1:9000:80/tcp"), "a1")
	w.reconcile()
	w.by("a", "tcp", "127.0.0.1:9000", "a1")
	stranger := w.join("stranger", netip.MustParseAddr("192.168.88.9"), netip.Addr{}, nil)
	t.Cleanup(func() {
		w.wire.sh(t, "ip link del stranger")
		stranger.close()
		delete(w.names, "stranger")
	})
	stranger.set(t, "1", "net/ipv4/conf/all/route_localnet")
	stranger.sh(t, "ip addr del 127.0.0.1/8 dev lo")
	for _, to := range append([]netip.Addr{netip.MustParseAddr("127.0.0.1")}, w.plane.Inner...) {
		stranger.sh(t, "ip route add "+to.String()+" via 192.168.88.11 src 192.168.88.9")
		for _, port := range []uint16{9000, 6000, 80} {
			w.unreached("stranger", netip.AddrPortFrom(to, port).String())
		}
	}
}
