//go:build e2e

package ingress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel/ipset"
	"shoal/model"
)

func TestClientsHearOfSmallerPacketsOnTheWay(t *testing.T) {
	w := newWorld(t, "vxlan") // its devices take 1450 octets, containers here send 1500
	w.hosts[1].run("web", 2).serve(t, "web", 80)
	w.service("web", publish(t, "8000:80/tcp"), "web")
	noProblems(t, w.settle(true))
	w.client.must(t, func() error {
		c, err := net.DialTimeout("tcp4", w.hosts[0].at(8000), patience)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write(bytes.Repeat([]byte("x"), 300000)); err != nil {
			return err
		}
		c.(*net.TCPConn).CloseWrite()
		b, err := io.ReadAll(c)
		if !strings.HasSuffix(string(b), "\n300000\n") {
			return fmt.Errorf("answer %q, %v, want 300000 bytes counted", b, err)
		}
		return nil
	})
}

func TestWhatOthersBreakIsRepaired(t *testing.T) {
	breaks := map[string]func(h *host) error{
		"iptables -F": func(h *host) error {
			return iptables("*filter\n-F\nCOMMIT\n*nat\n-F\nCOMMIT\n*mangle\n-F\nCOMMIT\n*raw\n-F\nCOMMIT\n")
		},
		"ip rule flush": func(h *host) error {
			rs, err := ourRules()
			for _, r := range rs {
				netlink.RuleDel(ruleOf(r.Mark))
			}
			return err
		},
		"ip route flush": func(h *host) error {
			rs, err := ourRules()
			for _, r := range rs {
				netlink.RouteDel(&netlink.Route{Dst: everywhere, Table: r.Table})
			}
			return err
		},
		"ip link del": func(h *host) error {
			l, err := netlink.LinkByName(hostDev)
			if err != nil {
				return err
			}
			return netlink.LinkDel(l)
		},
		"iptables -F in the sandbox": func(h *host) error {
			return h.ingress.sandbox.do(func() error { return iptables("*nat\n-F\nCOMMIT\n*mangle\n-F\nCOMMIT\n") })
		},
		"ipset flush in the sandbox": func(h *host) error {
			return h.ingress.sandbox.do(func() error { return netlink.IpsetFlush(setPorts.Name) })
		},
		"ip route flush in the sandbox": func(h *host) error {
			return h.ingress.sandbox.do(func() error { return netlink.RouteDel(&netlink.Route{Dst: everywhere}) })
		},
		"ip netns del": func(h *host) error { return removeNamespace(h.opts.Netns) },
		"ipset flush":  func(h *host) error { return netlink.IpsetFlush(setPublished.Name) },
		"ipvsadm -C": func(h *host) error {
			return h.ingress.sandbox.do(func() error { return h.ingress.table.IPVS.Delete(port{model.TCP, 8000}.mark()) })
		},
		"rp_filter = 1": func(h *host) error {
			return os.WriteFile("/proc/sys/net/ipv4/conf/"+hostDev+"/rp_filter", []byte("1"), 0)
		},
	}
	w := newWorld(t, "host-gw")
	w.hosts[0].run("web1", 2).serve(t, "web1", 80)
	w.hosts[1].run("web2", 2).serve(t, "web2", 80)
	w.service("web", publish(t, "8000:80/tcp"), "web1", "web2")
	noProblems(t, w.settle(true))
	for name, f := range breaks {
		t.Run(name, func(t *testing.T) {
			w.hosts[0].must(t, func() error { return f(w.hosts[0]) })
			noProblems(t, w.settle(true))
			seen := map[string]bool{}
			for range 4 {
				for _, h := range w.hosts[:2] {
					a, err := w.client.ask("tcp", h.at(8000))
					if err != nil || a.seen != clientAddr {
						t.Errorf("by %s: %v, %v", h.node.Name, a, err)
					}
					seen[a.task] = true
				}
			}
			if !seen["web1"] || !seen["web2"] {
				t.Errorf("answers from %v, want both tasks", seen)
			}
			if name == "iptables -F" { // they are back later than ours
				w.hosts[0].must(t, w.hosts[0].filter)
			}
		})
	}
}

func TestAPeerThatMovesOrLeavesIsFollowed(t *testing.T) {
	w := newWorld(t, "host-gw")
	w.hosts[0].run("web", 2).serve(t, "web", 80)
	w.service("web", publish(t, "8000:80/tcp"), "web")
	noProblems(t, w.settle(true))
	a, b, c := w.hosts[0], w.hosts[1], w.hosts[2]
	way := func() (r *netlink.Route) {
		a.must(t, func() (err error) { r, err = lookup(nowhere, markOurs|3); return err })
		return r
	}
	// Whatever leads to its containers leads to its sandbox.
	to := &netlink.Route{Dst: &net.IPNet{IP: c.node.Subnet.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}, Flags: int(netlink.FLAG_ONLINK)}
	for _, gw := range []*host{b, c} {
		a.must(t, func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			to.LinkIndex, to.Gw = l.Attrs().Index, gw.node.Addr.AsSlice()
			return netlink.RouteReplace(to)
		})
		noProblems(t, a.reconcile(true))
		if r := way(); r == nil || r.Table != int(markOurs|3) || !r.Gw.Equal(to.Gw) {
			t.Errorf("replies to c go by %v, want them to go by %s", r, to.Gw)
		}
	}
	if got, err := w.client.ask("tcp", c.at(8000)); err != nil || got.seen != clientAddr {
		t.Errorf("by c: %v, %v", got, err)
	}
	w.change(func(s *model.Snapshot) { s.Nodes = s.Nodes[:2] })
	noProblems(t, a.reconcile(false))
	if r := way(); r == nil || r.Table == int(markOurs|3) {
		t.Errorf("replies to c, which is gone, go by %v", r)
	}
	a.must(t, func() error {
		rs, err := ourRules()
		if len(rs) != 2 || rs[0].Mark != markOurs || rs[1].Mark != markOurs|2 {
			return fmt.Errorf("rules %v, %v, want those of a and b", rs, err)
		}
		return nil
	})
}

// inventory is what there is in the kernel of a host, in words.
func inventory(h *host) (lines []string) {
	h.must(h.w.t, func() error {
		out, err := exec.Command("iptables-save").Output()
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "-A") || strings.Contains(line, "SHOAL") {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		names, err := ipset.Names()
		lines = append(lines, names...)
		links, err := netlink.LinkList()
		for _, l := range links {
			lines = append(lines, l.Attrs().Name)
		}
		rs, err := netlink.RuleList(netlink.FAMILY_V4)
		for _, r := range rs {
			lines = append(lines, fmt.Sprint(r, r.Mark))
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		for _, r := range routes {
			lines = append(lines, r.String())
		}
		for _, p := range []string{"ip_forward", "conf/all/rp_filter", "conf/eth0/rp_filter", "conf/mesh/rp_filter"} {
			b, err := os.ReadFile("/proc/sys/net/ipv4/" + p)
			lines = append(lines, fmt.Sprintf("%s %q %v", p, b, err))
		}
		if _, err := os.Stat(h.opts.Netns); err == nil {
			lines = append(lines, "the sandbox")
		}
		files, err := os.ReadDir(h.opts.StateDir)
		for _, f := range files {
			lines = append(lines, f.Name())
		}
		return err
	})
	return lines
}

func TestDownLeavesTheHostAsItWas(t *testing.T) {
	w := whoami(t, "host-gw")
	h := w.hosts[0]
	h.down()
	// What is somebody else's, and much like ours.
	other := ipset.Set{Name: "OTHERS", Type: "hash:ip", Mark: true}
	rule := ruleOf(0x54000009)
	rule.Priority++
	h.must(t, func() error { return errors.Join(ipset.Create(other), netlink.RuleAdd(rule)) })
	t.Cleanup(func() {
		h.must(t, func() error { return errors.Join(ipset.Destroy(other.Name), netlink.RuleDel(rule)) })
	})
	h.addRules("mangle -A PREROUTING -m set --match-set OTHERS dst -j SET --map-set OTHERS dst --map-mark")
	before := inventory(h)
	noProblems(t, w.settle(true))
	if up := inventory(h); cmp.Equal(before, up) {
		t.Fatal("nothing differs while the ports are published")
	}
	h.down()
	if d := cmp.Diff(before, inventory(h)); d != "" {
		t.Errorf("before and after Down (-before +after):\n%s", d)
	}
	h.down() // with nothing there
	noProblems(t, w.settle(true))
	mustAnswerAnyone(t, w.client, h.at(8000))
}

func mustAnswerAnyone(t *testing.T, r *room, addr string) {
	t.Helper()
	if _, err := r.ask("tcp", addr); err != nil {
		t.Error(err)
	}
}

func TestInspectShowsEveryHop(t *testing.T) {
	w := whoami(t, "host-gw")
	noProblems(t, w.settle(true))
	h := w.hosts[0]
	var v *View
	h.must(t, func() (err error) {
		v, err = h.ingress.Inspect(context.Background(), 8000, model.TCP)
		return err
	})
	for i := range v.Dests {
		v.Dests[i].Inactive, v.Dests[i].Active = 0, 0
	}
	want := &View{
		Protocol: model.TCP, Port: 8000, Sets: []string{"SHOAL-IN-PUBLISHED 0.0.0.0/1,tcp:8000", "SHOAL-IN-PUBLISHED 128.0.0.0/1,tcp:8000"}, On: every, Redirect: v.Redirect,
		Sandbox: sandboxAddr, Netns: h.opts.Netns, Mark: 0x61f40, Scheduler: "rr",
		Dests: []DestView{
			{Addr: netip.MustParseAddrPort("10.244.1.2:80"), Weight: 1, Route: "10.244.1.0/24 dev mesh", Source: netip.MustParseAddr("10.244.1.1")},
			{Addr: netip.MustParseAddrPort("10.244.2.2:80"), Weight: 1, Route: "10.244.2.0/24 via 192.168.88.12 dev eth0", Source: netip.MustParseAddr("192.168.88.11")},
			{Addr: netip.MustParseAddrPort("10.244.3.2:80"), Weight: 1, Route: "10.244.3.0/24 via 192.168.88.13 dev eth0", Source: netip.MustParseAddr("192.168.88.11")},
		},
		Returns: []ReturnView{
			{Node: "a", Mark: 0x54000000, Route: "default via 169.254.83.1 dev shoal-ingress"},
			{Node: "b", Mark: 0x54000002, MACs: []model.MAC{w.hosts[1].node.MAC, w.hosts[1].opts.VTEPMAC(w.hosts[1].node)}, Route: "default via 192.168.88.12 dev eth0"},
			{Node: "c", Mark: 0x54000003, MACs: []model.MAC{w.hosts[2].node.MAC, w.hosts[2].opts.VTEPMAC(w.hosts[2].node)}, Route: "default via 192.168.88.13 dev eth0"},
		},
	}
	if d := cmp.Diff(want, v, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("view (-want +got):\n%s", d)
	}
	if len(v.Redirect) != 1 {
		t.Errorf("redirected by %q, want one rule", v.Redirect)
	}
	h.must(t, func() error {
		for client, want := range map[string]ClientView{
			"203.0.113.9":   {Addr: netip.MustParseAddr("203.0.113.9")},
			"10.244.1.9":    {netip.MustParseAddr("10.244.1.9"), "SHOAL-IN-CLIENTS 10.244.1.0/24"},
			"192.168.88.12": {netip.MustParseAddr("192.168.88.12"), "SHOAL-IN-CLIENTS 192.168.88.12/32"},
			"192.168.88.11": {hostAddr, "SHOAL-IN-CLIENTS 169.254.83.0/31"}, // its own
			"127.0.0.1":     {hostAddr, "SHOAL-IN-CLIENTS 169.254.83.0/31"},
		} {
			if got, err := h.ingress.Client(netip.MustParseAddr(client)); err != nil || *got != want {
				t.Errorf("client %s: %+v, %v; want %+v", client, got, err, want)
			}
		}
		return nil
	})
}
