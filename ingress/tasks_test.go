//go:build e2e

package ingress

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/lab"
	"shoal/model"
)

func TestATaskThatIsAProcessOfItsHostIsServed(t *testing.T) {
	w := newWorld(t, "vxlan")
	h := w.hosts[0]
	h.serve(t, "process", 8080)
	h.containers["process"] = &container{room: h.room, host: h, name: "process", addr: h.node.Addr}
	w.service("web", publish(t, "8000:8080/tcp", "8000:8080/udp"), "process")
	noProblems(t, w.settle(true))
	for _, by := range w.hosts {
		for _, network := range []string{"tcp", "udp"} {
			a, err := w.client.ask(network, by.at(8000))
			if err != nil || a.task != "process" || by == h && a.seen != clientAddr {
				t.Errorf("%s by %s: %v, %v", network, by.node.Name, a, err)
			}
			mustAnswer(t, h.room, network, by.at(8000), "process")
		}
	}
}

func TestTasksOfADeadHostAreLeftOut(t *testing.T) {
	w := whoami(t, "host-gw")
	noProblems(t, w.settle(true))
	w.task("web2", func(t *model.Task) { t.State = model.Lost })
	noProblems(t, w.settle(false))
	for _, network := range []string{"tcp", "udp"} {
		for range 6 {
			if a, err := w.client.ask(network, w.hosts[0].at(8000)); err != nil || a.task == "web2" {
				t.Errorf("%s: answered by %q, %v, want web1 or web3", network, a.task, err)
			}
		}
	}
	w.task("web2", func(t *model.Task) { t.State = model.Running })
	noProblems(t, w.settle(false))
	w.mustFind("tcp", w.hosts[0].at(8000), "web1", "web2", "web3")
}

// mustFind fails the test unless the client outside is answered by all of
// these tasks, and no others.
func (w *world) mustFind(network, addr string, tasks ...string) {
	w.t.Helper()
	found := map[string]bool{}
	for range 2 * len(tasks) {
		a, err := w.client.ask(network, addr)
		if err != nil {
			w.t.Errorf("%s %s: %v", network, addr, err)
		}
		found[a.task] = true
	}
	if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, tasks) {
		w.t.Errorf("%s %s: answers from %q, want %q", network, addr, got, tasks)
	}
}

func TestAHostsOwnTasksArePreferred(t *testing.T) {
	w := whoami(t, "host-gw")
	spec := publish(t, "8000:80/tcp", "8000:80/udp")
	spec.PreferLocal = true
	w.service("web", spec, "web1", "web2")
	noProblems(t, w.settle(true))
	for _, network := range []string{"tcp", "udp"} {
		w.mustFind(network, w.hosts[0].at(8000), "web1")
		w.mustFind(network, w.hosts[1].at(8000), "web2")
		w.mustFind(network, w.hosts[2].at(8000), "web1", "web2")
	}
	w.task("web1", func(t *model.Task) { t.State = model.Unhealthy })
	noProblems(t, w.settle(false))
	for _, network := range []string{"tcp", "udp"} {
		w.mustFind(network, w.hosts[0].at(8000), "web2")
	}
}

func TestAClientKeepsItsTaskWhileThatIsInRotation(t *testing.T) {
	w := whoami(t, "host-gw")
	spec := publish(t, "8000:80/tcp")
	spec.Affinity = time.Hour
	w.service("web", spec, "web1", "web2", "web3")
	noProblems(t, w.settle(true))
	first, err := w.client.ask("tcp", w.hosts[0].at(8000))
	if err != nil {
		t.Fatal(err)
	}
	w.mustFind("tcp", w.hosts[0].at(8000), first.task)
	w.mustFind("tcp", w.hosts[0].at(8000), first.task)
	w.task(first.task, func(t *model.Task) { t.State = model.Unhealthy })
	noProblems(t, w.settle(false))
	second, err := w.client.ask("tcp", w.hosts[0].at(8000))
	if err != nil || second.task == first.task {
		t.Errorf("answered by %q, %v, though it is not in rotation any more", second.task, err)
	}
	w.mustFind("tcp", w.hosts[0].at(8000), second.task)
}

func TestASteadySenderFollowsThePort(t *testing.T) {
	w := newWorld(t, "host-gw")
	w.hosts[0].run("one", 2).serve(t, "one", 80)
	w.hosts[1].run("two", 2).serve(t, "two", 80)
	w.service("web", publish(t), "one", "two")
	noProblems(t, w.settle(true))
	var c net.Conn
	w.client.must(t, func() (err error) { c, err = net.Dial("udp4", w.hosts[2].at(8000)); return err })
	defer c.Close()
	// who asks until that task answers, and never pauses.
	who := func(task string) {
		t.Helper()
		last, b := "nobody", make([]byte, 200)
		for end := time.Now().Add(patience); time.Now().Before(end); {
			c.Write([]byte("?"))
			c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if n, err := c.Read(b); err == nil {
				if last, _, _ = strings.Cut(string(b[:n]), " "); last == task {
					return
				}
			}
		}
		t.Errorf("a steady sender is answered by %s, want %s", last, task)
	}
	c.Write([]byte("?")) // dropped: not published yet
	w.service("web", publish(t, "8000:80/udp"), "one")
	noProblems(t, w.settle(false))
	who("one")
	w.service("web", publish(t, "8000:80/udp"), "two")
	noProblems(t, w.settle(false))
	who("two")
	// UDP is not drained: the flow would never end.
	w.service("web", publish(t, "8000:80/udp"), "one", "two")
	w.task("two", drain(time.Minute))
	noProblems(t, w.settle(false))
	who("one")
	// What the port leads to when it is published no more is the host's affair.
	w.service("web", publish(t), "one", "two")
	noProblems(t, w.settle(false))
	w.hosts[2].serve(t, "host", 8000)
	w.hosts[2].addRules("filter -A INPUT -p udp --dport 8000 -j ACCEPT")
	who("host")
}

// drain has a task told to stop just now.
func drain(limit time.Duration) func(*model.Task) {
	return func(t *model.Task) { t.State, t.Since, t.Drain = model.Draining, time.Now(), limit }
}

// hold opens a connection by the host's port 8000 and tells which task has it.
func (w *world) hold(h *host) (c *net.TCPConn, task string) {
	w.t.Helper()
	w.client.must(w.t, func() error {
		conn, err := net.DialTimeout("tcp4", h.at(8000), patience)
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { conn.Close() })
		c = conn.(*net.TCPConn)
		c.SetDeadline(time.Now().Add(4 * patience))
		line, err := bufio.NewReader(c).ReadString('\n')
		task, _, _ = strings.Cut(line, " ")
		return err
	})
	return c, task
}

// dests are the destinations of port 8000 in the host's sandbox.
func (h *host) dests() (addrs []string) {
	h.must(h.w.t, func() error {
		v, err := h.ingress.Inspect(context.Background(), 8000, model.TCP)
		if err == nil {
			for _, d := range v.Dests {
				addrs = append(addrs, d.Addr.String())
			}
		}
		return err
	})
	return addrs
}

func TestADrainingTaskFinishesWhatItHolds(t *testing.T) {
	w := whoami(t, "host-gw")
	noProblems(t, w.settle(true))
	held := map[string]*net.TCPConn{}
	for range 3 {
		c, task := w.hold(w.hosts[2])
		held[task] = c
	}
	w.task("web1", drain(time.Minute))
	noProblems(t, w.settle(false))
	w.mustFind("tcp", w.hosts[2].at(8000), "web2", "web3")
	c := held["web1"]
	c.Write(bytes.Repeat([]byte("x"), 1000))
	noProblems(t, w.settle(false))
	c.CloseWrite()
	if b, err := io.ReadAll(c); string(b) != "1000\n" {
		t.Errorf("the connection that was held: %q, %v, want its 1000 bytes counted", b, err)
	}
}

func TestADrainingTaskLeavesWhenItIsIdleAndAtItsDeadlineAtLatest(t *testing.T) {
	w := whoami(t, "host-gw")
	w.service("web", publish(t, "8000:80/tcp"), "web1", "web2", "web3")
	noProblems(t, w.settle(true))
	h := w.hosts[2]
	held := map[string]*net.TCPConn{}
	for range 2 {
		c, task := w.hold(h)
		held[task] = c
	}
	// The third holds nothing, the others until their deadlines.
	for _, name := range []string{"web1", "web2", "web3"} {
		limit := time.Minute
		if name == slices.Sorted(maps.Keys(held))[0] {
			limit = time.Second
		}
		w.task(name, drain(limit))
	}
	want := map[string]string{"web1": "10.244.1.2:80", "web2": "10.244.2.2:80", "web3": "10.244.3.2:80"}
	cut, kept := slices.Sorted(maps.Keys(held))[0], slices.Sorted(maps.Keys(held))[1]
	lab.Eventually(t, 10*time.Second, "the idle one and the late one are gone", func() error {
		noProblems(t, h.reconcile(false))
		if got := h.dests(); !slices.Equal(got, []string{want[kept]}) {
			return fmt.Errorf("destinations %v, want %s", got, want[kept])
		}
		return nil
	})
	held[cut].Write([]byte("x"))
	if b, err := io.ReadAll(held[cut]); err == nil {
		t.Errorf("the connection that was cut off goes on: %q", b)
	}
	held[kept].Write([]byte("x"))
	held[kept].CloseWrite()
	if b, err := io.ReadAll(held[kept]); string(b) != "1\n" {
		t.Errorf("the connection with time left: %q, %v, want its byte counted", b, err)
	}
}
