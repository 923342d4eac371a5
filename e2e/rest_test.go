//go:build e2e

package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	containers "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"shoal/lab"
)

// followTime is the most in which a host learns what changed on another.
const followTime = 2 * time.Second

// TestHostsAnAddressChangesHands: a task's address goes to a container of another service before another host knows. What
// that host, its containers and the clients of its published ports send there reaches nobody, over each backend; and the
// other service loses nothing.
func TestHostsAnAddressChangesHands(t *testing.T) {
	for _, backend := range []string{"ipip", "vxlan", "host-gw"} { // host-gw last: most tests want it
		t.Run(backend, func(t *testing.T) {
			m := cluster(t, backend)
			for range 3 {
				if m.changeHands() || t.Failed() {
					return
				}
				m.clear()
			}
			t.Skip("this machine is too busy: no address changes hands while another host does not know")
		})
	}
}

// changeHands tells whether an address changed hands while the other host did not know, and that host followed in time: on a
// busy machine, where neither may be, it shows nothing.
func (m *members) changeHands() bool {
	t := m.t
	a, b, c := m.hosts[0], m.hosts[1], m.hosts[2]
	serve := []string{"whoami", "serve", "--http", "8000", "--udp", "9000"}
	const web, other = "--network mesh -l shoal.service=web -l shoal.publish=8000:8000", "--network mesh -l shoal.service=other -l shoal.publish=8001:8000"
	a.run("web-n1", web, serve...)
	leaver := b.run("web-n2", web, serve...)
	a.run("other-n1", other, serve...)
	m.served("web", "web-n1", "web-n2")
	m.served("other", "other-n1")
	asker := c.run("asker", "--network mesh", "sleep", "1000000")
	addr, vip := leaver.addr(), a.vip("web")
	b.Docker("create", "--name", "taker", "--hostname", "taker", "--network", "mesh", "--ip", addr, "-l", "shoal.service=other",
		"-l", "shoal.publish=8001:8000", lab.Image, "whoami", "serve", "--http", "8000", "--udp", "9000")

	slow := slowness()
	interval := (20 * slow * slow * time.Millisecond).String()
	const ownAddress = "a container by the task's address"
	loads := map[string]*lab.Load{
		"a container by the VIP":             c.LoadIn(asker.enter(false), "--timeout", "1s", "--interval", interval, "http://"+vip+":8000/"),
		"the host by the VIP":                c.Load("--timeout", "1s", "--interval", interval, "http://"+vip+":8000/"),
		ownAddress:                           c.LoadIn(asker.enter(false), "--timeout", "1s", "--interval", interval, "http://"+addr+":8000/"),
		"a client outside by its own port":   m.outside.Load("--timeout", "1s", "--interval", interval, fmt.Sprintf("http://%v:8000/", c.Addr())),
		"a container's datagrams by the VIP": c.LoadIn(asker.enter(false), "--timeout", "300ms", "--interval", interval, "udp://"+vip+":9000"),
		"steady senders by the VIP":          c.LoadIn(asker.enter(false), "--keep", "--workers", "4", "--timeout", "300ms", "--interval", (20 * (slow*slow - 1) * time.Millisecond).String(), "udp://"+vip+":9000"),
	}
	others := a.Load("--timeout", "5s", "--interval", interval, "http://"+a.vip("other")+":8000/")
	for _, l := range loads {
		l.Await(20)
	}
	others.Await(20)

	// Its agent knows nothing of all this, as late as an agent may.
	agent := c.Agent()
	signal := func(s syscall.Signal) {
		if err := agent.Signal(s); err != nil {
			t.Errorf("signal the agent of %s: %v", c.Name(), err)
		}
	}
	signal(syscall.SIGSTOP)
	died := time.Now()
	follows := make(chan struct{})
	time.AfterFunc(followTime, func() {
		defer close(follows)
		signal(syscall.SIGCONT)
	})
	b.engine(func(engine *client.Client) error {
		if err := engine.ContainerRemove(t.Context(), "web-n2", containers.RemoveOptions{Force: true}); err != nil {
			return err
		}
		return engine.ContainerStart(t.Context(), "taker", containers.StartOptions{})
	})
	lab.Eventually(t, waitLimit, "the new owner answers on its own host", func() error {
		who, err := b.get("http://" + addr + ":8000/")
		if err == nil && who != "taker" {
			err = fmt.Errorf("%s answers", who)
		}
		return err
	})
	took := time.Since(died)
	<-follows
	direct := loads[ownAddress].Stop() // when the rest is over, it may be answered
	delete(loads, ownAddress)
	c.rotation("web", waitLimit, "web-n1")
	followed := time.Since(died)
	m.served("other", "other-n1", "taker")
	others.Await(10) // of which the new owner has its part
	ofOther := others.Stop()
	ofWeb := map[string]summary{}
	for who, l := range loads {
		ofWeb[who] = l.Stop()
	}
	t.Logf("the address had changed hands after %v, and the other host knew after %v", took, followed)
	if took > followTime*3/4 || followed > 3*time.Second {
		return false
	}

	if ofOther.Failed > 0 || ofOther.Hostnames["taker"] == 0 {
		t.Errorf("of the other service, whose task has the address now, %d of %d requests failed: %v; answered by %v",
			ofOther.Failed, ofOther.Sent, ofOther.Errors, ofOther.Hostnames)
	}
	if direct.Hostnames["taker"] > 0 || direct.Errors["connection refused"] == 0 {
		t.Errorf("%s: answered by %v; errors %v, want it refused", ownAddress, direct.Hostnames, direct.Errors)
	}
	for who, s := range ofWeb {
		if s.Hostnames["taker"] > 0 || s.Hostnames["web-n1"] == 0 {
			t.Errorf("%s: web is answered by %v, want its own tasks alone", who, s.Hostnames)
		}
		t.Logf("%s: of %d requests %d failed: %v", who, s.Sent, s.Failed, s.Errors)
	}
	m.served("web", "web-n1")
	return true
}
