package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"shoal/lab"
)

// inClient runs a command in the client's container.
func (s *story) inClient(args ...string) string {
	return s.docker(s.a, append([]string{"exec", "client"}, args...)...)
}

// rotation checks that every host balances over so many tasks.
func (s *story) rotation(n int) func() error { return inRotation(s.hosts, n) }

func (s *story) eventuallyOn(hosts []*lab.Host, limit time.Duration, what string, n int) {
	s.eventually(limit, what, inRotation(hosts, n))
}

// inRotation checks that so many tasks are in rotation, as the kernel of each
// host has them, for VIPs and for published ports.
func inRotation(hosts []*lab.Host, n int) func() error {
	return func() error {
		for _, h := range hosts {
			all, err := h.Frontends()
			if err != nil {
				return err
			}
			for _, published := range []bool{false, true} {
				if servers := lab.RealServers(all, published); len(servers) != n {
					return fmt.Errorf("on %s there are %d tasks in rotation (published ports: %v), not %d: %+v", h.Name(), len(servers), published, n, all)
				}
			}
		}
		return nil
	}
}

var addrLine = regexp.MustCompile(`(?m)^Address(?: \d+)?: ?([0-9.]+)\s*$`)

// addrs are the addresses that busybox's nslookup found, after that of the
// server.
func addrs(nslookup string) (all []string) {
	_, answer, _ := strings.Cut(nslookup, "\n\n")
	for _, m := range addrLine.FindAllStringSubmatch(answer, -1) {
		all = append(all, m[1])
	}
	slices.Sort(all)
	return all
}

// lookUp has the client look a name up that has one address.
func (s *story) lookUp(name string) string {
	if found := addrs(s.inClient("nslookup", name)); len(found) == 1 {
		return found[0]
	}
	return ""
}

// ping has the client ping whoami, which its VIP has to answer.
func (s *story) ping() {
	out := s.inClient("ping", "-c", "2", "whoami")
	s.holds(strings.Count(out, " from "+s.vip+":") == 2, "ping of whoami is answered from the VIP, %s", s.vip)
}

// lists checks that tasks.whoami has the addresses of those tasks, and no
// others.
func (s *story) lists(tasks map[int]*lab.Host) {
	var want []string
	for n, h := range tasks {
		want = append(want, address(h, task(n)))
	}
	slices.Sort(want)
	have := addrs(s.inClient("nslookup", "tasks.whoami.mesh.internal"))
	s.holds(slices.Equal(have, want), "tasks.whoami lists just the tasks, %s", strings.Join(have, ", "))
}

// address is a container's on the network mesh.
func address(h *lab.Host, container string) string {
	return strings.TrimSpace(h.Docker("inspect", "-f", "{{.NetworkSettings.Networks.mesh.IPAddress}}", container))
}

// field is a value of whoami's answer: hostname is who answered, client the
// address it saw.
func field(reply, key string) string {
	for line := range strings.Lines(reply) {
		if k, value, ok := strings.Cut(line, "="); ok && k == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func oneLine(reply string) string { return strings.ReplaceAll(strings.TrimSpace(reply), "\n", ", ") }
