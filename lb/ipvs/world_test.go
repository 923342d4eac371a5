//go:build e2e

package ipvs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"shoal/catalog"
	"shoal/kernel"
	"shoal/kernel/ipvs"
	"shoal/lab/wait"
	"shoal/model"
)

// world is a host in a network namespace of its own, with two Docker-like
// bridges and containers on them, and the rules of a careful engine: policies
// DROP, bridges kept apart, direct access dropped.
type world struct {
	t    *testing.T
	host netns.NsHandle
	ns   map[string]netns.NsHandle // container -> its namespace
	addr map[string]netip.Addr     // container -> its address
	dir  string
	b    *Balancer

	revision   uint64
	containers []model.Container
	vips       map[model.ServiceID]netip.Addr
	subnet     netip.Prefix // of the host, as the cluster knows it
	others     []model.Node // of the cluster
}

var (
	hostAddr = netip.MustParseAddr("192.0.2.1")
	pool     = netip.MustParsePrefix("10.96.0.0/16")
	dnsVIP   = netip.MustParseAddr("10.96.0.10")
)

// bridges are the networks of the host.
var bridges = []model.Network{
	{Name: "one", Bridge: "br1", Subnets: []netip.Prefix{netip.MustParsePrefix("172.18.0.0/16")}},
	{Name: "two", Bridge: "br2", Subnets: []netip.Prefix{netip.MustParsePrefix("172.19.0.0/16")}},
}

func newWorld(t *testing.T, names ...string) *world {
	t.Helper()
	// The thread is the host's for good: it is never given back, and ends with
	// the test.
	runtime.LockOSThread()
	w := &world{t: t, ns: map[string]netns.NsHandle{}, addr: map[string]netip.Addr{}, dir: t.TempDir(),
		vips: map[model.ServiceID]netip.Addr{}}
	var err error
	w.host, err = netns.New()
	w.ok(err)
	w.up("lo")
	w.device(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}, "192.0.2.1/24")
	w.ok(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	for i, n := range bridges {
		w.device(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: n.Bridge}}, fmt.Sprintf("172.%d.0.1/16", 18+i))
	}
	for i, name := range names {
		w.container(name, i)
	}
	w.restore(w.engineRules())
	w.b = w.balancer()
	return w
}

// container makes a namespace on bridge 1, or 2 if its name ends with "2".
func (w *world) container(name string, i int) {
	n := 0
	if strings.HasSuffix(name, "2") {
		n = 1
	}
	ns, err := netns.New()
	w.ok(err)
	w.ok(netns.Set(w.host))
	bridge, err := netlink.LinkByName(bridges[n].Bridge)
	w.ok(err)
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v" + name, MasterIndex: bridge.Attrs().Index}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}
	w.ok(netlink.LinkAdd(veth))
	w.up("v" + name)
	addr := fmt.Sprintf("172.%d.0.%d", 18+n, 10+i)
	w.in(ns, func() {
		w.up("lo")
		eth, err := netlink.LinkByName("eth0")
		w.ok(err)
		a, _ := netlink.ParseAddr(addr + "/16")
		w.ok(netlink.AddrAdd(eth, a))
		w.up("eth0")
		w.ok(netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(172, byte(18+n), 0, 1)}))
	})
	w.ns[name], w.addr[name] = ns, netip.MustParseAddr(addr)
}

// outside is the address of the machine outside; the host's on that link ends
// with 1.
const outside = "198.51.100.9"

// machine makes a namespace on a link of its own to the host. It knows no way
// but that link; routes lead further by the host.
func (w *world) machine(name string, routes ...string) {
	w.t.Helper()
	ns, err := netns.New()
	w.ok(err)
	w.ok(netns.Set(w.host))
	w.device(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "out0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}, "198.51.100.1/24")
	w.in(ns, func() {
		w.up("lo")
		w.address("eth0", outside+"/24")
		w.up("eth0")
		for _, r := range routes {
			_, dst, err := net.ParseCIDR(r)
			w.ok(err)
			w.ok(netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.IPv4(198, 51, 100, 1)}))
		}
	})
	w.ns[name], w.addr[name] = ns, netip.MustParseAddr(outside)
}

func (w *world) address(device, addr string) {
	w.t.Helper()
	l, err := netlink.LinkByName(device)
	w.ok(err)
	a, err := netlink.ParseAddr(addr)
	w.ok(err)
	w.ok(netlink.AddrAdd(l, a))
}

// engineRules are what Docker has for two bridges, from engine 28 on in raw.
func (w *world) engineRules() string {
	var raw strings.Builder
	for name, a := range w.addr {
		bridge := "br1"
		if strings.HasSuffix(name, "2") {
			bridge = "br2"
		}
		fmt.Fprintf(&raw, "-A PREROUTING -d %s ! -i %s -j DROP\n", a, bridge)
	}
	return "*raw\n" + raw.String() + `COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER -p tcp --dport 7777 -j DNAT --to-destination 172.18.0.99:7777
-A POSTROUTING -s 172.18.0.0/16 ! -o br1 -j MASQUERADE
-A POSTROUTING -s 172.19.0.0/16 ! -o br2 -j MASQUERADE
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:ISOLATION-1 - [0:0]
:ISOLATION-2 - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -j ISOLATION-1
-A FORWARD -o br1 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o br2 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i br1 -o br1 -j ACCEPT
-A FORWARD -i br2 -o br2 -j ACCEPT
-A ISOLATION-1 -i br1 ! -o br1 -j ISOLATION-2
-A ISOLATION-1 -i br2 ! -o br2 -j ISOLATION-2
-A ISOLATION-2 -o br1 -j DROP
-A ISOLATION-2 -o br2 -j DROP
COMMIT
`
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) up(name string) {
	w.t.Helper()
	l, err := netlink.LinkByName(name)
	w.ok(err)
	w.ok(netlink.LinkSetUp(l))
}

func (w *world) device(l netlink.Link, addr string) {
	w.t.Helper()
	w.ok(netlink.LinkAdd(l))
	a, err := netlink.ParseAddr(addr)
	w.ok(err)
	l, err = netlink.LinkByName(l.Attrs().Name)
	w.ok(err)
	w.ok(netlink.AddrAdd(l, a))
	w.ok(netlink.LinkSetUp(l))
}

func (w *world) restore(script string) {
	w.t.Helper()
	cmd := exec.Command("iptables-restore", "--noflush")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("iptables-restore: %v: %s", err, out)
	}
}

func (w *world) sh(command string) string {
	w.t.Helper()
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

// in runs f on a thread in that namespace, and waits.
func (w *world) in(ns netns.NsHandle, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread is thrown away
		if err := netns.Set(ns); err != nil {
			w.t.Error(err)
			return
		}
		f()
	}()
	<-done
}

func (w *world) nsOf(name string) netns.NsHandle {
	if name == "host" {
		return w.host
	}
	return w.ns[name]
}

// serve answers, in a container or on the host, with its name and the client's
// address, then an echo of each line. "host@192.0.2.1" is bound to that address
// instead of 0.0.0.0: from there, UDP would answer with whichever address is
// nearest.
func (w *world) serve(name string, port int, networks ...string) {
	w.t.Helper()
	name, ip, _ := strings.Cut(name, "@")
	for _, network := range networks {
		switch network {
		case "tcp", "sctp":
			var l net.Listener
			var err error
			w.in(w.nsOf(name), func() {
				if network == "sctp" {
					l, err = listenSCTP(port)
				} else {
					l, err = net.Listen("tcp4", fmt.Sprintf("%s:%d", ip, port))
				}
			})
			w.ok(err)
			w.t.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer c.Close()
						host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
						fmt.Fprintf(c, "%s %s\n", name, host)
						io.Copy(c, c)
					}()
				}
			}()
		case "udp":
			var c net.PacketConn
			var err error
			w.in(w.nsOf(name), func() { c, err = net.ListenPacket("udp4", fmt.Sprintf("%s:%d", ip, port)) })
			w.ok(err)
			w.t.Cleanup(func() { c.Close() })
			go func() {
				buf := make([]byte, 2000)
				for {
					_, from, err := c.ReadFrom(buf)
					if err != nil {
						return
					}
					host, _, _ := net.SplitHostPort(from.String())
					c.WriteTo([]byte(name+" "+host+"\n"), from)
				}
			}()
		}
	}
}

// answer is who answered and which client it saw.
type answer struct{ task, client string }

// dial opens a connection from a container or the host.
func (w *world) dial(from, network, to string) (c net.Conn, err error) {
	w.in(w.nsOf(from), func() {
		if network == "sctp" {
			c, err = dialSCTP(netip.MustParseAddrPort(to))
			return
		}
		d := net.Dialer{Timeout: 2 * time.Second}
		c, err = d.Dial(network+"4", to)
	})
	return c, err
}

// ask makes a connection (or sends a datagram) and reads the first line.
func (w *world) ask(from, network, to string) (answer, error) {
	c, err := w.dial(from, network, to)
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	return w.read(c)
}

func (w *world) read(c net.Conn) (a answer, err error) {
	defer c.SetDeadline(time.Time{})
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, udp := c.(*net.UDPConn); udp {
		if _, err := c.Write([]byte("?")); err != nil {
			return a, err
		}
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil {
		fmt.Sscan(line, &a.task, &a.client)
	}
	return a, err
}

// tasks asks n times and counts who answered; each must see that client.
func (w *world) tasks(n int, from, network, to, client string) map[string]int {
	w.t.Helper()
	got := map[string]int{}
	for range n {
		a, err := w.ask(from, network, to)
		if err != nil {
			w.t.Errorf("%s → %s/%s: %v", from, to, network, err)
			continue
		}
		if a.client != client {
			w.t.Errorf("%s → %s/%s: task %s saw client %s, want %s", from, to, network, a.task, a.client, client)
		}
		got[a.task]++
	}
	return got
}

// refused tells that nobody answers, at once.
func (w *world) refused(from, network, to string) {
	w.t.Helper()
	start := time.Now()
	a, err := w.ask(from, network, to)
	if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(start) > time.Second {
		w.t.Errorf("%s → %s/%s: answer %q, error %v after %v; want connection refused at once", from, to, network, a, err, time.Since(start).Round(time.Millisecond))
	}
}

// moves tells that a steady UDP sender is off that task at once: one datagram
// may be lost while the kernel drops the connection, none may reach the task.
func (w *world) moves(udp net.Conn, off string) {
	w.t.Helper()
	for i := range 2 {
		udp.SetDeadline(time.Now().Add(200 * time.Millisecond))
		udp.Write([]byte("?"))
		var task, client string
		if _, err := fmt.Fscan(bufio.NewReader(udp), &task, &client); err != nil && i == 0 {
			continue
		} else if err != nil || task == off {
			w.t.Errorf("UDP is still with %s: answer of %q, %v", off, task, err)
		}
		break
	}
	udp.SetDeadline(time.Time{})
}

// ping sends one echo request and waits for the reply.
func (w *world) ping(from, to string) (err error) {
	var c *icmp.PacketConn
	w.in(w.nsOf(from), func() { c, err = icmp.ListenPacket("ip4:icmp", "0.0.0.0") })
	if err != nil {
		return err
	}
	defer c.Close()
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: 77, Seq: 1}}
	b, _ := m.Marshal(nil)
	if _, err := c.WriteTo(b, &net.IPAddr{IP: net.ParseIP(to)}); err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(time.Second))
	b = make([]byte, 1500)
	for {
		n, peer, err := c.ReadFrom(b)
		if err != nil {
			return err
		}
		if r, err := icmp.ParseMessage(1, b[:n]); err == nil && peer.String() == to && r.Type == ipv4.ICMPTypeEchoReply {
			return nil
		}
	}
}

func (w *world) balancer() *Balancer {
	w.t.Helper()
	b, err := New(Options{Pool: pool, DNS: dnsVIP, DNSPeers: dnsVIP.Next(), StateDir: w.dir})
	w.ok(err)
	w.t.Cleanup(b.Close)
	return b
}

// task makes a running task of a service in a container. Change it, then reconcile.
func (w *world) task(service, container, vip string, ports ...model.Port) *model.Task {
	id := model.ServiceID{Stack: "default", Name: service}
	w.vips[id] = netip.MustParseAddr(vip)
	addr := w.addr[container]
	if container == "host" {
		addr = hostAddr
	}
	w.containers = append(w.containers, model.Container{ID: service + "." + container, Name: container, Node: "a",
		Tasks: []model.Task{{Service: id, Node: "a", Container: container, Addr: addr, State: model.Running, Weight: 1,
			Drain: 10 * time.Second, Spec: model.Spec{Mode: model.ModeVIP, Scheduler: "rr", Ports: ports}}}})
	return &w.containers[len(w.containers)-1].Tasks[0]
}

// elsewhere puts a task's container on another host.
func (w *world) elsewhere(service, container, node string) {
	for i := range w.containers {
		if c := &w.containers[i]; c.ID == service+"."+container {
			c.Node, c.Tasks[0].Node = node, node
		}
	}
}

// of finds a task again.
func (w *world) of(service, container string) *model.Task {
	for i := range w.containers {
		if w.containers[i].ID == service+"."+container {
			return &w.containers[i].Tasks[0]
		}
	}
	w.t.Fatalf("no task %s of %s", container, service)
	return nil
}

// gone takes a task away.
func (w *world) gone(service, container string) {
	for i := range w.containers {
		if w.containers[i].ID == service+"."+container {
			w.containers = append(w.containers[:i:i], w.containers[i+1:]...)
			return
		}
	}
}

func (w *world) snapshot() *model.Snapshot {
	w.revision++
	cs := make([]model.Container, len(w.containers))
	for i, c := range w.containers {
		c.Tasks = append([]model.Task(nil), c.Tasks...)
		cs[i] = c
	}
	s := catalog.NewSnapshot(w.revision, model.Node{Name: "a", Addr: hostAddr, Subnet: w.subnet, Alive: true}, bridges, cs, w.vips)
	s.Nodes = append(s.Nodes, w.others...)
	return s
}

// reconcile passes once; there must be no problem.
func (w *world) reconcile(full bool) (next time.Duration) {
	w.t.Helper()
	next, problems := finish(w.b, w.snapshot(), full)
	for _, p := range problems {
		w.t.Errorf("problem: %s %s: %s", p.Kind, p.Object, p.Reason)
	}
	return next
}

// finish reconciles, a full pass to its end.
func finish(b *Balancer, snap *model.Snapshot, full bool) (next time.Duration, problems []model.Problem) {
	next, problems = b.Reconcile(context.Background(), snap, full)
	for next == GoOn {
		next, problems = b.Reconcile(context.Background(), snap, false)
	}
	return next, problems
}

// writes counts what f writes to the kernel.
func writes(f func()) int {
	before := kernel.Total()
	f()
	return kernel.Total() - before
}

// until calls ok until it is true.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	wait.For(w.t, 5*time.Second, what, ok)
}

// dest is a destination of the front, as the kernel has it.
func (w *world) dest(vip string, proto model.Protocol, port uint16, addr string) (ipvs.Dest, bool) {
	w.t.Helper()
	mark, has := w.b.marks.of[front{netip.MustParseAddr(vip), proto, port}]
	if !has {
		return ipvs.Dest{}, false
	}
	dests, err := w.b.table.IPVS.Destinations(mark)
	if errors.Is(err, syscall.ESRCH) {
		return ipvs.Dest{}, false
	}
	w.ok(err)
	d, has := dests[netip.MustParseAddrPort(addr)]
	return d, has
}
