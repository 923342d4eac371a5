//go:build hosts

package hosts

import (
	"fmt"
	"strings"

	"shoal/lab/traffic"
)

// agentHangs stops the agent of host a, which then feeds no watchdog: systemd ends it
// and starts another. Traffic goes on.
func agentHangs(s *suite) {
	a := s.hosts[0]
	main := func() string { return a.must("systemctl show -P MainPID shoal") }
	before := main()
	a.must("systemctl kill -s STOP --kill-whom main shoal")
	if err := a.published(); err != nil {
		s.fail("while the agent hangs, the published port: %v", err)
	}
	s.allow(startLimit) // of which the watchdog waits a minute, and systemd for the end of what hangs as long as it may
	s.holds("systemd starts another", func() error {
		if now := main(); now == before || now == "0" {
			return fmt.Errorf("its process is %s, was %s", now, before)
		}
		return nil
	})
	s.all()
}

// packages upgrades the package on all hosts: the agent is another process then, and a
// published port is answered all the time. On the last host it is purged: nothing of
// it is left, and others go on. It is the last step.
func packages(s *suite) {
	s.each(func(h *host) {
		before := h.must("systemctl show -P MainPID shoal")
		done := make(chan error, 1)
		go func() {
			_, err := h.run("dpkg -i /root/newer.deb")
			done <- err
		}()
		for upgraded := false; !upgraded; {
			if err := h.published(); err != nil {
				s.fail("%s, while its package is upgraded: %v", h.Name(), err)
			}
			select {
			case err := <-done:
				upgraded = true
				if err != nil {
					s.fail("%v", err)
				}
			default:
			}
		}
		if after := h.must("systemctl show -P MainPID shoal"); after == before || after == "0" {
			s.fail("%s: the agent's process is %s after the upgrade, was %s", h.Name(), after, before)
		}
		if v := h.must("dpkg-query -W -f '${Version}' shoal"); !strings.HasSuffix(v, ".newer") {
			s.fail("%s has the version %s", h.Name(), v)
		}
	})
	s.all()

	last := s.hosts[len(s.hosts)-1]
	last.must("docker rm -f $(docker ps -aq --filter network=mesh)")
	last.must("dpkg -P shoal")
	for what, command := range map[string]string{
		"of IPVS":          leftOfIPVS,
		"of nftables":      leftOfNftables,
		"routing rules":    "ip rule | grep -vE '^(0|32766|32767):'; ip route show table local | grep 10.96.",
		"devices":          "ip -br link | grep shoal",
		"BPF programs":     "find /sys/fs/bpf -name '*shoal*'",
		"files":            "find / -xdev -name '*shoal*' -not -path '/proc/*' -not -path '/var/log/*' -not -path '/var/lib/dpkg/*' -not -path '/var/lib/docker/*' -not -path '/root/*'",
		"Docker's network": "docker network ls --format '{{.Name}}' | grep -x mesh",
		"processes":        "pgrep -a shoal",
	} {
		if out := last.must("(%s) 2>/dev/null || true", command); out != "" {
			s.fail("%s: of what was purged is left, %s:\n%s", last.Name(), what, out)
		}
	}
	if a := s.hosts[0]; a != last {
		s.holds("the published port of the other host is answered", func() error {
			out, err := s.neighbour(whoami(), "load", "--count", fmt.Sprint(s.requests()), fmt.Sprintf("http://%v:8080/", a.Addr()))
			if err != nil {
				return err
			}
			sum, err := traffic.ParseSummary(out)
			if err == nil && (sum.Failed > 0 || sum.OK == 0) { // by the task of that host alone: the other's are gone
				err = fmt.Errorf("of %d requests %d failed: %v", sum.Sent, sum.Failed, sum.Errors)
			}
			return err
		})
	}
}
