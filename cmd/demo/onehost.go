// Command demo shows shoal's main job, on real engines and a real kernel, and
// exits with 0 only if every step of it held. It runs in the lab: make demo.
package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"time"

	"shoal/lab"
	"shoal/lab/traffic"
)

const url = "http://whoami:8000/"

// oneHost is the walk from docker run to a balanced name on one host.
func oneHost(t *transcript) {
	t.step("A host with a Docker engine, and shoal on it")
	l := lab.New(t)
	h := l.Host("a")
	t.command([]string{"shoal", "agent", "&"})
	h.StartAgent()
	t.eventually(10*time.Second, "the agent has its store and its engine", func() error {
		out, err := h.TryShoal("services")
		if err != nil {
			return errors.New(out)
		}
		return nil
	})
	t.shoal(h, "status")

	t.step("Three containers, one label")
	for i := 1; i <= 3; i++ {
		t.docker(h, "run", "-d", "-l", "shoal.service=whoami", "--name", name(i), "--hostname", name(i), "whoami")
	}
	t.eventually(5*time.Second, "all three are in rotation", rotation(h, 3))
	t.shoal(h, "services")

	t.step("A client that only knows the DNS server")
	t.docker(h, "run", "-d", "--name", "client", "--dns", "10.96.0.10", "--dns-search", "mesh.internal", "--dns-opt", "timeout:1", "whoami", "sleep", "86400")
	vip := firstAddr(inClient(t, h, "nslookup", "whoami.mesh.internal"))
	t.holds(strings.HasPrefix(vip, "10.96."), "whoami answers with a virtual address, %s", vip)
	all := inClient(t, h, "nslookup", "tasks.whoami.mesh.internal")
	for i := 1; i <= 3; i++ {
		addr := address(h, name(i))
		t.holds(strings.Contains(all, addr), "tasks.whoami lists %s, %s", addr, name(i))
	}

	t.step("The kernel balances")
	seen := map[string]int{}
	t.command([]string{"docker", "exec", "client", "wget", "-qO-", url})
	for range 6 {
		out := h.Docker("exec", "client", "wget", "-qO-", url)
		who := hostname(out)
		seen[who]++
		t.note("%s", strings.ReplaceAll(strings.TrimSpace(out), "\n", ", "))
	}
	t.holds(len(seen) == 3, "six requests were answered by %d containers: %v", len(seen), seen)
	inClient(t, h, "ping", "-c", "2", "whoami")
	t.holds(true, "ping of the VIP works")
	t.on(h, "ipvsadm", "-ln")
	t.note("one virtual service by mark, its real servers the containers; the mark comes from a set:")
	t.on(h, "iptables", "-t", "mangle", "-S")
	t.shoal(h, "explain", "whoami")

	t.step("One more container joins")
	t.docker(h, "run", "-d", "-l", "shoal.service=whoami", "--name", name(4), "--hostname", name(4), "whoami")
	t.eventually(5*time.Second, name(4)+" answers through the VIP", func() error {
		out, err := h.TryExec("whoami", "get", "http://"+vip+":8000/")
		if err == nil && hostname(out) != name(4) {
			err = errors.New("answered by " + hostname(out))
		}
		return err
	})

	t.step("One is killed under load")
	load := startLoad(t, h)
	killed := time.Now()
	t.docker(h, "kill", name(2))
	t.eventually(5*time.Second, "it has left the rotation", rotation(h, 3))
	s := endLoad(t, h, load)
	t.note("%d requests, %d failed %v", s.Sent, s.Failed, s.Errors)
	t.holds(s.Sent >= 100, "at least a hundred requests were made")
	late := time.Duration(0)
	if s.Failed > 0 {
		late = time.Unix(0, s.LastFailure).Sub(killed)
	}
	t.holds(late < time.Second, "no request that began more than %d ms after the kill failed", max(0, late.Milliseconds()))

	t.step("The agent is killed and started again, under load")
	load = startLoad(t, h)
	t.command([]string{"kill", "-9", "$(pidof shoal)"})
	h.KillAgent(syscall.SIGKILL)
	t.command([]string{"shoal", "agent", "&"})
	h.StartAgent()
	t.eventually(10*time.Second, "the agent is back", func() error {
		_, err := h.TryShoal("services")
		return err
	})
	s = endLoad(t, h, load)
	t.holds(s.Failed == 0, "of %d requests meanwhile %d failed %v", s.Sent, s.Failed, s.Errors)

	t.step("To zero and back")
	names := []string{name(1), name(3), name(4)}
	t.docker(h, append([]string{"rm", "-f"}, names...)...)
	t.eventually(5*time.Second, "the service is empty", rotation(h, 0))
	start := time.Now()
	out, err := h.TryDocker("exec", "client", "whoami", "get", "http://"+vip+":8000/")
	t.holds(err != nil && strings.Contains(out+err.Error(), "refused"), "a connection to it is refused at once (%d ms)", time.Since(start).Milliseconds())
	t.docker(h, "run", "-d", "-l", "shoal.service=whoami", "--name", name(5), "--hostname", name(5), "whoami")
	t.eventually(5*time.Second, "it answers again", func() error {
		out, err := h.TryDocker("exec", "client", "whoami", "get", url)
		if err != nil {
			return err
		}
		if hostname(out) != name(5) {
			return errors.New("answered by " + hostname(out))
		}
		return nil
	})
	again := firstAddr(inClient(t, h, "nslookup", "whoami.mesh.internal"))
	t.holds(again == vip, "the VIP stayed: %s", again)

	t.step("A label with a mistake")
	t.docker(h, "run", "-d", "-l", "shoal.service=whoami", "-l", "shoal.weight=-1", "--name", "mistaken", "whoami")
	t.eventually(5*time.Second, "it is listed as a problem", func() error {
		if out := h.Shoal("problems"); !strings.Contains(out, "mistaken") {
			return errors.New(out)
		}
		return nil
	})
	t.shoal(h, "problems")

	t.step("Down")
	h.KillAgent(syscall.SIGTERM)
	t.shoal(h, "down")
	rules := h.Exec("iptables-save") + h.Exec("ip", "route", "show", "table", "all") + h.Exec("ipvsadm", "-Sn")
	t.holds(!strings.Contains(rules, "SHOAL") && !strings.Contains(rules, "10.96."), "nothing of shoal is left in the kernel")
	fmt.Printf("\nEvery step held, in %.0f s.\n", time.Since(t.started).Seconds())
}

func name(i int) string { return fmt.Sprintf("whoami-%d", i) }

// inClient runs a command in the client's container.
func inClient(t *transcript, h *lab.Host, args ...string) string {
	return t.docker(h, append([]string{"exec", "client"}, args...)...)
}

// realServer is a line of ipvsadm with a weight that is not 0.
var realServer = regexp.MustCompile(`(?m)^  -> ([0-9.]+):\d+ +Masq +[1-9]`)

// rotation checks that so many tasks are in rotation, as the balancer's
// kernel table has them.
func rotation(h *lab.Host, n int) func() error {
	return func() error {
		out, err := h.TryExec("ipvsadm", "-ln")
		if err != nil {
			return err
		}
		servers := map[string]bool{}
		for _, m := range realServer.FindAllStringSubmatch(out, -1) {
			servers[m[1]] = true
		}
		if len(servers) != n {
			return fmt.Errorf("the kernel has %d real servers in rotation, not %d:\n%s", len(servers), n, out)
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

func address(h *lab.Host, container string) string {
	return strings.TrimSpace(h.Docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", container))
}

// hostname is who answered, by whoami's first line.
func hostname(reply string) string {
	for line := range strings.Lines(reply) {
		if key, value, ok := strings.Cut(line, "="); ok && key == "hostname" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// startLoad has the client make requests through the VIP, each on a new
// connection, until endLoad.
func startLoad(t *transcript, h *lab.Host) *lab.Process {
	h.Docker("exec", "client", "rm", "-f", "/tmp/stop")
	args := []string{"docker", "exec", "client", "whoami", "load", "--timeout", "5s", "--until-file", "/tmp/stop", url}
	t.command(append(args, "&"))
	p := h.Start(args...)
	t.eventually(10*time.Second, "the load runs", func() error {
		_, err := h.TryDocker("exec", "client", "pidof", "whoami")
		return err
	})
	return p
}

// endLoad lets the load go on until it made some requests more, ends it, and
// returns what became of all.
func endLoad(t *transcript, h *lab.Host, p *lab.Process) traffic.Summary {
	h.Docker("exec", "client", "whoami", "load", "--count", "100", url)
	h.Docker("exec", "client", "touch", "/tmp/stop")
	if err := p.Wait(20 * time.Second); err != nil {
		t.Fatalf("the load: %v\n%s", err, p.Output())
	}
	s, err := traffic.ParseSummary(p.Output())
	if err != nil {
		t.Fatalf("%v", err)
	}
	return s
}
