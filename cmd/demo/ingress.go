package main

import (
	"fmt"
	"strings"

	"shoal/lab"
	"shoal/lab/kernel"
)

// publish is the walk through the routing mesh. Host a has no task.
func (s *story) publish() {
	s.step("Port 8000 is published: every host answers on it")
	me := s.lab.Outside().Addr().String()
	s.note("a client outside the cluster, %s:", me)
	for _, h := range s.hosts {
		target := fmt.Sprintf("http://%v:8000/", h.Addr())
		s.command(s.lab.Outside(), []string{"whoami", "get", target})
		s.inTurn(3, 6, func() string {
			out := s.lab.Outside().Exec("whoami", "get", target)
			if !strings.HasPrefix(field(out, "client"), me+":") {
				s.Fatalf("the task saw %s, not the client's own address %s", field(out, "client"), me)
			}
			return out
		})
		s.holds(true, "host %s answers, and each task saw the client's own address", h.Name())
	}
	for _, h := range s.hosts {
		s.loopback(h)
	}
	s.step("The way of a published port")
	if lab.Plane() == kernel.IPVS {
		s.note("the sandbox namespace has a balancer of its own:")
		s.on(s.a, "nsenter", "--net=/run/netns/shoal-ingress", "ipvsadm", "-ln")
	}
	s.note("the way of a request from outside:")
	s.shoal(s.a, "trace", "--from", me, "a:8000")
}

// loopback asks the host's own port on the host itself, by its address and by
// that of loopback.
func (s *story) loopback(h *lab.Host) {
	for _, addr := range []string{h.Addr().String(), "127.0.0.1"} {
		target := []string{"whoami", "get", "http://" + addr + ":8000/"}
		s.command(h, target)
		s.inTurn(3, 3, func() string { return h.Exec(target...) })
	}
	s.holds(true, "host %s: its own address and its loopback address answer as well", h.Name())
}
