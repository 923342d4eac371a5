//go:build e2e

package ingress

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestAnAddressOfTheVIPPoolIsNotTakenForOneOfTheHost(t *testing.T) {
	w := newWorld(t, "host-gw")
	h := w.hosts[0]
	h.run("web", 2).serve(t, "web", 80)
	h.must(t, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		vips := &netlink.Route{LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
			Dst: &net.IPNet{IP: pool.Addr().AsSlice(), Mask: net.CIDRMask(pool.Bits(), 32)}}
		t.Cleanup(func() { h.try(func() error { return netlink.RouteDel(vips) }) })
		return netlink.RouteAdd(vips)
	})
	var l net.Listener
	h.must(t, func() (err error) { l, err = net.Listen("tcp4", "10.96.0.10:8000"); return err })
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "dns 0.0.0.0 0\n")
			c.Close()
		}
	}()
	w.service("web", publish(t, "8000:80/tcp"), "web")
	noProblems(t, w.settle(true))
	mustAnswer(t, h.room, "tcp", "10.96.0.10:8000", "dns")
	mustAnswer(t, h.room, "tcp", h.at(8000), "web")
}

func TestClientsKeepTheirAddressWhateverOthersMasquerade(t *testing.T) {
	w := whoami(t, "host-gw")
	for _, h := range w.hosts {
		h.addRules("nat -A POSTROUTING -j MASQUERADE")
	}
	noProblems(t, w.settle(true))
	for range 3 {
		if a, err := w.client.ask("tcp", w.hosts[0].at(8000)); err != nil || a.seen != clientAddr {
			t.Errorf("%s saw %s, %v, want %s", a.task, a.seen, err, clientAddr)
		}
	}
}

func TestHostsThatForwardNothingElseServeAll(t *testing.T) {
	w := whoami(t, "host-gw")
	for _, h := range w.hosts {
		h.dropRules(
			"filter -A FORWARD -s 10.244.0.0/16 -d 10.244.0.0/16 -j ACCEPT",
			"filter -A FORWARD -i mesh ! -o mesh -j ACCEPT",
			"filter -A FORWARD -o mesh -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		)
	}
	noProblems(t, w.settle(true))
	for name, r := range map[string]*room{"outside": w.client, "its own processes": w.hosts[0].room, "another host": w.hosts[1].room} {
		for range 3 {
			if _, err := r.ask("tcp", w.hosts[0].at(8000)); err != nil {
				t.Errorf("from %s: %v", name, err)
			}
		}
	}
}

func TestConnectionsBetweenContainersAreLeftAlone(t *testing.T) {
	w := whoami(t, "vxlan")
	noProblems(t, w.settle(true))
	from, to := w.hosts[0].containers["web1"], w.hosts[1].containers["web2"]
	a, err := from.ask("tcp", to.addr.String()+":80")
	if err != nil || a.task != "web2" || a.seen != from.addr {
		t.Errorf("from container to container: %v, %v, want web2 to see %s", a, err, from.addr)
	}
	found := false
	to.host.must(t, func() error {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		for _, f := range flows {
			src, _ := netip.AddrFromSlice(f.Forward.SrcIP)
			dst, _ := netip.AddrFromSlice(f.Forward.DstIP)
			if src.Unmap() == from.addr && dst.Unmap() == to.addr {
				found = true
				if f.Mark != 0 {
					t.Errorf("the connection has the mark %#x, want none: %s", f.Mark, f)
				}
			}
		}
		return err
	})
	if !found {
		t.Error("the host of the task does not track the connection")
	}
}

func TestAPortThatFailsDoesNotStopTheOthers(t *testing.T) {
	w := newWorld(t, "host-gw")
	w.hosts[0].run("web", 2).serve(t, "web", 80)
	w.service("web", publish(t, "8000:80/tcp"), "web")
	bad := publish(t, "7000:80/tcp")
	bad.Scheduler = "nosuch"
	w.service("bad", bad, "web")
	ps := w.settle(true)
	if len(ps) != 3 || ps[0].Object != "default/bad" || !strings.Contains(ps[0].Reason, "no scheduler nosuch") {
		t.Errorf("problems %v, want one on each host about default/bad", ps)
	}
	mustAnswer(t, w.client, "tcp", w.hosts[1].at(8000), "web")
	mustRefuse(t, w.client, "tcp", w.hosts[1].at(7000))
	w.service("bad", publish(t, "7000:80/tcp"), "web")
	noProblems(t, w.settle(false))
	mustAnswer(t, w.client, "tcp", w.hosts[1].at(7000), "web")
}

// sctp makes a one-to-one style socket (RFC 6458, section 4) that gives up in
// time.
func sctp() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return 0, fmt.Errorf("make an SCTP socket: %w", err)
	}
	limit := unix.NsecToTimeval(int64(patience))
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	return fd, nil
}

func TestSCTPClientsKeepTheirAddress(t *testing.T) {
	w := newWorld(t, "vxlan")
	c := w.hosts[1].run("web", 2)
	c.must(t, func() error {
		fd, err := sctp()
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 80}); err != nil {
			return err
		}
		if err := unix.Listen(fd, 8); err != nil {
			return err
		}
		go func() {
			defer unix.Close(fd)
			for end := time.Now().Add(3 * patience); time.Now().Before(end); {
				peer, from, err := unix.Accept(fd)
				if err != nil {
					continue
				}
				unix.Write(peer, []byte(netip.AddrFrom4(from.(*unix.SockaddrInet4).Addr).String()))
				unix.Close(peer)
			}
		}()
		return nil
	})
	w.service("web", publish(t, "9000:80/sctp"), "web")
	noProblems(t, w.settle(true))
	for _, h := range w.hosts {
		for name, r := range map[string]*room{"outside": w.client, "the host": h.room} {
			err := r.try(func() error {
				fd, err := sctp()
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 9000, Addr: h.node.Addr.As4()}); err != nil {
					return fmt.Errorf("connect: %w", err)
				}
				b := make([]byte, 100)
				n, err := unix.Read(fd, b)
				if err == nil && r == w.client && string(b[:n]) != clientAddr.String() {
					err = fmt.Errorf("the task saw %s", b[:n])
				}
				return err
			})
			if err != nil {
				t.Errorf("from %s by %s: %v", name, h.node.Name, err)
			}
		}
	}
}

func TestAThousandPortsTakeNoMoreRulesThanOne(t *testing.T) {
	w := newWorld(t, "host-gw")
	w.hosts[0].run("web", 2).serve(t, "web", 80)
	w.service("web", publish(t, "10000:80/tcp"), "web")
	noProblems(t, w.settle(true))
	count := func() (n int) {
		rules := func() error {
			out, err := exec.Command("iptables-save").Output()
			n += strings.Count(string(out), "\n-A")
			return err
		}
		w.hosts[1].must(t, rules)
		w.hosts[1].must(t, func() error { return w.hosts[1].ingress.sandbox.do(rules) })
		return n
	}
	one := count()
	var ports []string
	for p := range 1000 {
		ports = append(ports, fmt.Sprintf("%d:80/tcp", 10000+p))
	}
	w.service("web", publish(t, ports...), "web")
	w.settle(false)
	start := time.Now()
	noProblems(t, w.hosts[1].reconcile(false))
	t.Logf("a pass over 1000 ports with nothing changed: %v", time.Since(start))
	start = time.Now()
	noProblems(t, w.hosts[1].reconcile(true))
	t.Logf("a full pass over 1000 ports: %v", time.Since(start))
	if thousand := count(); thousand != one {
		t.Errorf("%d rules for one port, %d for a thousand", one, thousand)
	}
	mustAnswer(t, w.client, "tcp", w.hosts[1].at(10999), "web")
}
