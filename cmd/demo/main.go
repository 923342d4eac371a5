// Command demo shows shoal's main job over three hosts, on real engines and a
// real kernel, and exits with 0 only if every step of it held. It runs in the
// lab: make demo.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"shoal/lab"
	"shoal/lab/kernel"
)

func main() {
	t := &transcript{}
	os.Exit(t.run(func() { tell(&story{transcript: t}) }))
}

// story is what the steps of the demo share.
type story struct {
	*transcript
	lab     *lab.Lab
	hosts   []*lab.Host
	a, b, c *lab.Host
	vip     string
}

// tell is the whole of it: the walks known from Swarm, and what becomes of
// them when something breaks.
func tell(s *story) {
	s.cluster()
	s.firstTask()
	s.scale()
	s.kernel()
	s.publish()
	s.kill()
	s.restart()
	s.lose()
	s.zero()
	s.mistake()
	s.down()
	fmt.Printf("\nEvery step held, in %.0f s.\n", time.Since(s.started).Seconds())
}

func (s *story) cluster() {
	s.step("Three hosts, each with a Docker engine, and shoal on them")
	s.lab = lab.New(s.transcript)
	s.hosts = s.lab.Hosts("a", "b", "c")
	s.a, s.b, s.c = s.hosts[0], s.hosts[1], s.hosts[2]
	s.command(s.a, []string{"shoal", "agent", "&"})
	s.a.StartAgent()
	s.note("this prints the command by which others join:")
	s.command(s.a, []string{"shoal", "token", "create", "--uses", "2"})
	args := s.a.Invitation("--uses", "2")
	for _, h := range s.hosts[1:] {
		s.command(h, append(append([]string{"shoal", "agent"}, args...), "&"))
		h.StartAgent(args...)
	}
	start := time.Now()
	lab.AwaitNodes(s.transcript, s.hosts...)
	s.held("every host sees every other alive", start)
	s.shoal(s.a, "nodes")
}

func (s *story) mistake() {
	s.step("A label with a mistake")
	s.docker(s.b, "run", "-d", "-l", "shoal.service=whoami", "-l", "shoal.weight=-1", "--name", "mistaken", "whoami")
	s.eventually(5*time.Second, "it is listed as a problem", func() error {
		if out := s.a.Shoal("problems"); !strings.Contains(out, "mistaken") {
			return errors.New(out)
		}
		return nil
	})
	s.shoal(s.a, "problems")
}

func (s *story) down() {
	s.step("Down")
	for _, h := range s.hosts {
		// The engine keeps a network while containers are on it.
		if on := strings.Fields(h.Docker("ps", "-a", "--filter", "network=mesh", "--format", "{{.Names}}")); len(on) > 0 {
			s.docker(h, append([]string{"rm", "-f"}, on...)...)
		}
		h.KillAgent(syscall.SIGTERM)
		s.shoal(h, "down")
		left := h.Exec("iptables-save") + h.Exec("ip", "route", "show", "table", "all") + h.Exec("ip", "netns")
		if lab.Plane() == kernel.IPVS {
			left += h.Exec("ipvsadm", "-Sn")
		} else {
			left += h.Exec("nft", "list", "ruleset")
		}
		for _, sign := range []string{"SHOAL", "shoal-ingress", "table ip shoal", "10.96.", "proto 83", "proto 84"} {
			if strings.Contains(left, sign) {
				s.Fatalf("%q is left in the kernel of %s:\n%s", sign, h.Name(), left)
			}
		}
	}
	s.holds(true, "nothing of shoal is left in any host's kernel")
}
