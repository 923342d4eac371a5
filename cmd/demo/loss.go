package main

import (
	"fmt"
	"syscall"
	"time"

	"shoal/lab"
	"shoal/lab/traffic"
)

func (s *story) restart() {
	s.step("The agent is killed and started again, under load")
	load := s.startLoad()
	s.command(s.a, []string{"kill", "-9", "$(pidof shoal)"})
	s.a.KillAgent(syscall.SIGKILL)
	s.command(s.a, []string{"shoal", "agent", "&"})
	s.a.StartAgent()
	s.eventually(10*time.Second, "the agent is back", func() error {
		_, err := s.a.TryShoal("services")
		return err
	})
	sum := s.endLoad(load)
	s.holds(sum.Failed == 0, "of %d requests meanwhile %d failed %v", sum.Sent, sum.Failed, sum.Errors)
}

// lose cuts host c off and has it come back. One of two tasks is on it.
func (s *story) lose() {
	s.step("A host is lost, and comes back")
	s.note("host c is cut off from the others")
	s.c.CutOff()
	left := []*lab.Host{s.a, s.b}
	s.eventuallyOn(left, 3*time.Second, "its task has left the rotation of the hosts that are left", 1)
	s.shoal(s.a, "nodes")
	s.lists(map[int]*lab.Host{3: s.b})
	sum := s.ask("20")
	s.holds(sum.Failed == 0, "of %d requests to the VIP %d failed %v", sum.Sent, sum.Failed, sum.Errors)
	for _, h := range left {
		sum := s.summary(s.lab.Outside().Exec("whoami", "load", "--count", "20", fmt.Sprintf("http://%v:8000/", h.Addr())))
		s.holds(sum.Failed == 0, "of %d requests from outside to port 8000 of %s %d failed %v", sum.Sent, h.Name(), sum.Failed, sum.Errors)
	}
	s.note("host c is back")
	s.c.Reconnect()
	s.eventuallyOn(s.hosts, 3*time.Second, "its task is in every host's rotation again", 2)
	s.lists(map[int]*lab.Host{2: s.c, 3: s.b})
	s.vipStayed()
}

// startLoad has the client make requests through the VIP, each on a new
// connection, until endLoad.
func (s *story) startLoad() *lab.Process {
	s.a.Docker("exec", "client", "rm", "-f", "/tmp/stop")
	args := []string{"docker", "exec", "client", "whoami", "load", "--timeout", "5s", "--until-file", "/tmp/stop", url}
	s.command(s.a, append(args, "&"))
	p := s.a.Start(args...)
	s.eventually(10*time.Second, "the load runs", func() error {
		_, err := s.a.TryDocker("exec", "client", "pidof", "whoami")
		return err
	})
	return p
}

// endLoad lets the load go on until it made some requests more, ends it, and
// returns what became of all.
func (s *story) endLoad(p *lab.Process) traffic.Summary {
	s.ask("100")
	s.a.Docker("exec", "client", "touch", "/tmp/stop")
	if err := p.Wait(20 * time.Second); err != nil {
		s.Fatalf("the load: %v\n%s", err, p.Output())
	}
	return s.summary(p.Output())
}

// ask has the client make n requests.
func (s *story) ask(n string) traffic.Summary {
	return s.summary(s.a.Docker("exec", "client", "whoami", "load", "--timeout", "5s", "--count", n, url))
}

func (s *story) summary(output string) traffic.Summary {
	sum, err := traffic.ParseSummary(output)
	if err != nil {
		s.Fatalf("%v", err)
	}
	return sum
}
