package conformance

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// An engine leaves a container's unpublished ports open or closed as it is made
// to: that is what each of these has of rules, instead of those that the world
// has.
var engines = []struct {
	name  string
	edits func(*host) []string
}{
	{"from 28 on, with the network's gateway mode nat", func(*host) []string { return nil }},
	{"from 28 on, with the network's gateway mode nat-unprotected", unprotected},
	{"before 28, where somebody else had the host forward", before28},
}

// unprotected is how engines from 28 on have a network of the gateway mode
// nat-unprotected: no rule in raw, none against other bridges, and whatever comes
// to it is accepted (moby: setDefaultForwardRule, filterDirectAccess). Earlier
// versions of shoal asked for that.
func unprotected(h *host) []string {
	edits := append(withoutRaw(h, "mesh"), "filter -D FORWARD -j ISOLATION-1")
	return append(edits, "filter -A FORWARD ! -i mesh -o mesh -j ACCEPT")
}

// before28 is how an engine before 28 leaves a host that forwarded packets before
// it came: it sets the policy of FORWARD where it is the one to switch forwarding
// on, and has no rule in raw.
func before28(h *host) []string {
	edits := withoutRaw(h, "mesh", "other")
	return append(edits, "filter -A FORWARD -j ACCEPT")
}

func withoutRaw(h *host, bridges ...string) (edits []string) {
	for _, rule := range rulesOf(h.engineRules(), "raw") {
		for _, b := range bridges {
			if strings.Contains(rule, "! -i "+b+" ") {
				edits = append(edits, strings.Replace(rule, " -A ", " -D ", 1))
			}
		}
	}
	return edits
}

// closedContainers: who reaches a container's own address, and who does not. The
// last engine keeps no bridge apart from the link, so its own network is not
// looked at there.
func closedContainers(t *testing.T, w *world) {
	port := func(name string, n uint16) string { return netip.AddrPortFrom(w.names[name].addr, n).String() }
	for _, engine := range engines {
		w.sub("an engine "+engine.name, func(t *testing.T) {
			w.edit(w.a, engine.edits(w.a)...)
			w.edit(w.a, fmt.Sprintf("nat -A DOCKER -p tcp --dport 7778 -j DNAT --to-destination %s", port("a3", 80)),
				fmt.Sprintf("filter -A FORWARD -d %s ! -i mesh -o mesh -p tcp --dport 80 -j ACCEPT", w.names["a3"].addr))
			w.wide()
			local := publish("8001:80/tcp")
			local.PublishLocal = true // other hosts do not reach x1
			w.service("aside", "10.96.0.51", local, "x1")
			w.reconcile()

			for _, to := range []string{"a1", "a3", "a4"} { // a task, one that the engine publishes, one of neither
				for _, n := range []uint16{80, 8080} {
					w.unreached("client", port(to, n))
				}
			}
			for _, from := range []string{"b", "c", "x1", "x2"} { // other hosts, a task, and a container that is none
				w.unreached(from, port("a3", 8080))
				w.unreached(from, port("a4", 80))
				w.by(from, "tcp", port("a1", 80), "a1") // a task is what the mesh is for
			}
			if w.client.ping(w.names["a4"].addr.String(), silence) == nil {
				t.Error("a container answers ping from the link")
			}

			w.by("client", "tcp", "192.168.88.11:7778", "a3") // docker run -p
			for _, from := range []string{"a1", "b1", "c1"} {
				w.by(from, "tcp", port("a4", 80), "a4")
				w.by(from, "udp", port("a4", 80), "a4")
			}
			w.by("a4", "tcp", port("b2", 80), "b2")
			w.by("a4", "tcp", port("c1", 80), "c1")
			for _, network := range []string{"tcp", "udp"} {
				for _, from := range []string{"a4", "x2", "a", "b2", "c1"} {
					w.evenly(from, network, vip+":80", netip.Addr{}, "a1", "b1", "c1")
				}
				for _, h := range w.hosts {
					w.evenly("client", network, h.at(8000), clientAddr, "a1", "b1", "c1")
				}
			}
			w.by("a4", "tcp", "10.96.0.51:80", "x1")
			w.evenly("x2", "tcp", "10.96.0.51:80", w.names["x2"].addr, "x1")
			w.by("client", "tcp", w.a.at(8001), "x1")
		})
	}
}
