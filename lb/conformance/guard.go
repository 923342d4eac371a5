package conformance

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"shoal/model"
)

var guardTests = []test{
	{"VIPsAreClosedToTheLink", closedToTheLink, false},
	{"AForgedSourceReachesNoTask", forged, false},
	{"OtherTrafficIsStillDropped", stillDropped, false},
	{"TheMeshsContainersAreClosedOnEveryEngine", closedContainers, true},
	{"OthersMasqueradeDoesNotHideClients", othersMasquerade, false},
	{"DirectConnectionsAfterManyToTheVIP", directAfterVIP, false},
}

func closedToTheLink(t *testing.T, w *world) {
	w.service("web", vip, ports("80:80/tcp", "80:80/udp"), "a1", "x1")
	w.service("all", "10.96.0.60", model.Spec{}, "a1")
	w.reconcile()
	for _, to := range []string{vip + ":80", "10.96.0.60:80", "10.96.7.7:80"} {
		w.refused("client", "tcp", to)
		w.refused("client", "udp", to)
	}
	if w.client.ping(vip, silence) == nil {
		t.Error("a VIP answers ping from outside")
	}
}

// Our rules let nobody in for the source address alone: whoever is on the
// host's link can send any.
func forged(t *testing.T, w *world) {
	shields := rulesOf(w.a.engineRules(), "raw")
	for _, engine := range []string{"that shields containers in raw", "that does not"} {
		w.sub("an engine "+engine, func(t *testing.T) {
			if strings.HasSuffix(engine, "not") {
				for _, r := range shields {
					w.edit(w.a, strings.Replace(r, " -A ", " -D ", 1))
				}
			}
			w.a.set(t, "0", "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/eth0/rp_filter")
			t.Cleanup(func() {
				w.a.set(t, "1", "net/ipv4/conf/all/rp_filter")
				w.a.set(t, "2", "net/ipv4/conf/eth0/rp_filter")
			})
			w.three()
			heard := w.hearAll("a1", "x1", "a3") // a3 is no task
			// But for containers of b: their packets come by the link, without a tunnel.
			for _, source := range []netip.Addr{clientAddr, w.names["a4"].addr, w.names["a2"].addr, w.names["x2"].addr, w.names["c1"].addr,
				netip.MustParseAddr("10.244.1.200"), netip.MustParseAddr("172.30.0.200")} {
				if source != clientAddr {
					own := netip.PrefixFrom(source, 32)
					w.client.must(t, func() error { return address("lo", own) })
					t.Cleanup(func() { w.client.must(t, func() error { return noAddress("lo", own) }) })
				}
				for _, to := range []netip.Addr{w.names["a1"].addr, w.names["x1"].addr, w.names["a3"].addr, netip.MustParseAddr(vip)} {
					w.shout(w.client, source, to, "from "+source.String()+" to "+to.String())
				}
			}
			w.onlyTruth(heard, "a2", "a1", "x1", "a3")
		})
	}
}

// hearAll has containers listen for datagrams on port 81, and returns what they
// hear.
func (w *world) hearAll(names ...string) <-chan string {
	w.t.Helper()
	heard := make(chan string, 100)
	for _, name := range names {
		var c net.PacketConn
		w.names[name].must(w.t, func() (err error) { c, err = net.ListenPacket("udp4", ":81"); return err })
		w.t.Cleanup(func() { c.Close() })
		go func() {
			b := make([]byte, 100)
			for {
				n, _, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				heard <- string(b[:n])
			}
		}()
	}
	return heard
}

// shout sends a datagram to port 81, from an address of the sender's.
func (w *world) shout(from *namespace, source, to netip.Addr, what string) {
	w.t.Helper()
	from.must(w.t, func() error {
		c, err := net.ListenPacket("udp4", netip.AddrPortFrom(source, 0).String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.WriteTo([]byte(what), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 81)))
		return err
	})
}

// onlyTruth tells that those who listen hear this container, and that nothing
// was heard before.
func (w *world) onlyTruth(heard <-chan string, from string, to ...string) {
	w.t.Helper()
	for _, name := range to {
		w.shout(w.names[from], w.names[from].addr, w.names[name].addr, "truth")
	}
	for truths := 0; truths < len(to); {
		select {
		case what := <-heard:
			if what == "truth" {
				truths++
			} else {
				w.t.Errorf("a datagram is heard %s", what)
			}
		case <-time.After(waitLimit):
			w.t.Fatalf("what %s sends is not heard", from)
		}
	}
}

// rulesOf are the rules of one table of iptables-save(8), "TABLE -A CHAIN …".
func rulesOf(script, table string) (rules []string) {
	_, script, _ = strings.Cut(script, "*"+table+"\n")
	script, _, _ = strings.Cut(script, "COMMIT")
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, "-A") {
			rules = append(rules, table+" "+strings.TrimSpace(line))
		}
	}
	return rules
}

func noAddress(device string, a netip.Prefix) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	return netlink.AddrDel(l, &netlink.Addr{IPNet: ipNet(a)})
}

func stillDropped(t *testing.T, w *world) {
	spec := publish("8000:80/tcp")
	spec.PublishLocal = true // other hosts do not reach x1
	w.service("web", vip, spec, "a1", "x1")
	w.reconcile()
	for _, to := range []string{"a1", "x1", "a3", "x2"} { // tasks, and containers that are none
		for _, port := range []uint16{80, 8080} {
			w.unreached("client", netip.AddrPortFrom(w.names[to].addr, port).String())
			w.unreached("b", netip.AddrPortFrom(w.names["x1"].addr, port).String())
		}
	}
	w.unreached("a4", netip.AddrPortFrom(w.names["x2"].addr, 80).String())
	w.unreached("x1", netip.AddrPortFrom(w.names["a3"].addr, 80).String()) // a task is a container like others where it is the client
	w.listen("a", "0.0.0.0:6000")
	w.unreached("client", "192.168.88.11:6000")
	w.unreached("a4", "192.168.88.11:6000")
}

func othersMasquerade(t *testing.T, w *world) {
	w.edit(w.a, "nat -A POSTROUTING -j MASQUERADE")
	w.three()
	for _, network := range []string{"tcp", "udp"} {
		w.evenly("a4", network, vip+":80", w.names["a4"].addr, "a1", "a2", "x1")
	}
}

// As many new connections as a busy client makes, and then some to a task's own
// address. The client has few ports, so that it uses each for both.
func directAfterVIP(t *testing.T, w *world) {
	const many, ports, direct = 600, 1000, 200
	c := w.names["a4"]
	usual := c.sh(t, "cat /proc/sys/net/ipv4/ip_local_port_range")
	c.set(t, "40000 40999", "net/ipv4/ip_local_port_range")
	t.Cleanup(func() { c.set(t, usual, "net/ipv4/ip_local_port_range") })
	w.service("web", vip, model.Spec{}, "a1", "x1")
	w.reconcile()
	w.answers(many, "a4", "tcp", vip+":80", c.addr)
	for _, task := range []string{"a1", "x1"} {
		failed := 0
		var last error
		for range direct / 2 {
			_ = c.do(func() error {
				nc, err := (&net.Dialer{Timeout: soon}).Dial("tcp4", netip.AddrPortFrom(w.names[task].addr, 80).String())
				if err != nil {
					failed++
					last = err
					return nil
				}
				nc.Close()
				return nil
			})
			if failed >= 5 {
				break
			}
		}
		switch {
		case failed > 0 && w.plane.Direct != "":
			t.Logf("direct connections to %s fail, as is known: %s", task, w.plane.Direct)
		case failed > 0:
			t.Errorf("after %d connections to the VIP, %d of %d direct ones to %s fail: %v", many, failed, direct/2, task, last)
		}
	}
}
