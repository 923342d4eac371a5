//go:build e2e

package ingress

import (
	"fmt"
	"net/netip"
	"testing"

	"shoal/kernel"
	"shoal/model"
)

var clientAddr = netip.MustParseAddr("192.168.88.1")

// noProblems fails the test if there are any.
func noProblems(t *testing.T, ps []model.Problem) {
	t.Helper()
	for _, p := range ps {
		t.Errorf("problem on %s: %s %s: %s", p.Node, p.Kind, p.Object, p.Reason)
	}
}

// whoami is a world with a task of web on each host, serving ports 8000 of
// the mesh by their port 80.
func whoami(t *testing.T, backend string) *world {
	w := newWorld(t, backend)
	for i, h := range w.hosts {
		h.run(fmt.Sprintf("web%d", i+1), 2).serve(t, fmt.Sprintf("web%d", i+1), 80)
	}
	w.service("web", publish(t, "8000:80/tcp", "8000:80/udp"), "web1", "web2", "web3")
	return w
}

func TestTasksSeeTheClientsOwnAddressThroughEveryHost(t *testing.T) {
	for _, backend := range []string{"host-gw", "vxlan", "ipip"} {
		t.Run(backend, func(t *testing.T) {
			w := whoami(t, backend)
			noProblems(t, w.settle(true))
			for _, network := range []string{"tcp", "udp"} {
				for _, h := range w.hosts {
					tasks := map[string]int{}
					for range 6 {
						a, err := w.client.ask(network, h.node.Addr.String()+":8000")
						if err != nil {
							t.Errorf("%s by %s: %v", network, h.node.Name, err)
							continue
						}
						tasks[a.task]++
						if a.seen != clientAddr {
							t.Errorf("%s by %s: %s saw %s", network, h.node.Name, a.task, a.seen)
						}
					}
					if len(tasks) != 3 {
						t.Errorf("%s by %s: answers from %v, want three tasks", network, h.node.Name, tasks)
					}
				}
			}
		})
	}
}

func TestClientsInsideAreServedByEveryTask(t *testing.T) {
	for _, backend := range []string{"host-gw", "vxlan", "ipip"} {
		t.Run(backend, func(t *testing.T) {
			w := whoami(t, backend)
			lone := w.hosts[0].run("lone", 3)
			other := w.attach(w.hosts[0].room, "other", "172.30.0.2/24", "172.30.0.1")
			noProblems(t, w.settle(true))
			clients := map[string]*room{"a container": lone.room, "a container of another network": other}
			for _, h := range w.hosts {
				clients["host "+h.node.Name] = h.room
				for name, c := range h.containers {
					clients["container "+name] = c.room
				}
			}
			for name, c := range clients {
				for _, network := range []string{"tcp", "udp"} {
					for _, h := range w.hosts {
						targets := []string{h.node.Addr.String()}
						if c == h.room {
							targets = append(targets, "127.0.0.1", h.node.Subnet.Addr().Next().String())
						}
						for _, to := range targets {
							tasks := map[string]int{}
							for range 3 {
								a, err := c.ask(network, to+":8000")
								if err != nil {
									t.Errorf("%s from %s to %s: %v", network, name, to, err)
									continue
								}
								tasks[a.task]++
							}
							if len(tasks) != 3 {
								t.Errorf("%s from %s to %s: answers from %v, want three tasks", network, name, to, tasks)
							}
						}
					}
				}
			}
		})
	}
}

func TestAPassWithNothingChangedWritesNothing(t *testing.T) {
	w := whoami(t, "host-gw")
	noProblems(t, w.settle(true))
	for _, full := range []bool{false, true} {
		before := kernel.Total()
		noProblems(t, w.settle(full))
		if n := kernel.Total() - before; n != 0 {
			t.Errorf("full %v: a pass with nothing changed made %d writes", full, n)
		}
	}
	for _, h := range w.hosts {
		h.restart()
	}
	before := kernel.Total()
	noProblems(t, w.settle(true))
	if n := kernel.Total() - before; n != 0 {
		t.Errorf("a restart with nothing changed made %d writes", n)
	}
}
