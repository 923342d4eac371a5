package bench

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"shoal/lab"
)

// swarmNetwork is an overlay network of Docker Swarm.
const swarmNetwork = "overlay"

// swarm is two hosts whose engines are a Swarm, and no agents: c manages it and has a
// client, d has the only task of the service mortal.
type swarm struct {
	*bench
	c, d   *site
	client *caller
	vip    netip.Addr
	waits  *thread
}

// swarms compares what a client learns of the end of its task with what one of Docker Swarm
// does. Swarm balances by IPVS, which the kernel has to have.
func (b *bench) swarms() {
	if thePlane().name != "ipvs" {
		b.Logf("left out: Docker Swarm needs a kernel with IPVS")
		return
	}
	ours := newSockets(b)
	theirs := newSwarm(b)
	addr := nth(ours.subnet(ours.b), 20)
	start := func() { ours.b.run(meshNetwork, mortal, addr, "-l", "shoal.service="+mortal, "whoami") }
	start()
	w := &wake{sockets: ours, task: addr, led: b.enter(ours.client.ns), plain: b.enter(ours.client.ns)}
	for _, l := range []struct {
		loss
		strikeTheirs, mendTheirs func()
	}{
		{loss{"its task is killed", lossLimit, max(1, b.rounds/4), func() { ours.b.kill(mortal) }, func() {
			ours.b.host.Docker("rm", "-f", mortal)
			start()
		}}, func() { theirs.d.kill(theirs.task()) }, func() {}},
		{loss{"its task's host is cut off", lostHostLimit, max(1, b.rounds/8), ours.b.host.CutOff, ours.b.host.Reconnect}, theirs.d.host.CutOff, theirs.d.host.Reconnect},
	} {
		b.Logf("a client waits, and %s", l.what)
		var led, plain, swarm []known
		for range l.rounds {
			one, two := w.lose(l.loss)
			w.awaitGone()
			l.mend()
			three := theirs.lose(l.limit, l.strikeTheirs)
			l.mendTheirs()
			led, plain, swarm = append(led, one), append(plain, two), append(swarm, three)
			b.Logf("led: %v; by the data plane: %v; in a Swarm: %v", one, two, three)
		}
		b.add([]Row{{What: fmt.Sprintf("a client waits, and %s: until its connection is closed, p50 of %d", l.what, l.rounds),
			Shoal: knownText(led, l.limit), Against: knownText(swarm, l.limit) + " in a Swarm, " + knownText(plain, l.limit) + " by the data plane alone"}})
	}
}

// newSwarm makes it.
func newSwarm(b *bench) *swarm {
	b.Logf("two hosts with engines that are a Swarm")
	hosts := lab.New(b).Hosts("c", "d")
	s := &swarm{bench: b, c: newSite(b, hosts[0]), d: newSite(b, hosts[1])}
	s.c.host.Docker("swarm", "init", "--advertise-addr", s.c.host.Addr().String())
	token := s.c.host.Docker("swarm", "join-token", "-q", "worker")
	s.d.host.Docker("swarm", "join", "--advertise-addr", s.d.host.Addr().String(), "--token", token, s.c.host.Addr().String()+":2377")
	id := s.d.host.Docker("info", "-f", "{{.Swarm.NodeID}}")
	s.c.host.Docker("network", "create", "-d", "overlay", "--attachable", swarmNetwork)
	s.c.host.Docker("service", "create", "-d", "--name", mortal, "--network", swarmNetwork, "--constraint", "node.id=="+id,
		"--restart-delay", "1s", "--no-resolve-image", lab.Image)
	s.c.host.Docker("run", "-d", "--network", swarmNetwork, "--name", "client", lab.Image, "sleep", "86400")
	s.client = s.c.caller("client", netip.Addr{})
	vips := s.c.host.Docker("service", "inspect", "-f", "{{range .Endpoint.VirtualIPs}}{{.Addr}} {{end}}", mortal)
	vip, err := netip.ParsePrefix(strings.Fields(vips)[0])
	b.must("read the VIP that Swarm gave in "+vips, err)
	s.vip = vip.Addr()
	s.waits = b.enter(s.client.ns)
	return s
}

// task is the container of the service's task, once it runs.
func (s *swarm) task() (id string) {
	lab.Eventually(s, waitLimit, "Swarm runs the task of "+mortal, func() error {
		all, err := s.d.docker.ContainerList(context.Background(), container.ListOptions{Filters: filters.NewArgs(filters.Arg("label", "com.docker.swarm.service.name="+mortal))})
		if err == nil && len(all) != 1 {
			err = fmt.Errorf("%d containers of it run", len(all))
		}
		if err != nil {
			return err
		}
		id = all[0].ID
		return nil
	})
	return id
}

// lose makes a connection, has its task go, and tells when it was closed.
func (s *swarm) lose(limit time.Duration, strike func()) (k known) {
	wait := s.waiter(s.waits, s.client.path(s.vip, port), limit)
	var waiting sync.WaitGroup
	begun := time.Now()
	waiting.Go(func() { k = wait(begun) })
	strike()
	waiting.Wait()
	return k
}
