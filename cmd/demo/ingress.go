package main

import (
	"fmt"
	"strings"

	"shoal/lab"
)

// publish is the walk through the routing mesh. Host a has no task.
func (s *story) publish() {
	s.step("Port 8000 is published: every host answers on it")
	me := s.lab.Outside().Addr().String()
	s.note("a client outside the cluster, %s:", me)
	for _, h := range s.hosts {
		target := fmt.Sprintf("http://%v:8000/", h.Addr())
		s.command(s.lab.Outside(), []string{"whoami", "get", target})
		seen := map[string]int{}
		for range 3 {
			out := s.lab.Outside().Exec("whoami", "get", target)
			s.note("%s", oneLine(out))
			if !strings.HasPrefix(field(out, "client"), me+":") {
				s.Fatalf("the task saw %s, not the client's own address %s", field(out, "client"), me)
			}
			seen[field(out, "hostname")]++
		}
		s.holds(len(seen) == 3, "host %s: answers from %d containers, each of which saw the client's own address", h.Name(), len(seen))
	}
	for _, h := range s.hosts {
		s.loopback(h)
	}
	s.step("The way of a published port")
	s.note("the sandbox namespace has a balancer of its own:")
	s.on(s.a, "nsenter", "--net=/run/netns/shoal-ingress", "ipvsadm", "-ln")
	s.shoal(s.a, "trace", ":8000")
}

// loopback asks the host's own port on the host itself.
func (s *story) loopback(h *lab.Host) {
	target := []string{"whoami", "get", "http://127.0.0.1:8000/"}
	s.command(h, target)
	seen := map[string]int{}
	for range 3 {
		out := h.Exec(target...)
		s.note("%s", oneLine(out))
		seen[field(out, "hostname")]++
	}
	s.holds(len(seen) == 3, "host %s: its loopback address answers as well", h.Name())
}
