package conformance

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/lb"
	"shoal/model"
)

// The addresses of the world.
var (
	pool     = netip.MustParsePrefix("10.96.0.0/16")
	dnsVIP   = netip.MustParseAddr("10.96.0.10")
	dnsPeers = netip.MustParseAddr("10.96.0.11")
	cluster  = netip.MustParsePrefix("10.244.0.0/16") // of all hosts' containers
	otherNet = netip.MustParsePrefix("172.30.0.0/24") // known to host a alone

	clientAddr = netip.MustParseAddr("192.168.88.1")
	hostA      = netip.MustParseAddr("192.168.88.11")
	hostB      = netip.MustParseAddr("192.168.88.12")
	hostC      = netip.MustParseAddr("192.168.88.13")
)

// The ports that every container answers on, by TCP and UDP.
var served = []int{80, 8080, 9000, 9001, 9002}

// tunnel is the device between hosts a and c; its packets have this port.
const (
	tunnel       = "shoal.vxlan"
	tunnelPort   = 8483
	tunnelNumber = 7
)

type world struct {
	t      *testing.T // whose turn it is
	plane  *Plane
	dir    string
	wire   *namespace
	client *namespace
	a      *host
	hosts  []*host
	names  map[string]*namespace // hosts, containers and the client
	up     []*host               // those whose planes this test uses
	late   int                   // how often this test waited in vain

	revision uint64
	nodes    []*host // that are in the cluster
	dead     map[string]bool
	services map[string]*model.Service
}

// host is a host of the cluster, and what runs on it.
type host struct {
	*namespace
	number     byte
	node       model.Node
	nets       []model.Network
	containers []*container
	resting    []netip.Addr // that tasks of it had until just now
	opts       lb.PlaneOptions
	dp         lb.DataPlane // nil: none so far
	balancer   *lb.Balancer
}

type container struct {
	*namespace
	bridge string
}

func newWorld(t *testing.T, p *Plane) *world {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "conformance-")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, plane: p, dir: dir, names: map[string]*namespace{}}
	w.wire = newNamespace(t, "wire", netip.Addr{}, nil)
	w.wire.must(t, func() error { return makeBridge("wire") })
	w.wire.set(t, "0", "net/bridge/bridge-nf-call-iptables")
	w.client = w.join("client", clientAddr, netip.Addr{}, nil)
	for i, name := range []string{"a", "b", "c"} {
		w.hosts = append(w.hosts, w.newHost(name, byte(i+1)))
	}
	w.a = w.hosts[0]
	for _, name := range []string{"a1", "a2", "a3", "a4", "b1", "b2", "c1"} {
		w.run(w.hosts[name[0]-'a'], name, "mesh")
	}
	w.run(w.a, "x1", "other")
	w.run(w.a, "x2", "other")
	for _, h := range w.hosts {
		h.must(t, func() error { return iptables(h.engineRules()) })
		w.connect(h)
	}
	// Somebody on the link who would like to reach more than is published.
	w.client.must(t, func() error {
		for _, dst := range []netip.Prefix{pool, w.a.node.Subnet, otherNet} {
			if err := netlink.RouteAdd(&netlink.Route{Dst: ipNet(dst), Gw: hostA.AsSlice()}); err != nil {
				return err
			}
		}
		return nil
	})
	return w
}

// joining has a thread be one of a host.
func (w *world) joining(host string) func() error {
	if w.plane.Join == nil {
		return nil
	}
	return func() error { return w.plane.Join(host) }
}

// join makes a namespace on the hosts' link.
func (w *world) join(name string, addr, gateway netip.Addr, join func() error) *namespace {
	n := newNamespace(w.t, name, addr, join)
	n.plug(w.t, w.wire, "wire", name, netip.PrefixFrom(addr, 24), gateway)
	w.names[name] = n
	return n
}

func (w *world) newHost(name string, number byte) *host {
	t := w.t
	addr := netip.AddrFrom4([4]byte{192, 168, 88, 10 + number})
	h := &host{namespace: w.join(name, addr, clientAddr, w.joining(name)), number: number}
	subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, number, 0}), 24)
	h.node = model.Node{Name: name, Number: uint16(number), Alive: true, Addr: addr, Subnet: subnet}
	h.must(t, func() error {
		l, err := netlink.LinkByName("eth0")
		if err == nil {
			h.node.MAC = model.MAC(l.Attrs().HardwareAddr)
		}
		return err
	})
	h.network(t, "mesh", subnet)
	if number == 1 {
		h.network(t, "other", otherNet)
	}
	h.set(t, "1", "net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter")
	h.set(t, "2", "net/ipv4/conf/eth0/rp_filter")
	// Without a limit, so that every datagram is refused.
	h.set(t, "0", "net/ipv4/icmp_ratemask", "net/bridge/bridge-nf-call-iptables")
	h.opts = lb.PlaneOptions{
		Pool: pool, DNS: dnsVIP, DNSPeers: dnsPeers, StateDir: filepath.Join(w.dir, name),
		Timeouts: lb.Timeouts{TCP: 7440 * time.Second, TCPFin: 120 * time.Second, UDP: 300 * time.Second},
	}
	return h
}

func (h *host) network(t *testing.T, bridge string, subnet netip.Prefix) {
	gateway := subnet.Addr().Next()
	h.must(t, func() error {
		if err := makeBridge(bridge); err != nil {
			return err
		}
		return address(bridge, netip.PrefixFrom(gateway, subnet.Bits()))
	})
	h.nets = append(h.nets, model.Network{Name: bridge, Bridge: bridge, Subnets: []netip.Prefix{subnet}, Gateway: []netip.Addr{gateway}})
}

// run starts a container on a bridge of the host.
func (w *world) run(h *host, name, bridge string) {
	var subnet netip.Prefix
	for _, n := range h.nets {
		if n.Bridge == bridge {
			subnet = n.Subnets[0]
		}
	}
	gateway := subnet.Addr().Next()
	addr := gateway
	for range name[1] - '0' {
		addr = addr.Next()
	}
	c := &container{newNamespace(w.t, name, addr, w.joining(h.name)), bridge}
	c.plug(w.t, h.namespace, bridge, "v"+name, netip.PrefixFrom(addr, subnet.Bits()), gateway)
	for _, port := range served {
		for _, network := range []string{"tcp", "udp"} {
			c.serve(w.t, network, netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(port)))
		}
	}
	h.containers = append(h.containers, c)
	w.names[name] = c.namespace
}

// connect makes the ways to the other hosts' containers, and those of the
// replies to connections that came through another host's published port.
func (w *world) connect(h *host) {
	h.must(w.t, func() error {
		for _, p := range w.hosts {
			if p == h {
				continue
			}
			device := "eth0"
			if h.tunnels(p) {
				device = tunnel
				if err := h.makeTunnel(p); err != nil {
					return err
				}
			}
			l, err := netlink.LinkByName(device)
			if err != nil {
				return err
			}
			to := netlink.Route{LinkIndex: l.Attrs().Index, Gw: p.addr.AsSlice(), Flags: int(netlink.FLAG_ONLINK), Dst: ipNet(p.node.Subnet)}
			if err := netlink.RouteAdd(&to); err != nil {
				return fmt.Errorf("add the route to %s: %w", p.node.Subnet, err)
			}
			mark, mask := lb.PacketMark|uint32(p.number), lb.MarkMask
			to.Dst, to.Table = everywhere, int(mark)
			if err := netlink.RouteAdd(&to); err != nil {
				return fmt.Errorf("add the route of replies by way of %s: %w", p.name, err)
			}
			r := netlink.NewRule()
			r.Family, r.Priority, r.Table, r.Mark, r.Mask = netlink.FAMILY_V4, 540, int(mark), mark, &mask
			if err := netlink.RuleAdd(r); err != nil {
				return fmt.Errorf("add the rule of replies by way of %s: %w", p.name, err)
			}
		}
		return nil
	})
}

// tunnels tells whether two hosts reach each other's containers by a tunnel.
func (h *host) tunnels(p *host) bool { return h.number+p.number == 1+3 }

// tunnelMAC is the address of a host's end of its tunnels.
func tunnelMAC(n model.Node) model.MAC {
	a := n.Addr.As4()
	return model.MAC{2, 0x53, a[0], a[1], a[2], a[3]}
}

func (h *host) makeTunnel(p *host) error {
	mac, far := tunnelMAC(h.node), tunnelMAC(p.node)
	l := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: tunnel, MTU: 1450, HardwareAddr: mac[:]}, VxlanId: tunnelNumber, SrcAddr: h.addr.AsSlice(), Port: tunnelPort}
	if err := netlink.LinkAdd(l); err != nil {
		return fmt.Errorf("make a tunnel: %w", err)
	}
	if err := address(tunnel, netip.PrefixFrom(h.node.Subnet.Addr(), 32)); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+tunnel+"/rp_filter", []byte("2"), 0); err != nil {
		return err
	}
	for _, n := range []netlink.Neigh{
		{IP: p.addr.AsSlice()},
		{IP: p.addr.AsSlice(), Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF},
	} {
		n.LinkIndex, n.State, n.HardwareAddr = l.Attrs().Index, netlink.NUD_PERMANENT, net.HardwareAddr(far[:])
		if err := netlink.NeighSet(&n); err != nil {
			return fmt.Errorf("add the tunnel's neighbour %s: %w", p.addr, err)
		}
	}
	return nil
}

// between is what the host is told of the network between hosts.
func (w *world) between(h *host) lb.Between {
	b := lb.Between{Own: h.node.Subnet}
	b.Links = append(b.Links, lb.Link{Net: h.node.Subnet, Device: "mesh"})
	for _, p := range w.hosts {
		if p == h {
			continue
		}
		b.Nets = append(b.Nets, p.node.Subnet)
		b.Hosts = append(b.Hosts, p.addr)
		b.HostAddrs = append(b.HostAddrs, p.addr, p.node.Subnet.Addr(), p.node.Subnet.Addr().Next())
		if h.tunnels(p) {
			b.Links = append(b.Links, lb.Link{Net: p.node.Subnet, Device: tunnel})
			b.Tunnels = []lb.Tunnel{{Protocol: unix.IPPROTO_UDP, Port: tunnelPort}}
		} else {
			b.Links = append(b.Links, lb.Link{Net: netip.PrefixFrom(p.addr, 32), Device: "eth0"}, lb.Link{Net: p.node.Subnet, Device: "eth0"})
		}
	}
	return b
}

// end takes the world away.
func (w *world) end() {
	for _, h := range w.hosts {
		if h.dp != nil {
			_ = h.do(func() error { return h.down(w.plane) })
		}
		for _, c := range h.containers {
			c.close()
		}
		h.close()
	}
	w.client.close()
	w.wire.close()
	os.RemoveAll(w.dir)
}
