package bench

import (
	"net/netip"
	"time"

	"shoal/lab"
)

// socketAims are those of a VIP whose connections are led in connect().
var socketAims = aims{kept: 0.99, once: 0.97, bulk: 0.99}

// ledPace is how often a client makes a connection, before those straight to the task.
const ledPace = 500 * time.Microsecond

// Comparisons are so many times longer than elsewhere: the aims are nearer to one.
const socketLonger = 4

// sockets is two hosts, whose agents lead connections in connect(). Host a has a client, and the only
// task of a service; b has a task that goes away.
//
// The same client can do without: the agent leads the sockets of its host's control
// group, and what the client makes outside of it the data plane carries alone.
type sockets struct {
	*bench
	a, b          *site
	group         string // the control group whose sockets the agent of a sees
	client        *caller
	vip, task     netip.Addr
	server        int  // the task's process
	led, straight path // in the group
	plain         path // outside
}

// sockets measures what balancing in connect() does, in front of the data plane.
func (b *bench) sockets() {
	if !lab.SocketBalancing() {
		b.Logf("left out: agents of this lab are to lead nobody in connect()")
		return
	}
	long := b.long
	defer func() { b.long = long }()
	b.long *= socketLonger
	b.add(b.connects())
	s := newSockets(b)
	b.Logf("through the VIP, led in connect()")
	b.enterGroup(s.group)
	b.add(b.contest(s.led, s.straight).rows("VIP, led in connect()", "straight to the task", socketAims))
	b.add(s.costs())
	b.enterGroup(s.group)
	row := s.client.straightAfter(s.vip, s.task, ledPace)
	row.What = "led in connect(): " + row.What
	b.add([]Row{row})
	b.add(s.losses())
}

func newSockets(b *bench) *sockets {
	b.Logf("two hosts with engines and agents")
	hosts := lab.New(b).Cluster([]string{"a", "b"})
	s := &sockets{bench: b, a: newSite(b, hosts[0]), b: newSite(b, hosts[1])}
	s.group = b.newGroup(s.a.host.Cgroup())
	subnet := s.subnet(s.a)
	s.task = nth(subnet, 10)
	s.a.run(meshNetwork, "client", nth(subnet, 5), "whoami", "sleep", "86400")
	s.a.run(meshNetwork, "web", s.task, "-l", "shoal.service=web", "whoami")
	s.client = s.a.caller("client", nth(subnet, 200))
	s.vip = s.a.vip("web", 1)
	s.a.awaitRotation(s.vip, 1)
	s.server = s.a.processIn("web")
	s.led, s.straight, s.plain = s.client.path(s.vip, port), s.client.path(s.task, port), s.client.another(s.vip, port)
	s.inside(func() { s.led.mustLead(s.task) })
	s.outside(func() { s.plain.mustLead(s.vip) })
	return s
}

// inside does something where connections are led.
func (s *sockets) inside(f func()) {
	s.enterGroup(s.group)
	f()
}

// outside does it where they are not.
func (s *sockets) outside(f func()) {
	s.leaveGroups()
	f()
}

// subnet is the first address of the network of a host's containers.
func (s *sockets) subnet(on *site) string {
	subnet, err := netip.ParsePrefix(on.host.Docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", meshNetwork))
	s.must("read the subnet of network "+meshNetwork, err)
	return subnet.Addr().String()
}
