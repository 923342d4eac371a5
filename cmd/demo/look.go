package main

import (
	"fmt"
	"regexp"
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

// realServer is a line of ipvsadm with a weight that is not 0.
var realServer = regexp.MustCompile(`(?m)^  -> ([0-9.]+):\d+ +Masq +[1-9]`)

// inRotation checks that so many tasks are in rotation, as the hosts' own
// balancers' kernel tables have them. The second DNS address, 10.96.0.11, has
// servers there too, at port 53: those do not count.
func inRotation(hosts []*lab.Host, n int) func() error {
	return func() error {
		for _, h := range hosts {
			out, err := h.TryExec("ipvsadm", "-ln")
			if err != nil {
				return err
			}
			servers := map[string]bool{}
			for _, m := range realServer.FindAllStringSubmatch(out, -1) {
				if !strings.Contains(m[0], ":53 ") {
					servers[m[1]] = true
				}
			}
			if len(servers) != n {
				return fmt.Errorf("the kernel of %s has %d real servers in rotation, not %d:\n%s", h.Name(), len(servers), n, out)
			}
		}
		return nil
	}
}

var addrLine = regexp.MustCompile(`(?m)^Address(?: 1)?: ?([0-9.]+)\s*$`)

// firstAddr is the first address that busybox's nslookup found, after that
// of the server.
func firstAddr(nslookup string) string {
	_, answer, _ := strings.Cut(nslookup, "\n\n")
	if m := addrLine.FindStringSubmatch(answer); m != nil {
		return m[1]
	}
	return ""
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
