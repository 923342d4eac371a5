package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"shoal/lab"
	"shoal/lab/kernel"
)

const url = "http://whoami:8000/"

func (s *story) firstTask() {
	s.step("A service on host b, a client on host a that only knows the DNS server")
	s.run("b", 1)
	s.docker(s.a, "run", "-d", "--name", "client", "--network", "mesh", "--dns", "10.96.0.10", "--dns", "10.96.0.11", "--dns-search", "mesh.internal",
		"--dns-opt", "timeout:1", "whoami", "sleep", "86400")
	s.eventually(5*time.Second, "the task is in rotation on every host", s.rotation(1))
	s.vip = s.lookUp("whoami.mesh.internal")
	s.holds(strings.HasPrefix(s.vip, "10.96."), "whoami answers with a virtual address, %s", s.vip)
	s.ping()
}

// run starts the n-th task on the host of that name.
func (s *story) run(host string, n int) {
	h := s.lab.With(s.transcript).Host(host)
	s.docker(h, "run", "-d", "--network", "mesh", "-l", "shoal.service=whoami", "-l", "shoal.publish=8000:8000",
		"--name", task(n), "--hostname", task(n), "whoami")
}

func task(n int) string { return fmt.Sprintf("whoami-%d", n) }

func (s *story) scale() {
	s.step("From one task to two, and to three, on two hosts")
	s.run("c", 2)
	s.eventually(5*time.Second, "the second joined every host's rotation", s.rotation(2))
	s.ping()
	s.alternate(2)
	s.run("b", 3)
	s.eventually(5*time.Second, "so did the third", s.rotation(3))
	s.shoal(s.a, "services")
	s.lists(map[int]*lab.Host{1: s.b, 2: s.c, 3: s.b})
	s.vipStayed()
	s.alternate(3)
}

// alternate has the client ask twice as often as there are tasks.
func (s *story) alternate(tasks int) {
	s.command(s.a, []string{"docker", "exec", "client", "wget", "-qO-", url})
	s.inTurn(tasks, 2*tasks, func() string { return s.a.Docker("exec", "client", "wget", "-qO-", url) })
}

// inTurn makes requests, which so many tasks have to answer, one after the
// other.
func (s *story) inTurn(tasks, requests int, ask func() string) {
	var who []string
	for range requests {
		out := ask()
		s.note("%s", oneLine(out))
		who = append(who, field(out, "hostname"))
	}
	inTurn := true
	for i := tasks; i < len(who); i++ {
		inTurn = inTurn && who[i] == who[i-tasks]
	}
	seen := map[string]bool{}
	for _, name := range who[:tasks] {
		seen[name] = true
	}
	s.holds(inTurn && len(seen) == tasks, "%d requests were answered by %d containers in turn: %s", requests, len(seen), strings.Join(who, ", "))
}

func (s *story) kernel() {
	s.step("What the kernel of host a balances with")
	if lab.Plane() == kernel.IPVS {
		s.on(s.a, "ipvsadm", "-ln")
		s.note("one virtual service by mark, its real servers the containers; the mark comes from a set:")
		s.on(s.a, "iptables", "-t", "mangle", "-S", "SHOAL-MARK")
	} else {
		s.on(s.a, "nft", "list", "table", "ip", "shoal")
		s.note("one step in a map for each packet, however many services there are")
	}
	s.shoal(s.a, "explain", "whoami")
}

func (s *story) kill() {
	s.step("A container is killed under load")
	load := s.startLoad()
	s.docker(s.b, "kill", task(1))
	s.eventually(5*time.Second, "it has left every host's rotation", s.rotation(2))
	sum := s.endLoad(load)
	s.note("%d requests, %d failed %v", sum.Sent, sum.Failed, sum.Errors)
	s.holds(sum.Sent >= 100, "at least a hundred requests were made")
	died := s.death(task(1))
	late := time.Duration(0)
	if sum.Failed > 0 {
		late = time.Unix(0, sum.LastFailure).Sub(died)
	}
	s.holds(late < time.Second, "no request that began more than %d ms after its death failed", max(0, late.Milliseconds()))
}

// death is when a container of host b died, as its engine has it.
func (s *story) death(name string) time.Time {
	at, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(s.b.Docker("inspect", "-f", "{{.State.FinishedAt}}", name)))
	if err != nil {
		s.Fatalf("%v", err)
	}
	return at
}

func (s *story) zero() {
	s.step("To zero and back")
	s.docker(s.b, "rm", "-f", task(1), task(3))
	s.docker(s.c, "rm", "-f", task(2))
	s.eventually(5*time.Second, "the service is empty", s.rotation(0))
	start := time.Now()
	out, err := s.a.TryDocker("exec", "client", "whoami", "get", "http://"+s.vip+":8000/")
	s.holds(err != nil && strings.Contains(out+err.Error(), "refused"), "a connection to it is refused at once (%d ms)", time.Since(start).Milliseconds())
	s.run("c", 4)
	s.eventually(5*time.Second, "it answers again", func() error {
		out, err := s.a.TryDocker("exec", "client", "whoami", "get", url)
		if err != nil {
			return err
		}
		if who := field(out, "hostname"); who != task(4) {
			return errors.New("answered by " + who)
		}
		return nil
	})
	s.vipStayed()
}

func (s *story) vipStayed() {
	vip := s.lookUp("whoami.mesh.internal")
	s.holds(vip == s.vip, "the VIP stayed: %s", vip)
}
