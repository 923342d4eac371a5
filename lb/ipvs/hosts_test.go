//go:build e2e

package ipvs

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"shoal/model"
)

// A host of the cluster knows no way to the networks that Docker made on
// another: only masqueraded can such a container be answered.
func TestTaskOfAnotherHostCanAnswerContainersOfAnyNetwork(t *testing.T) {
	w := newWorld(t, "client", "far2", "a")
	w.machine("peer")
	w.serve("peer", 80, "tcp", "udp")
	w.task("web", "peer", vip)
	w.elsewhere("web", "peer", "b")
	w.reconcile(true)
	for _, network := range []string{"tcp", "udp"} {
		for _, from := range []string{"client", "far2"} {
			if got := w.tasks(2, from, network, vip+":80", "198.51.100.1"); got["peer"] != 2 {
				t.Errorf("%s/%s: %v", from, network, got)
			}
		}
	}
}

func TestTasksOfADeadHostLeaveAtOnceAndComeBack(t *testing.T) {
	w := newWorld(t, "client", "a")
	w.machine("peer")
	for _, name := range []string{"a", "peer"} {
		w.serve(name, 80, "tcp")
		w.task("web", name, vip)
	}
	w.elsewhere("web", "peer", "b")
	w.reconcile(true)
	both := map[string]int{"a": 1, "peer": 1}
	count := func(n int) map[string]int {
		got := map[string]int{}
		for range n {
			a, err := w.ask("client", "tcp", vip+":80")
			w.ok(err)
			got[a.task]++
		}
		return got
	}
	if got := count(2); !maps.Equal(got, both) {
		t.Fatalf("before: %v", got)
	}
	var held net.Conn
	for range 2 { // one of the two is with the task that is to be lost
		c, err := w.dial("client", "tcp", vip+":80")
		w.ok(err)
		defer c.Close()
		if a, err := w.read(c); err == nil && a.task == "peer" {
			held = c
		}
	}
	w.of("web", "peer").State = model.Lost
	w.reconcile(false)
	if got := count(4); got["a"] != 4 {
		t.Errorf("while the host is dead: %v", got)
	}
	fmt.Fprintln(held, "still there")
	if line, err := bufio.NewReader(held).ReadString('\n'); err != nil || line != "still there\n" {
		t.Errorf("a connection that the dead host may still hold: %q, %v", line, err)
	}
	w.of("web", "peer").State = model.Running
	w.reconcile(false)
	if got := count(2); !maps.Equal(got, both) {
		t.Errorf("after: %v", got)
	}
}

// Our rules let nobody in for the source address alone: whoever is on the
// host's link can send any.
func TestForgedSourceReachesNoTask(t *testing.T) {
	for name, change := range map[string]string{
		"an engine that shields containers in raw": "true",
		"one that does not":                        "iptables -t raw -F PREROUTING",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "client", "far2", "a", "b")
			w.ok(os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("0"), 0))
			w.machine("stranger", "172.18.0.0/16", "172.19.0.0/16", "10.96.0.0/16")
			w.sh(change)
			w.task("web", "a", vip)
			w.task("web", "far2", vip)
			w.reconcile(true)

			heard := make(chan string, 10)
			for _, to := range []string{"a", "b"} {
				w.in(w.ns[to], func() {
					c, err := net.ListenPacket("udp4", ":80")
					w.ok(err)
					t.Cleanup(func() { c.Close() })
					go func() {
						buf := make([]byte, 100)
						for {
							n, _, err := c.ReadFrom(buf)
							if err != nil {
								return
							}
							heard <- to + " " + string(buf[:n])
						}
					}()
				})
			}
			send := func(from, source string, to netip.Addr, what string) {
				w.in(w.ns[from], func() {
					c, err := net.ListenPacket("udp4", source+":0")
					w.ok(err)
					defer c.Close()
					_, err = c.WriteTo([]byte(what), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 80)))
					w.ok(err)
				})
			}
			for _, source := range []string{outside, "172.18.0.200", "172.19.0.200", w.addr["far2"].String(), w.addr["client"].String()} {
				if source != outside {
					w.in(w.ns["stranger"], func() { w.address("lo", source+"/32") })
				}
				for _, to := range []netip.Addr{w.addr["a"], w.addr["b"], netip.MustParseAddr(vip)} {
					send("stranger", source, to, "forged "+source+" to "+to.String())
				}
			}
			w.in(w.ns["stranger"], func() {
				if c, err := net.DialTimeout("tcp4", vip+":80", 5*time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("a stranger on the link connects to the VIP: %v", err)
					if err == nil {
						c.Close()
					}
				}
			})
			// Heard after what came before.
			send("far2", w.addr["far2"].String(), w.addr["a"], "true")
			send("client", w.addr["client"].String(), w.addr["b"], "true")
			for range 2 {
				select {
				case what := <-heard:
					if what != "a true" && what != "b true" {
						t.Error(what)
					}
				case <-time.After(5 * time.Second):
					t.Fatal("what a container of this host sent to a task was not heard")
				}
			}
		})
	}
}

func TestSecondDNSAddressIsAnsweredByAnotherHost(t *testing.T) {
	w := newWorld(t, "client")
	w.machine("peer", "192.0.2.0/24")
	w.in(w.ns["peer"], func() { w.address("lo", "203.0.113.1/32") })
	w.sh("ip route add 203.0.113.0/24 via " + outside)
	w.others = []model.Node{{Name: "b", Addr: netip.MustParseAddr(outside), Subnet: netip.MustParsePrefix("203.0.113.0/24"), Alive: true}}
	w.reconcile(true)
	w.serve("peer@203.0.113.1", 53, "tcp", "udp")
	w.serve("host@10.96.0.10", 53, "tcp", "udp")
	second := dnsVIP.Next().String()
	answers := func(want string) {
		t.Helper()
		for _, network := range []string{"udp", "tcp"} {
			for _, from := range []string{"client", "host"} {
				if a, err := w.ask(from, network, second+":53"); err != nil || a.task != want {
					t.Errorf("%s/%s: %v, %v, want an answer of %s", from, network, a, err, want)
				}
			}
		}
	}
	answers("peer")
	w.others[0].Alive = false
	w.reconcile(false)
	answers("host")
	w.others[0].Alive = true
	w.reconcile(false)
	answers("peer")
	if err := w.ping("client", second); err != nil {
		t.Error(err)
	}
	w.refused("client", "tcp", second+":80")
	w.refused("client", "udp", second+":80")
	if n := writes(func() { w.reconcile(true) }); n != 0 {
		t.Errorf("a second pass wrote %d times", n)
	}
	stats, err := w.b.Stats()
	if w.ok(err); len(stats) != 0 {
		t.Errorf("the DNS address is among the services: %v", stats)
	}
}

func TestOtherHostsReachTheDNSServerAndNobodyElseDoes(t *testing.T) {
	w := newWorld(t, "client")
	w.machine("peer", "172.18.0.0/16")
	w.subnet = bridges[0].Subnets[0]
	w.serve("host@172.18.0.1", 53, "tcp", "udp")
	w.reconcile(true)
	silent(w, "peer", "172.18.0.1:53") // not of the cluster so far
	w.others = []model.Node{{Name: "b", Addr: netip.MustParseAddr(outside), Alive: true}}
	w.reconcile(false)
	for _, network := range []string{"udp", "tcp"} {
		if a, err := w.ask("peer", network, "172.18.0.1:53"); err != nil || a.task != "host" {
			t.Errorf("%s: %v, %v", network, a, err)
		}
	}
	w.serve("host@172.18.0.1", 80, "udp")
	silent(w, "peer", "172.18.0.1:80") // another port
}

// While the agent is away resolvers hear nothing, rather than that there is no
// server; unless there is another one to go on to.
func TestNobodyIsToldThatTheOnlyDNSServerIsAway(t *testing.T) {
	w := newWorld(t, "client")
	w.sh("sysctl -qw net.ipv4.icmp_ratemask=0") // else a client is refused six times, then once a second
	w.subnet = bridges[0].Subnets[0]
	w.reconcile(true)
	for _, from := range []string{"client", "host"} {
		silent(w, from, dnsVIP.String()+":53")
		silent(w, from, dnsVIP.Next().String()+":53")
		w.refused(from, "udp", dnsVIP.String()+":54")
	}
	w.sh("iptables -I INPUT -i br1 -j ACCEPT")
	silent(w, "client", "172.18.0.1:53")
	w.refused("client", "udp", "172.18.0.1:54")

	w.others = []model.Node{{Name: "b", Addr: netip.MustParseAddr(outside), Subnet: netip.MustParsePrefix("10.244.9.0/24"), Alive: true}}
	w.reconcile(true)
	w.refused("client", "udp", dnsVIP.String()+":53")
}

// silent tells that a datagram there is neither answered nor refused.
func silent(w *world, from, to string) {
	w.t.Helper()
	c, err := w.dial(from, "udp", to)
	w.ok(err)
	defer c.Close()
	for range 2 { // what is refused is told by the call after
		c.SetDeadline(time.Now().Add(300 * time.Millisecond))
		_, err = c.Write([]byte("?"))
		if err == nil {
			_, err = c.Read(make([]byte, 100))
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ECONNREFUSED) {
			w.t.Errorf("%s → %s: %v, want nothing", from, to, err)
		}
	}
}
