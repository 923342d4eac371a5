//go:build e2e

package fabric_test

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
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	. "shoal/fabric"
	"shoal/lab"
	"shoal/lb"
	"shoal/lb/ipvs"
	"shoal/model"
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func ipNet(s string) *net.IPNet {
	_, n, _ := net.ParseCIDR(s)
	return n
}

var (
	hostA = model.Node{Name: "a", Number: 1, Addr: addr("10.1.0.1"), Subnet: prefix("10.244.1.0/24"), Alive: true}
	hostB = model.Node{Name: "b", Number: 2, Addr: addr("10.1.0.2"), Subnet: prefix("10.244.2.0/24"), Alive: true}
	hostC = model.Node{Name: "c", Number: 3, Addr: addr("10.2.0.3"), Subnet: prefix("10.244.3.0/24"), Alive: true}
)

// The chains of the firewall.
const (
	chain   = "SHOAL-FABRIC"
	chainIn = "SHOAL-FABRIC-IN"
)

// space is a network namespace.
type space struct {
	t *testing.T
	h netns.NsHandle
}

func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{t: t}
	inThread(t, func() (err error) {
		s.h, err = netns.New() // the thread ends, the handle keeps the namespace
		return err
	})
	t.Cleanup(func() { s.h.Close() })
	s.do(func() error {
		lo, err := netlink.LinkByName("lo")
		// IPv6 addresses come and are confirmed by themselves; kernel would see that.
		return errors.Join(err, netlink.LinkSetUp(lo), os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0))
	})
	return s
}

// inThread runs f in a thread of its own, which ends with it.
func inThread(t *testing.T, f func() error) {
	t.Helper()
	if err := thread(f); err != nil {
		t.Fatal(err)
	}
}

func thread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// try runs f in the namespace.
func (s *space) try(f func() error) error {
	return thread(func() error {
		if err := netns.Set(s.h); err != nil {
			return err
		}
		return f()
	})
}

func (s *space) do(f func() error) {
	s.t.Helper()
	if err := s.try(f); err != nil {
		s.t.Fatal(err)
	}
}

// run runs a program in the namespace, with that input.
func (s *space) run(in string, args ...string) string {
	s.t.Helper()
	var out bytes.Buffer
	s.do(func() error {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &out, &out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%v: %w: %s", args, err, out.String())
		}
		return nil
	})
	return out.String()
}

// shell runs a command of plain words.
func (s *space) shell(command string) string {
	s.t.Helper()
	return strings.TrimSpace(s.run("", strings.Fields(command)...))
}

// cable connects two namespaces: dev of s, with that address and the route
// there by default, and a port of the bridge in o.
func (s *space) cable(dev, address, gateway string, o *space, bridge, port string, mtu int) {
	s.t.Helper()
	s.do(func() error {
		l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: dev, MTU: mtu}, PeerName: port, PeerNamespace: netlink.NsFd(o.h)}
		if err := netlink.LinkAdd(l); err != nil {
			return fmt.Errorf("add %s: %w", dev, err)
		}
		own, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		return errors.Join(giveAddr(own, address), netlink.LinkSetUp(own),
			netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway), Scope: netlink.SCOPE_UNIVERSE}))
	})
	o.do(func() error {
		b, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		p, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMTU(p, mtu), netlink.LinkSetMaster(p, b), netlink.LinkSetUp(p))
	})
}

func giveAddr(l netlink.Link, address string) error {
	a, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(l, a)
}

// bridge makes a bridge with an address.
func (s *space) bridge(name, address string, mtu int) {
	s.t.Helper()
	s.do(func() error {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu}}); err != nil {
			return err
		}
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return errors.Join(giveAddr(l, address), netlink.LinkSetUp(l))
	})
}

// host is a host with one container on the mesh and one on another network.
type host struct {
	*space
	node      model.Node
	fabric    *Fabric
	container *space
	addr      netip.Addr // the container's
	other     *space     // a container on another Docker network
}

// task adds the host's container to those that are tasks, or deletes it: the balancer, which knows, is not here.
func (h *host) task(edit string) { h.run("", "ipset", "-exist", edit, "SHOAL-LOCAL", h.addr.String()) }

// world is two links with a router between, hosts a and b on the one, c on the
// other, somebody else on each, and an address outside.
type world struct {
	t       *testing.T
	router  *space
	hosts   map[string]*host
	near    *space // 10.1.0.66, on the link of a and b
	far     *space // 10.2.0.66, on the link of c
	options Options
}

const outside = "198.51.100.1"

// dockerRules are those that matter of what an engine from 28 on writes for a
// network mesh and a network other.
const dockerRules = `*raw
-A PREROUTING -d %[2]s/32 ! -i br-mesh -j DROP
COMMIT
*nat
-A POSTROUTING -s %[1]s ! -o br-mesh -j MASQUERADE
-A POSTROUTING -s 172.30.0.0/24 ! -o br-other -j MASQUERADE
COMMIT
*filter
:FORWARD DROP
:DOCKER-USER -
:DOCKER -
:DOCKER-ISOLATION -
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION
-A DOCKER-ISOLATION -i br-mesh -o br-other -j DROP
-A DOCKER-ISOLATION -i br-other -o br-mesh -j DROP
-A FORWARD -o br-mesh -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o br-mesh -j DOCKER
-A FORWARD -i br-mesh -j ACCEPT
-A FORWARD -o br-other -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i br-other -j ACCEPT
-A DOCKER ! -i br-mesh -o br-mesh -j DROP
COMMIT
`

func newWorld(t *testing.T, o Options) *world {
	t.Helper()
	if o.Backend == IPIP {
		lab.Needs(t, "ipip")
	}
	w := &world{t: t, router: newSpace(t), hosts: map[string]*host{}, options: o}
	w.router.bridge("lan1", "10.1.0.254/24", 1500)
	w.router.bridge("lan2", "10.2.0.254/24", 1500)
	w.router.do(func() error {
		lo, err := netlink.LinkByName("lo")
		return errors.Join(err, giveAddr(lo, outside+"/32"))
	})
	for _, n := range []model.Node{hostA, hostB, hostC} {
		w.addHost(n)
	}
	w.near, w.far = newSpace(t), newSpace(t)
	w.near.cable("eth0", "10.1.0.66/24", "10.1.0.254", w.router, "lan1", "near", 1500)
	w.far.cable("eth0", "10.2.0.66/24", "10.2.0.254", w.router, "lan2", "far", 1500)
	return w
}

func (w *world) addHost(n model.Node) {
	w.t.Helper()
	mtu := MTU(w.options.Backend, 1500)
	h := &host{space: newSpace(w.t), node: n, container: newSpace(w.t), other: newSpace(w.t), addr: n.Subnet.Addr().Next().Next()}
	gateway := n.Subnet.Addr().Next()
	lan := "lan1"
	if prefix("10.2.0.0/24").Contains(n.Addr) {
		lan = "lan2"
	}
	router := netip.PrefixFrom(n.Addr, 24).Masked().Addr().As4()
	router[3] = 254
	h.cable("eth0", n.Addr.String()+"/24", netip.AddrFrom4(router).String(), w.router, lan, "host-"+n.Name, 1500)
	h.bridge("br-mesh", gateway.String()+"/24", mtu)
	h.bridge("br-other", "172.30.0.1/24", 1500)
	h.container.cable("eth0", h.addr.String()+"/24", gateway.String(), h.space, "br-mesh", "veth1", mtu)
	h.other.cable("eth0", "172.30.0.2/24", "172.30.0.1", h.space, "br-other", "veth2", 1500)
	h.run(fmt.Sprintf(dockerRules, n.Subnet, h.addr), "iptables-restore", "--noflush")
	w.hosts[n.Name] = h
	h.restart(w.options)
}

// restart is what a new process on the host is: one that knows nothing.
func (h *host) restart(o Options) {
	h.t.Helper()
	var err error
	h.do(func() error {
		plane, err := ipvs.New(h.plane())
		o.Firewall = plane
		return err
	})
	if h.fabric, err = New(o); err != nil {
		h.t.Fatal(err)
	}
}

// plane are the settings of the data plane, which is the firewall.
func (h *host) plane() ipvs.Options {
	return ipvs.Options{
		PlaneOptions: lb.PlaneOptions{Pool: prefix("10.96.0.0/16"), StateDir: h.t.TempDir()},
		Netns:        filepath.Join(h.t.TempDir(), "sandbox"),
	}
}

func (w *world) nodes() []model.Node {
	var nodes []model.Node
	for _, h := range w.hosts {
		nodes = append(nodes, h.node)
	}
	slices.SortFunc(nodes, func(a, b model.Node) int { return strings.Compare(a.Name, b.Name) })
	return nodes
}

func (w *world) snapshot(h *host) *model.Snapshot {
	return &model.Snapshot{Self: h.node, Nodes: w.nodes(), Networks: []model.Network{
		{Name: "mesh", Bridge: "br-mesh", Subnets: []netip.Prefix{h.node.Subnet}},
		{Name: "other", Bridge: "br-other", Subnets: []netip.Prefix{prefix("172.30.0.0/24")}},
	}}
}

// reconcile runs a pass on a host; the problems it has.
func (w *world) reconcile(name string, full bool) []model.Problem {
	w.t.Helper()
	h := w.hosts[name]
	var problems []model.Problem
	h.do(func() error {
		problems = h.fabric.Reconcile(context.Background(), w.snapshot(h), full).Problems
		return nil
	})
	return problems
}

// reconcileAll runs a full pass on every host, without problems.
func (w *world) reconcileAll() {
	w.t.Helper()
	for name := range w.hosts {
		if ps := w.reconcile(name, true); len(ps) > 0 {
			w.t.Fatalf("problems of host %s: %+v", name, ps)
		}
	}
}

// serve answers on port 8000 of the namespace with the address a packet or
// connection came from; by TCP it takes all that is sent first, and tells how
// much that was.
func (s *space) serve(network string) {
	s.t.Helper()
	s.do(func() error {
		if network == "udp4" {
			c, err := net.ListenPacket(network, ":8000")
			if err != nil {
				return err
			}
			s.t.Cleanup(func() { c.Close() })
			go func() {
				b := make([]byte, 65536)
				for {
					_, from, err := c.ReadFrom(b)
					if err != nil {
						return
					}
					c.WriteTo([]byte(from.(*net.UDPAddr).IP.String()), from)
				}
			}()
			return nil
		}
		l, err := net.Listen(network, ":8000")
		if err != nil {
			return err
		}
		s.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					n, _ := io.Copy(io.Discard, c)
					fmt.Fprintf(c, "%s %d", c.RemoteAddr().(*net.TCPAddr).IP, n)
				}()
			}
		}()
		return nil
	})
}

const waitLimit = 3 * time.Second

// ask sends size octets by TCP, or one packet by UDP, to port 8000, and returns
// the answer: the address it was seen with, and for TCP the size; mss is TCP's
// segment size.
func (s *space) ask(network, to string, size int, wait time.Duration) (answer string, mss int, err error) {
	return s.askFrom(netip.IPv4Unspecified(), network, to, size, wait)
}

func (s *space) askFrom(from netip.Addr, network, to string, size int, wait time.Duration) (answer string, mss int, err error) {
	err = s.try(func() error {
		var local net.Addr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		if network == "udp4" {
			local = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		c, err := (&net.Dialer{Timeout: wait, LocalAddr: local}).Dial(network, net.JoinHostPort(to, "8000"))
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(wait))
		if _, err := c.Write(make([]byte, max(size, 1))); err != nil {
			return err
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			raw, err := tcp.SyscallConn()
			if err != nil {
				return err
			}
			raw.Control(func(fd uintptr) { mss, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) })
			tcp.CloseWrite()
		}
		b := make([]byte, 100)
		n, err := c.Read(b)
		answer = string(b[:n])
		return err
	})
	return answer, mss, err
}

// ping sends an ICMP echo in a packet of size octets, IP header and all, with
// "don't fragment" set.
func (s *space) ping(to netip.Addr, size int, wait time.Duration) error {
	return s.try(func() error {
		c, err := net.ListenPacket("ip4:icmp", "0.0.0.0")
		if err != nil {
			return err
		}
		defer c.Close()
		raw, err := c.(*net.IPConn).SyscallConn()
		if err != nil {
			return err
		}
		raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		})
		if err != nil {
			return err
		}
		m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: 83, Seq: size, Data: make([]byte, size-28)}}
		b, err := m.Marshal(nil)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(b, &net.IPAddr{IP: to.AsSlice()}); err != nil {
			return err
		}
		c.SetDeadline(time.Now().Add(wait))
		for b := make([]byte, 2000); ; {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return err
			}
			m, err := icmp.ParseMessage(1, b[:n])
			if err != nil {
				return err
			}
			switch body := m.Body.(type) {
			case *icmp.Echo:
				if m.Type == ipv4.ICMPTypeEchoReply && body.Seq == size {
					return nil
				}
			case *icmp.DstUnreach:
				return fmt.Errorf("%s says: unreachable, code %d, MTU %d", from, m.Code, int(b[6])<<8|int(b[7]))
			}
		}
	})
}

// reaches is that a container of one host reaches one of another by TCP, UDP
// and ICMP with its own address.
func (w *world) reaches(from, to string) {
	w.t.Helper()
	a, b := w.hosts[from], w.hosts[to]
	for _, network := range []string{"tcp4", "udp4"} {
		got, _, err := a.container.ask(network, b.addr.String(), 0, waitLimit)
		if seen, _, _ := strings.Cut(got, " "); err != nil || seen != a.addr.String() {
			w.t.Errorf("%s from the container of %s to that of %s: seen as %q, %v", network, from, to, got, err)
		}
	}
	if err := a.container.ping(b.addr, 100, waitLimit); err != nil {
		w.t.Errorf("ping from the container of %s to that of %s: %v", from, to, err)
	}
}

func (w *world) serveAll() {
	for _, h := range w.hosts {
		h.container.serve("tcp4")
		h.container.serve("udp4")
		h.serve("tcp4")
	}
}

var volatile = regexp.MustCompile(`(?m)^#.*\n|\[\d+:\d+\]| state \S+|^\S+ dev \S+ master \S+ \n|^\*\w+\n(?::.* ACCEPT.*\n)*COMMIT\n`)

// kernel is all that the fabric could have changed on a host, without what
// changes by itself: counters, and what bridges learn.
func (h *host) kernel() string {
	h.t.Helper()
	var b strings.Builder
	for _, command := range []string{
		"iptables-save", "ipset save -sorted", "ip -o link", "ip -d link show type vxlan", "ip -d link show type ipip", "ip -o addr", "ip route show table all", "ip rule",
		"ip neigh show nud permanent", "bridge fdb",
	} {
		fmt.Fprintf(&b, "## %s\n%s", command, volatile.ReplaceAllString(h.run("", strings.Fields(command)...), ""))
	}
	return b.String()
}
