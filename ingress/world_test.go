//go:build e2e

package ingress

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel/ipvs"
	"shoal/model"
)

var pool = netip.MustParsePrefix("10.96.0.0/16")

// host is a host of the cluster: its own namespace, a bridge with containers
// as an engine makes them, and an Ingress.
type host struct {
	*room
	node       model.Node
	opts       Options
	ingress    *Ingress
	containers map[string]*container
	w          *world
}

type container struct {
	*room
	host *host
	name string
	addr netip.Addr
}

// world is three hosts and a client outside on one wire. The tests with one
// backend share one, with nothing published and no containers at the start.
//
//	client 192.168.88.1   a 192.168.88.11   b 192.168.88.12   c 192.168.88.13
type world struct {
	t       *testing.T // whose turn it is
	wire    *room
	client  *room
	hosts   []*host
	backend string
	dir     string
	snap    *model.Snapshot
}

var worlds = map[string]*world{} // by backend

func newWorld(t *testing.T, backend string) *world {
	t.Helper()
	w := worlds[backend]
	if w == nil {
		w = buildWorld(t, backend)
		worlds[backend] = w
	}
	w.t = t
	w.snap = &model.Snapshot{Revision: w.snap.Revision + 1}
	for _, h := range w.hosts {
		w.snap.Nodes = append(w.snap.Nodes, h.node)
		h.containers = map[string]*container{}
		if h.ingress != nil {
			h.reconcile(false)
		}
	}
	t.Cleanup(func() {
		if t.Failed() { // who knows what it left
			delete(worlds, w.backend)
			w.end()
		}
	})
	return w
}

func (w *world) end() {
	for _, h := range w.hosts {
		h.down()
		h.close()
	}
	w.client.close()
	w.wire.close()
	os.RemoveAll(w.dir)
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, w := range worlds {
		for _, h := range w.hosts {
			h.do(func() { Down(context.Background(), h.opts) })
		}
		os.RemoveAll(w.dir)
	}
	os.Exit(code)
}

func buildWorld(t *testing.T, backend string) *world {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "ingress-")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, backend: backend, dir: dir, snap: &model.Snapshot{}, wire: openRoom(t), client: openRoom(t)}
	bridge(t, w.wire, "wire")
	w.wire.set(t, "net/bridge/bridge-nf-call-iptables", "0")
	plug(t, w.wire, "wire", w.client, clientAddr.String()+"/24", "")
	for i, name := range []string{"a", "b", "c"} {
		w.hosts = append(w.hosts, w.newHost(name, i+1))
	}
	for _, h := range w.hosts {
		h.connect()
	}
	return w
}

func (w *world) newHost(name string, n int) *host {
	t := w.t
	h := &host{room: openRoom(t), w: w}
	h.node = model.Node{
		Name: name, Number: uint16(n), Alive: true,
		Addr:   netip.AddrFrom4([4]byte{192, 168, 88, byte(10 + n)}),
		Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(n), 0}), 24),
	}
	plug(t, w.wire, "wire", h.room, h.node.Addr.String()+"/24", clientAddr.String())
	h.must(t, func() error {
		l, err := netlink.LinkByName("eth0")
		if err == nil {
			h.node.MAC = model.MAC(l.Attrs().HardwareAddr)
		}
		return err
	})
	bridge(t, h.room, "mesh")
	h.must(t, func() error { return configure("mesh", fmt.Sprintf("10.244.%d.1/24", n), "") })
	bridge(t, h.room, "other") // a network of this host alone
	h.must(t, func() error { return configure("other", "172.30.0.1/24", "") })
	h.set(t, "net/ipv4/ip_forward", "1")
	h.set(t, "net/bridge/bridge-nf-call-iptables", "1")
	for _, dev := range []string{"all", "eth0", "default"} {
		h.set(t, "net/ipv4/conf/"+dev+"/rp_filter", "1")
	}
	h.opts = Options{
		Pool: pool, Netns: filepath.Join(w.dir, name+"-netns"), StateDir: filepath.Join(w.dir, name),
		Timeouts: ipvs.Timeouts{TCP: 7440 * time.Second, TCPFin: 120 * time.Second, UDP: 300 * time.Second},
		VTEPMAC: func(n model.Node) model.MAC {
			a := n.Addr.As4()
			return model.MAC{2, 0x53, a[0], a[1], a[2], a[3]}
		},
	}
	h.must(t, h.filter)
	return h
}

// filter is what an engine from 28 on, a firewall that drops, and the network
// between hosts make of iptables.
func (h *host) filter() error {
	net, n := h.node.Subnet.String(), h.node.Number
	return iptables(fmt.Sprintf(`*raw
-A PREROUTING ! -s 10.244.0.0/16 -d 10.244.%[2]d.2 ! -i mesh -j DROP
-A PREROUTING ! -s 10.244.0.0/16 -d 10.244.%[2]d.3 ! -i mesh -j DROP
COMMIT
*nat
-A POSTROUTING -s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN
-A POSTROUTING -s %[1]s ! -o mesh -j MASQUERADE
-A POSTROUTING -s 172.30.0.0/24 ! -o other -j MASQUERADE
COMMIT
*filter
:INPUT DROP
:FORWARD DROP
-A INPUT -i lo -j ACCEPT
-A INPUT -p icmp -j ACCEPT
-A INPUT -p udp --dport 8483 -j ACCEPT
-A INPUT -p 4 -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -s 10.244.0.0/16 -d 10.244.0.0/16 -j ACCEPT
-A FORWARD -i mesh ! -o mesh -j ACCEPT
-A FORWARD -i other ! -o other -j ACCEPT
-A FORWARD -o mesh -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o other -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
`, net, n))
}

// addRules has rules of others there until the test ends: "TABLE -A CHAIN …".
func (h *host) addRules(rules ...string) {
	h.w.t.Helper()
	for _, r := range rules {
		h.edit(r)
		h.w.t.Cleanup(func() { h.edit(strings.Replace(r, "-A", "-D", 1)) })
	}
}

// dropRules has some not there until the test ends.
func (h *host) dropRules(rules ...string) {
	h.w.t.Helper()
	for _, r := range rules {
		h.edit(strings.Replace(r, "-A", "-D", 1))
		h.w.t.Cleanup(func() { h.edit(r) })
	}
}

func (h *host) edit(rule string) {
	h.w.t.Helper()
	table, rule, _ := strings.Cut(rule, " ")
	h.must(h.w.t, func() error { return iptables("*" + table + "\n" + rule + "\nCOMMIT\n") })
}

func iptables(script string) error {
	cmd := exec.Command("iptables-restore", "--noflush")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("iptables-restore: %w: %s", err, out)
	}
	return nil
}

// connect makes the routes to the other hosts' containers.
func (h *host) connect() {
	h.must(h.w.t, func() error {
		index := 0
		self := h.node.Addr.AsSlice()
		lowest := &netlink.Addr{IPNet: &net.IPNet{IP: h.node.Subnet.Addr().AsSlice(), Mask: net.CIDRMask(32, 32)}}
		var link netlink.Link
		switch h.w.backend {
		case "host-gw":
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			index = l.Attrs().Index
		case "vxlan":
			mac := h.opts.VTEPMAC(h.node)
			link = &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "shoal.vxlan", MTU: 1450, HardwareAddr: mac[:]}, VxlanId: 7, SrcAddr: self, Port: 8483}
		case "ipip":
			link = &netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "shoal.ipip", MTU: 1480}, Local: self, Ttl: 64, PMtuDisc: 1, Proto: unix.IPPROTO_IPIP}
		}
		if link != nil {
			if err := netlink.LinkAdd(link); err != nil {
				return err
			}
			if err := netlink.AddrAdd(link, lowest); err != nil {
				return err
			}
			if err := netlink.LinkSetUp(link); err != nil {
				return err
			}
			index = link.Attrs().Index
			// As the network between hosts does for its own devices.
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+link.Attrs().Name+"/rp_filter", []byte("2"), 0); err != nil {
				return err
			}
		}
		for _, p := range h.w.hosts {
			if p == h {
				continue
			}
			if h.w.backend == "vxlan" {
				mac := h.opts.VTEPMAC(p.node)
				if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: p.node.Addr.AsSlice(), HardwareAddr: mac[:]}); err != nil {
					return err
				}
				if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: p.node.Addr.AsSlice(), HardwareAddr: mac[:]}); err != nil {
					return err
				}
			}
			s := p.node.Subnet
			if err := netlink.RouteAdd(&netlink.Route{
				LinkIndex: index, Gw: p.node.Addr.AsSlice(), Flags: int(netlink.FLAG_ONLINK),
				Dst: &net.IPNet{IP: s.Addr().AsSlice(), Mask: net.CIDRMask(s.Bits(), 32)},
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

// run starts a container on the host's bridge, with the n-th address.
func (h *host) run(name string, n int) *container {
	t := h.w.t
	t.Helper()
	c := &container{host: h, name: name, addr: netip.AddrFrom4([4]byte{10, 244, byte(h.node.Number), byte(n)})}
	c.room = h.w.attach(h.room, "mesh", c.addr.String()+"/24", fmt.Sprintf("10.244.%d.1", h.node.Number))
	h.containers[name] = c
	return c
}

// attach makes a room on a bridge of another, that lasts as long as the test.
func (w *world) attach(to *room, bridge, addr, gw string) *room {
	w.t.Helper()
	r := newRoom(w.t)
	unplug := plug(w.t, to, bridge, r, addr, gw)
	w.t.Cleanup(func() {
		if err := unplug(); err != nil {
			w.t.Errorf("unplug %s: %v", addr, err)
		}
	})
	return r
}

// service is a service of the world with tasks in the named containers.
func (w *world) service(name string, s model.Spec, in ...string) {
	svc := model.Service{ID: model.ServiceID{Stack: "default", Name: name}, Spec: s}
	for _, h := range w.hosts {
		for _, c := range h.containers {
			if slices.Contains(in, c.name) {
				svc.Tasks = append(svc.Tasks, model.Task{
					Service: svc.ID, Node: h.node.Name, Container: c.name, Name: c.name, Addr: c.addr,
					State: model.Running, Weight: 1, Started: time.Unix(1000, 0), Spec: s,
				})
			}
		}
	}
	w.change(func(snap *model.Snapshot) {
		snap.Services = slices.DeleteFunc(snap.Services, func(o model.Service) bool { return o.ID == svc.ID })
		snap.Services = append(snap.Services, svc)
		slices.SortFunc(snap.Services, func(a, b model.Service) int { return a.ID.Compare(b.ID) })
	})
}

// change makes a new Snapshot.
func (w *world) change(f func(*model.Snapshot)) {
	snap := *w.snap
	snap.Revision++
	snap.Nodes = slices.Clone(snap.Nodes)
	snap.Services = slices.Clone(snap.Services)
	snap.Published = slices.Clone(snap.Published)
	f(&snap)
	w.snap = &snap
}

// task changes one task of the first service, as the host it is on or the
// others see it.
func (w *world) task(name string, f func(*model.Task)) {
	w.change(func(snap *model.Snapshot) {
		s := &snap.Services[0]
		s.Tasks = slices.Clone(s.Tasks)
		for i := range s.Tasks {
			if s.Tasks[i].Name == name {
				f(&s.Tasks[i])
			}
		}
	})
}

// as is the Snapshot as a host sees it.
func (w *world) as(h *host) *model.Snapshot {
	snap := *w.snap
	snap.Self = h.node
	n := byte(h.node.Number)
	snap.Networks = []model.Network{
		{Name: "mesh", Bridge: "mesh", Subnets: []netip.Prefix{h.node.Subnet}, Gateway: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, n, 1})}},
		{Name: "other", Bridge: "other", Subnets: []netip.Prefix{netip.MustParsePrefix("172.30.0.0/24")}, Gateway: []netip.Addr{netip.MustParseAddr("172.30.0.1")}},
	}
	return &snap
}

// settle has every host claim its ports and reconcile. It returns the
// problems of all of them.
func (w *world) settle(full bool) (problems []model.Problem) {
	w.t.Helper()
	for range 2 { // a port that is released is claimed in the next round
		for _, h := range w.hosts {
			claim, release, _ := Claims(w.as(h))
			w.change(func(snap *model.Snapshot) {
				snap.Published = slices.DeleteFunc(snap.Published, func(c model.PortClaim) bool { return slices.Contains(release, c) })
				snap.Published = append(snap.Published, claim...)
			})
		}
	}
	for _, h := range w.hosts {
		_, _, refusals := Claims(w.as(h))
		problems = append(append(problems, refusals...), h.reconcile(full)...)
	}
	return problems
}

func (h *host) reconcile(full bool) (problems []model.Problem) {
	h.w.t.Helper()
	h.must(h.w.t, func() (err error) {
		if h.ingress == nil {
			if h.ingress, err = New(h.opts); err != nil {
				return err
			}
		}
		_, problems = h.ingress.Reconcile(context.Background(), h.w.as(h), full)
		return nil
	})
	return problems
}

// restart has a new process take over.
func (h *host) restart() {
	h.do(func() { h.ingress.Close() })
	h.ingress = nil
}

func (h *host) down() {
	h.must(h.w.t, func() error {
		if h.ingress != nil {
			h.ingress.Close()
			h.ingress = nil
		}
		return Down(context.Background(), h.opts)
	})
}

// publish is the Spec of a service that publishes ports: "8000:80/tcp".
func publish(t *testing.T, ports ...string) (s model.Spec) {
	t.Helper()
	s = model.Spec{Mode: model.ModeVIP, Scheduler: "rr"}
	for _, p := range ports {
		var pub model.PublishedPort
		rest, proto, _ := strings.Cut(p, "/")
		pub.Protocol, _ = model.ParseProtocol(proto)
		f := strings.Split(rest, ":")
		if len(f) == 3 {
			pub.IP = netip.MustParseAddr(f[0])
			f = f[1:]
		}
		if _, err := fmt.Sscan(f[0], &pub.Published); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(f[1], &pub.Target); err != nil {
			t.Fatal(err)
		}
		s.Publish = append(s.Publish, pub)
	}
	return s
}
