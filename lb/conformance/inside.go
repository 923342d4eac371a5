package conformance

import (
	"net/netip"
	"testing"
)

var insideTests = []test{
	{"ClientsInsideTheClusterAreServedByEveryTask", inside, true},
	{"AHostsOwnProcessesReachItsPublishedPorts", ownProcesses, true},
	{"ATaskReachesItselfByAPublishedPort", publishedHairpin, true},
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
