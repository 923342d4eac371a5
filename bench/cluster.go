package bench

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/lab"
)

// meshNetwork is the Docker network that the agents make.
const meshNetwork = "mesh"

// The client outside is on the hosts' link; from outsideAddr on there are no hosts.
const outsideNet = "192.168.77.192/26"

var outsideAddr = netip.MustParseAddr("192.168.77.200")

// cluster is three hosts, of which the first, a, has the store. Service near has its only
// task on a, far on b; both are published.
type cluster struct {
	*bench
	a, b, c   *site
	lab       *lab.Lab
	subnets   map[*site]netip.Prefix // of containers
	clients   map[*site]*caller      // in a container each
	outside   *caller                // a client that is no part of it
	bare      *caller                // host a itself
	near, far target
}

// meshAims are those of a published port.
var meshAims = aims{kept: 0.85, once: 0.85, bulk: 0.85}

// target is a service with one task.
type target struct {
	task      netip.Addr
	outside   netip.Addr // of a container like the task, on a network that clients outside reach
	vip       netip.Addr
	published uint16
}

// manyHosts measures what there is to three hosts. Agents left to themselves use host-gw, as
// the hosts share a link.
func (b *bench) manyHosts() {
	c := newCluster(b)
	b.add(c.versus("mesh port, local task", c.outside, c.meshPort(c.near), c.near.outside, meshAims))
	c.across("host-gw")
	b.add(c.changes())
	b.add(c.deaths())
	c.useVXLAN()
	c.across("vxlan")
}

// across measures what goes from one host to another by a backend.
func (c *cluster) across(backend string) {
	client := c.clients[c.a]
	c.add(c.versus("mesh port, remote task, "+backend, c.outside, c.meshPort(c.far), c.far.outside, meshAims))
	c.add(c.versus("VIP, remote task, "+backend, client, netip.AddrPortFrom(c.far.vip, port), c.far.task, vipAims))
	c.Logf("container to container, %s", backend)
	r := c.contest(client.path(c.far.task, port), c.bare.path(c.b.host.Addr(), port))
	c.add(r.rows("container to container, "+backend, "host to host", aims{}))
}

// versus compares what a caller gets at an address with the same straight from the task.
func (c *cluster) versus(label string, from *caller, at netip.AddrPort, task netip.Addr, aim aims) []Row {
	c.Logf("%s", label)
	r := c.contest(from.path(at.Addr(), at.Port()), from.path(task, port))
	return r.rows(label, "straight to the task", aim)
}

// meshPort is where a service is published, on host a.
func (c *cluster) meshPort(t target) netip.AddrPort {
	return netip.AddrPortFrom(c.a.host.Addr(), t.published)
}

func newCluster(b *bench) *cluster {
	b.Logf("three hosts with engines and agents")
	c := &cluster{bench: b, lab: lab.New(b), subnets: map[*site]netip.Prefix{}, clients: map[*site]*caller{}}
	hosts := c.lab.Cluster([]string{"a", "b", "c"}, planeAlone...)
	c.a, c.b, c.c = newSite(b, hosts[0]), newSite(b, hosts[1]), newSite(b, hosts[2])
	for _, s := range c.sites() {
		var err error
		c.subnets[s], err = netip.ParsePrefix(s.host.Docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", meshNetwork))
		b.must("read the subnet of network "+meshNetwork, err)
		s.run(meshNetwork, "client", c.addr(s, 5), "whoami", "sleep", "86400")
		c.clients[s] = s.caller("client", c.addr(s, 200))
	}
	c.outside = b.newCaller(c.lab.Outside().Netns(), outsideAddr)
	c.near = c.serve(c.a, "near", 8081)
	c.far = c.serve(c.b, "far", 8082)
	c.b.host.Start("whoami", "serve") // for the bare link
	c.bare = b.newCaller(c.a.host.Netns(), netip.Addr{})
	return c
}

func (c *cluster) sites() []*site { return []*site{c.a, c.b, c.c} }

// addr is the n-th address of a host's containers.
func (c *cluster) addr(s *site, n int) netip.Addr {
	return nth(c.subnets[s].Addr().String(), n)
}

// serve starts the task of a service, published, and waits until every host knows it.
func (c *cluster) serve(on *site, name string, published uint16) target {
	t := target{task: c.addr(on, 10), published: published}
	on.run(meshNetwork, name, t.task, "-l", "shoal.service="+name, "-l", fmt.Sprintf("shoal.publish=%d:%d", published, port), "whoami")
	for _, s := range c.sites() {
		t.vip = s.vip(name, 1)
	}
	t.outside = c.openTo(on, name)
	return t
}

// openTo starts a container that the client outside reaches by its own address, to compare with. shoal closes the mesh's
// network to the link, so it is on another one, of the same kind; that the host's firewall lets the client in is no part of
// what shoal does.
func (c *cluster) openTo(on *site, name string) netip.Addr {
	subnet := fmt.Sprintf("172.30.%d.0/24", on.host.Addr().As4()[3])
	_, to, err := net.ParseCIDR(subnet)
	c.must("read "+subnet, err)
	on.host.Docker("network", "create", "--subnet", subnet, "open")
	addr := nth(to.IP.String(), 10)
	on.run("open", name+"-open", addr, "whoami")
	on.host.Exec("iptables", "-I", "DOCKER-USER", "-s", outsideNet, "-d", subnet, "-j", "ACCEPT")
	c.must("route to the container", c.outside.do(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: to, Gw: on.host.Addr().AsSlice()})
	}))
	return addr
}

// useVXLAN starts the agents again, with that backend, and waits until packets go its way.
func (c *cluster) useVXLAN() {
	c.Logf("the agents start again, with --backend vxlan")
	for _, s := range c.sites() {
		s.host.KillAgent(unix.SIGTERM)
		s.host.StartAgent(append([]string{"--backend", "vxlan"}, planeAlone...)...)
	}
	for _, s := range c.sites() {
		for _, other := range c.sites() {
			if s != other {
				lab.Eventually(c, waitLimit, s.host.Name()+" reaches "+other.host.Name()+" by vxlan", func() error {
					return s.inHost.do(func() error { return leadsTo(c.addr(other, 10), "shoal.vxlan") })
				})
			}
		}
		s.vip("near", 1)
		s.vip("far", 1)
	}
}

// leadsTo says that the way to an address is another than by that device.
func leadsTo(addr netip.Addr, device string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	routes, err := netlink.RouteGet(addr.AsSlice())
	if err == nil && routes[0].LinkIndex != link.Attrs().Index {
		err = fmt.Errorf("packets to %s leave by another device than %s", addr, device)
	}
	return err
}

// changes has a container come and go on host b, one of two tasks of service web, the other of
// which is on c, with a client on each host.
func (c *cluster) changes() []Row {
	c.c.run(meshNetwork, "web", c.addr(c.c, 11), "-l", "shoal.service=web", "whoami")
	for _, s := range c.sites() {
		s.vip("web", 1)
	}
	callers := []*caller{c.clients[c.a], c.clients[c.b], c.clients[c.c]}
	c.askQuickly(c.clients[c.b].thread, "eth0")
	c.askQuickly(c.b.inHost, "shoal0")
	stage := &stage{site: c.b, sites: c.sites(), callers: callers, addr: c.addr(c.b, 11), pace: 40 * time.Millisecond}
	stage.prepare(meshNetwork)
	return stage.changes("three hosts, from every one", 150*time.Millisecond)
}
