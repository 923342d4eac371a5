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

// hands is an address of a task of web, on the second host, that a container of other is to take over, and who asks for web.
type hands struct {
	*members
	a, b, c   *host
	addr, vip string // the task's, and that of web
	ofWeb     map[string]*lab.Load
	ofOther   *lab.Load
}

// ownAddress is who asks for the task itself.
const ownAddress = "a container by the task's address"

func (m *members) hands() *hands {
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
	h := &hands{members: m, a: a, b: b, c: c, addr: addr, vip: vip, ofWeb: map[string]*lab.Load{
		"a container by the VIP":             c.LoadIn(asker.enter(false), "--timeout", "1s", "--interval", interval, "http://"+vip+":8000/"),
		"the host by the VIP":                c.Load("--timeout", "1s", "--interval", interval, "http://"+vip+":8000/"),
		ownAddress:                           c.LoadIn(asker.enter(false), "--timeout", "1s", "--interval", interval, "http://"+addr+":8000/"),
		"a client outside by its own port":   m.outside.Load("--timeout", "1s", "--interval", interval, fmt.Sprintf("http://%v:8000/", c.Addr())),
		"a container's datagrams by the VIP": c.LoadIn(asker.enter(false), "--timeout", "300ms", "--interval", interval, "udp://"+vip+":9000"),
		"steady senders by the VIP":          c.LoadIn(asker.enter(false), "--keep", "--workers", "4", "--timeout", "300ms", "--interval", (20 * (slow*slow - 1) * time.Millisecond).String(), "udp://"+vip+":9000"),
	}}
	h.ofOther = c.Load("--timeout", "5s", "--interval", interval, "http://"+a.vip("other")+":8000/")
	for _, l := range h.ofWeb {
		l.Await(20)
	}
	h.ofOther.Await(20)
	return h
}

// change has the address change hands, and waits until the new owner answers there, on its own host.
func (h *hands) change() {
	t := h.t
	h.b.engine(func(engine *client.Client) error {
		if err := engine.ContainerRemove(t.Context(), "web-n2", containers.RemoveOptions{Force: true}); err != nil {
			return err
		}
		return engine.ContainerStart(t.Context(), "taker", containers.StartOptions{})
	})
	lab.Eventually(t, waitLimit, "the new owner answers on its own host", func() error {
		who, err := h.b.get("http://" + h.addr + ":8000/")
		if err == nil && who != "taker" {
			err = fmt.Errorf("%s answers", who)
		}
		return err
	})
}

// stop ends who asks for web, and tells what of it they were answered by.
func (h *hands) stop() map[string]summary {
	all := map[string]summary{}
	for who, l := range h.ofWeb {
		all[who] = l.Stop()
	}
	return all
}

// changeHands tells whether an address changed hands while the other host did not know, and that host followed in time: on a
// busy machine, where neither may be, it shows nothing.
func (m *members) changeHands() bool {
	t, h := m.t, m.hands()
	c := h.c

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
	h.change()
	took := time.Since(died)
	<-follows
	direct := h.ofWeb[ownAddress].Stop() // when the rest is over, it may be answered
	delete(h.ofWeb, ownAddress)
	c.rotation("web", waitLimit, "web-n1")
	followed := time.Since(died)
	m.served("other", "other-n1", "taker")
	h.ofOther.Await(10) // of which the new owner has its part
	ofOther, ofWeb := h.ofOther.Stop(), h.stop()
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

// TestHostsAnAddressChangesHandsBehindACut is TestHostsAnAddressChangesHands where the other host cannot be told: the host of the
// address is cut off, for longer than an address rests, or the store is.
func TestHostsAnAddressChangesHandsBehindACut(t *testing.T) {
	t.Run("its host is cut off", func(t *testing.T) {
		h := cluster(t, "host-gw").hands()
		h.b.CutOff()
		h.c.rotation("web", waitLimit, "web-n1")
		h.change()
		rested := h.b.Load("--timeout", "1s", "--interval", "20ms", "http://"+h.addr+":8000/")
		rested.Await(250) // five seconds: an address rests for three
		rested.Stop()
		h.ofOther.Await(20)
		h.b.Reconnect()
		h.c.rotation("other", waitLimit, "other-n1", "taker")
		h.served("other", "other-n1", "taker")
		h.notByTheNewOwner("web-n1")
	})
	t.Run("the store is cut off", func(t *testing.T) {
		h := cluster(t, "host-gw").hands()
		h.a.CutOff() // the only server
		h.c.rotation("web", waitLimit, "web-n2")
		h.c.rotation("other", waitLimit)
		h.change()
		h.c.rotation("web", waitLimit)
		h.c.rotation("other", waitLimit, "taker")
		h.notByTheNewOwner()
		h.a.Reconnect()
		h.served("web", "web-n1")
		h.served("other", "other-n1", "taker")
	})
}

// notByTheNewOwner ends who asks for web by its VIP or its port: the address's new owner answered none of them, and each of the
// tasks that are named answered all of them now and then.
func (h *hands) notByTheNewOwner(tasks ...string) {
	h.t.Helper()
	h.ofWeb[ownAddress].Stop() // it asks for whoever is there
	delete(h.ofWeb, ownAddress)
	for who, s := range h.stop() {
		h.t.Logf("%s: of %d requests %d failed: %v", who, s.Sent, s.Failed, s.Errors)
		if s.Hostnames["taker"] > 0 {
			h.t.Errorf("%s: the address's new owner answered for web: %v", who, s.Hostnames)
		}
		for _, name := range tasks {
			if s.Hostnames[name] == 0 {
				h.t.Errorf("%s: %s did not answer: %v", who, name, s.Hostnames)
			}
		}
	}
	h.ofOther.Stop()
}
