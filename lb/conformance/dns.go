package conformance

import (
	"net/netip"
	"testing"
)

var dnsTests = []test{
	{"TheHostAnswersDNSOnItsAddress", hostDNS, false},
	{"OtherHostsAnswerOnTheSecondDNSAddress", secondDNS, false},
	{"OtherHostsReachTheDNSServerAndNobodyElseDoes", dnsServer, true},
	{"NobodyIsToldThatTheOnlyDNSServerIsAway", dnsAway, false},
}

func hostDNS(t *testing.T, w *world) {
	w.listen("a", "10.96.0.10:53")
	w.reconcile()
	for _, network := range []string{"tcp", "udp"} {
		for _, from := range []string{"a4", "x2", "a"} {
			w.by(from, network, "10.96.0.10:53", "a")
		}
		a, err := w.names["a4"].ask(network, "10.96.0.10:53")
		if err != nil || a.client != w.names["a4"].addr {
			t.Errorf("%s: the server saw %s, %v, want the client", network, a.client, err)
		}
	}
}

// The second address leads to the others' servers, at the first address of
// their containers' subnet.
func secondDNS(t *testing.T, w *world) {
	w.nodes = w.hosts[:2]
	w.listen("a", "10.96.0.10:53")
	w.listen("b", "10.244.2.1:53")
	w.start(w.hosts[1])
	w.up = w.nodes
	answers := func(want string) {
		t.Helper()
		for _, network := range []string{"udp", "tcp"} {
			for _, from := range []string{"a4", "x2", "a"} {
				w.by(from, network, "10.96.0.11:53", want)
			}
		}
	}
	w.reconcile()
	answers("b")
	w.dead["b"] = true
	w.reconcile()
	answers("a")
	w.dead["b"] = false
	w.reconcile()
	answers("b")
	for _, network := range []string{"tcp", "udp"} {
		w.refused("a4", network, "10.96.0.11:80")
	}
	w.nothingWritten(w.a, true, "with a second DNS address")
	w.a.must(t, func() error {
		stats, err := w.a.balancer.Stats()
		if len(stats) > 0 {
			t.Errorf("the DNS address is among the services: %+v", stats)
		}
		return err
	})
}

func dnsServer(t *testing.T, w *world) {
	w.nodes = w.hosts[:1]
	w.listen("a", "10.244.1.1:53")
	w.listen("a", "10.244.1.1:54")
	w.reconcile()
	w.silent("b", "10.244.1.1:53") // not of the cluster so far
	w.nodes = w.hosts
	w.reconcile()
	for _, network := range []string{"tcp", "udp"} {
		for _, from := range []string{"b", "b1", "c1"} {
			w.by(from, network, "10.244.1.1:53", "a")
		}
	}
	w.silent("client", "10.244.1.1:53")
	w.silent("b", "10.244.1.1:54") // another port
}

// While the agent is away resolvers hear nothing, rather than that there is no
// server; unless there is another one to go on to.
func dnsAway(t *testing.T, w *world) {
	w.nodes = w.hosts[:1]
	w.edit(w.a, "filter -A INPUT -i mesh -j ACCEPT")
	w.reconcile()
	for _, from := range []string{"a4", "a"} {
		for _, at := range []netip.Addr{dnsVIP, dnsPeers} {
			w.silent(from, at.String()+":53")
			w.refused(from, "udp", at.String()+":54")
		}
	}
	w.silent("a4", "10.244.1.1:53")
	w.refused("a4", "udp", "10.244.1.1:54")
	w.nodes = w.hosts
	w.reconcile()
	w.refused("a4", "udp", dnsVIP.String()+":53")
}
