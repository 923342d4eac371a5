//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"syscall"
	"testing"

	"shoal/lab"
)

// TestHostsATaskDrainsWhileAHostDoesNotHear: a host that is not told that a task drains goes on sending it new connections, and
// the task serves them, until it is told or the drain is over. Nothing fails before, in between, or after.
func TestHostsATaskDrainsWhileAHostDoesNotHear(t *testing.T) {
	m := cluster(t, "host-gw")
	a, b, c := m.hosts[0], m.hosts[1], m.hosts[2]
	const labels = "--network mesh -l shoal.service=web -l shoal.publish=8000:8000,9000:9000/udp -l shoal.drain=20s"
	a.run("web-n1", labels, everything(t)...)
	b.run("web-n2", labels, everything(t)...)
	m.served("web", "web-n1", "web-n2")
	vip := a.vip("web")
	asker := c.run("asker", "--network mesh", "sleep", "1000000")
	loads := map[string]*lab.Load{
		"a container by the VIP":             c.LoadIn(asker.enter(false), "--timeout", "5s", "--interval", "20ms", "http://"+vip+":8000/"),
		"the host by the VIP":                c.Load("--timeout", "5s", "--interval", "20ms", "http://"+vip+":8000/"),
		"a client outside by its own port":   m.outside.Load("--timeout", "5s", "--interval", "20ms", fmt.Sprintf("http://%v:8000/", c.Addr())),
		"a client outside by the task's own": m.outside.Load("--timeout", "5s", "--interval", "20ms", fmt.Sprintf("http://%v:8000/", b.Addr())),
	}
	// A datagram or two of a sender may be lost as the task leaves, for want of anything that drains.
	datagrams := map[string]*lab.Load{
		"datagrams from outside by its own port":   m.outside.Load("--timeout", "500ms", "--interval", "20ms", fmt.Sprintf("udp://%v:9000", c.Addr())),
		"datagrams from outside by the task's own": m.outside.Load("--timeout", "500ms", "--interval", "20ms", fmt.Sprintf("udp://%v:9000", b.Addr())),
	}
	maps.Copy(loads, datagrams)
	for _, l := range loads {
		l.Await(20)
	}

	agent := c.Agent()
	signal := func(s syscall.Signal) {
		if err := agent.Signal(s); err != nil {
			t.Errorf("signal the agent of %s: %v", c.Name(), err)
		}
	}
	signal(syscall.SIGSTOP)
	stop := b.Start("shoal", "stop", "web-n2")
	b.task("web-n2", "draining")
	for _, l := range loads {
		l.Await(100)
	}
	b.task("web-n2", "draining") // still: what was seen above was while it drained
	signal(syscall.SIGCONT)
	if err := stop.Wait(waitLimit); err != nil {
		t.Errorf("shoal stop: %v\n%s", err, stop.Output())
	}
	for _, l := range loads {
		l.Await(20)
	}
	for who, l := range loads {
		most := 0
		if datagrams[who] != nil {
			most = 2
		}
		if s := l.Stop(); s.Failed > most || s.Hostnames["web-n2"] == 0 {
			t.Errorf("%s: of %d requests %d failed: %v; answered by %v", who, s.Sent, s.Failed, s.Errors, s.Hostnames)
		}
	}
}

// TestHostsATaskIsToldOnceItsHostServesIt: an agent that starts and does not reach its store waits for it some seconds before it
// writes its data plane. A task that starts meanwhile is told to the hosts that the agent does reach, after that.
func TestHostsATaskIsToldOnceItsHostServesIt(t *testing.T) {
	m := cluster(t, "host-gw")
	a, b, c := m.hosts[0], m.hosts[1], m.hosts[2]
	const labels = "--network mesh -l shoal.service=web -l shoal.publish=8000:8000"
	a.run("web-n1", labels)
	m.served("web", "web-n1")
	url := c.web("web")
	loads := map[string]*lab.Load{
		"the host by the VIP":              c.Load("--timeout", "5s", "--interval", "20ms", url),
		"a client outside by its own port": m.outside.Load("--timeout", "5s", "--interval", "20ms", fmt.Sprintf("http://%v:8000/", c.Addr())),
	}
	for _, l := range loads {
		l.Await(20)
	}
	join := shared.With(t).CutApart(&a.Machine, &b.Machine) // the store is on the first one
	t.Cleanup(join)                                         // where what follows fails
	b.RestartAgent()
	b.run("web-n2", labels)
	c.answered(url, "web-n1", "web-n2")
	for _, l := range loads {
		l.Await(50)
	}
	join()
	m.settled()
	for who, l := range loads {
		if s := l.Stop(); s.Failed > 0 || s.Hostnames["web-n2"] == 0 {
			t.Errorf("%s: of %d requests %d failed: %v; answered by %v", who, s.Sent, s.Failed, s.Errors, s.Hostnames)
		}
	}
}
