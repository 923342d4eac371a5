//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/lab"
	"shoal/lab/kernel"
)

// everything is a command that serves every protocol this kernel has: HTTP on 8000, TCP and UDP on 9000, SCTP on 9001.
func everything(t *testing.T) []string {
	t.Helper()
	command := []string{"whoami", "serve", "--http", "8000", "--tcp", "9000", "--udp", "9000"}
	if lab.Has(t, "sctp") {
		command = append(command, "--sctp", "9001")
	}
	return command
}

// protocols are the URLs of what that serves, for an address.
func protocols(t *testing.T) []string {
	t.Helper()
	all := []string{"http://%s:8000/", "tcp://%s:9000", "udp://%s:9000"}
	if lab.Has(t, "sctp") {
		all = append(all, "sctp://%s:9001")
	}
	return all
}

// TestBalance has three tasks of one service, two on Docker's own network and one on another, and sends them requests from
// wherever a request may come.
func TestBalance(t *testing.T) {
	h := home(t)
	h.Docker("network", "create", "othernet")
	one := h.run("even-1", "-l shoal.service=even", everything(t)...)
	two := h.run("even-2", "-l shoal.service=even", everything(t)...)
	three := h.run("even-3", "-l shoal.service=even --network othernet", everything(t)...)
	neighbour := h.run("neighbour", "--network othernet "+useDNS, "sleep", "1000000")
	client := h.client()
	vip := h.vip("even")
	h.answered(h.web("even"), "even-1", "even-2", "even-3")

	clients := []struct {
		name string
		load func(...string) (s summary)
		addr string // as tasks see it
	}{
		{"a container", client.load, client.addr()},
		{"a container on another bridge", neighbour.load, neighbour.addr()},
		{"a host process", h.load, h.Addr().String()},
	}
	for _, proto := range protocols(t) {
		target := fmt.Sprintf(proto, vip)
		for _, c := range clients {
			s := c.load("--count", "30", target)
			if s.OK != 30 || s.Hostnames["even-1"] != 10 || s.Hostnames["even-2"] != 10 || s.Hostnames["even-3"] != 10 {
				t.Errorf("%s makes 30 requests to %s: answered by %v, failed %v", c.name, target, s.Hostnames, s.Errors)
			}
			if c.name == "a host process" && lab.SocketBalancing() && !strings.HasPrefix(proto, "sctp") {
				continue // the kernel chose the address by its route to the task, not to the VIP
			}
			if len(s.Clients) != 1 || s.Clients[c.addr] != s.OK {
				t.Errorf("%s, %s, is seen as %v", c.name, c.addr, s.Clients)
			}
		}
	}

	t.Run("a task reaches its own service, itself included", func(t *testing.T) {
		for _, task := range []container{one, three} {
			s := task.load("--count", "30", "http://"+vip+":8000/")
			if s.OK != 30 || s.Hostnames["even-1"] != 10 || s.Hostnames["even-2"] != 10 || s.Hostnames["even-3"] != 10 {
				t.Errorf("%s: answered by %v, failed %v", task.name, s.Hostnames, s.Errors)
			}
			// Where a connection is not led in connect(), the task itself sees another address than its own.
			itself := 20
			if lab.SocketBalancing() {
				itself = 30
			}
			if s.Clients[task.addr()] != itself {
				t.Errorf("%s, %s, is seen as %v, want %d times as itself", task.name, task.addr(), s.Clients, itself)
			}
		}
	})

	t.Run("ping", func(t *testing.T) {
		client.exec("ping", "-c", "2", "-W", "2", vip)
		neighbour.exec("ping", "-c", "2", "-W", "2", vip)
		h.Exec("busybox", "ping", "-c", "2", "-W", "2", vip)
	})

	t.Run("tasks by their own addresses", func(t *testing.T) {
		for _, from := range []container{client, neighbour} {
			for _, to := range []container{two, three} {
				got := from.exec("whoami", "get", "http://"+to.addr()+":8000/")
				if field(got, "hostname") != to.name || !strings.HasPrefix(field(got, "client"), from.addr()+":") {
					t.Errorf("%s asks %s: %s", from.name, to.name, got)
				}
			}
		}
	})
}

// TestRefusedAtOnce is all that is no service: nobody waits for it, and no listener of the host answers in its place.
func TestRefusedAtOnce(t *testing.T) {
	h := home(t)
	h.run("mapped", "-l shoal.service=mapped -l shoal.ports=web:80:8000,9000/udp", everything(t)...)
	h.run("gone", "-l shoal.service=gone")
	client := h.client()
	mapped, gone := h.vip("mapped"), h.vip("gone")
	h.answered("http://"+gone+":8000/", "gone")
	h.answered("http://"+mapped+"/", "mapped")
	// The host listens on every address that is its own, which those of the pool are, to the kernel.
	listener := h.Start("whoami", "serve", "--http", "8000,8088", "--tcp", "9000", "--udp", "9000,9009")
	t.Cleanup(func() { _ = listener.Signal(9) })
	h.answered("http://127.0.0.1:8088/", h.Name())
	h.Docker("rm", "-f", "gone")
	h.refused("http://" + gone + ":8000/")

	// What is a service is one still.
	for _, target := range []string{"http://" + mapped + "/", "http://" + mapped + ":80/", "udp://" + mapped + ":9000"} {
		if got := client.exec("whoami", "get", target); field(got, "hostname") != "mapped" {
			t.Errorf("%s says %s", target, got)
		}
	}
	const nobody = "10.96.250.250"
	unserved := []string{
		"http://" + gone + ":8000/", "http://" + gone + ":8088/", "tcp://" + gone + ":9000", "udp://" + gone + ":9000",
		"http://" + nobody + ":8000/", "http://" + nobody + ":8088/", "tcp://" + nobody + ":9000", "udp://" + nobody + ":9009", "udp://" + nobody + ":53",
		"http://" + mapped + ":8000/", "http://" + mapped + ":8088/", "tcp://" + mapped + ":9000", "udp://" + mapped + ":9009", "udp://" + mapped + ":53",
		"http://" + dnsServer + ":8000/", "http://" + dnsServer + ":8088/", "udp://" + dnsServer + ":9000",
	}
	if lab.Has(t, "sctp") {
		unserved = append(unserved, "sctp://"+gone+":9001")
	}
	for _, target := range unserved {
		for where, try := range map[string]func(...string) (string, error){"a container": client.tryExec, "a host process": h.TryExec} {
			begun := time.Now()
			out, err := try("whoami", "get", "--timeout", "6s", target)
			if err := refusal(out, err); err != nil {
				t.Errorf("%s, from %s: %v", target, where, err)
			} else if took := time.Since(begun); took > 4*time.Second { // a slow machine's docker exec included
				t.Errorf("%s, from %s, was refused after %v", target, where, took)
			}
		}
	}
	for _, addr := range []string{gone, nobody} {
		if out, err := client.tryExec("ping", "-c", "1", "-W", "1", addr); err == nil {
			t.Errorf("ping of %s, which no task is behind: %s", addr, out)
		}
	}
}

// TestLabelsOfBalancing is weight, scheduler and affinity.
func TestLabelsOfBalancing(t *testing.T) {
	h := home(t)
	light := h.run("light", "-l shoal.service=scales -l shoal.scheduler=wrr -l shoal.weight=1")
	heavy := h.run("heavy", "-l shoal.service=scales -l shoal.scheduler=wrr -l shoal.weight=3")
	h.run("none", "-l shoal.service=scales -l shoal.scheduler=wrr -l shoal.weight=0")
	for i := range 2 {
		h.run(fmt.Sprintf("sticky-%d", i), "-l shoal.service=sticky -l shoal.affinity=client")
	}
	h.task("none", "running")
	h.answered(h.web("scales"), "light", "heavy")
	if s := h.load("--count", "40", h.web("scales")); s.Hostnames["light"] != 10 || s.Hostnames["heavy"] != 30 {
		t.Errorf("of 40 requests, by weights 1, 3 and 0: %v", s.Hostnames)
	}
	h.weighs(map[string]int{light.addr(): 1, heavy.addr(): 3}, "wrr")

	url := h.web("sticky")
	stays := map[string]string{} // client -> task
	for name, load := range map[string]func(...string) summary{"client": h.client().load, "host": h.load} {
		s := load("--count", "12", url)
		if s.OK != 12 || len(s.Hostnames) != 1 {
			t.Errorf("12 requests of %s: %+v", name, s)
			continue
		}
		stays[name] = slices.Collect(maps.Keys(s.Hostnames))[0]
	}
	// A client that comes back comes back to its task, and to another once that is gone.
	if s := h.client().load("--count", "3", url); s.Hostnames[stays["client"]] != 3 {
		t.Errorf("the client of %s comes back to %v", stays["client"], s.Hostnames)
	}
	h.Docker("rm", "-f", stays["client"])
	h.task(stays["client"], "")
	if s := h.client().load("--count", "12", url); s.OK != 12 || len(s.Hostnames) != 1 || s.Hostnames[stays["client"]] > 0 {
		t.Errorf("the client whose task %s has gone: %+v", stays["client"], s)
	}
}

// weighs checks that the kernel has a frontend with just those tasks in rotation, by address, with their weights, and that
// IPVS has that scheduler for it.
func (h *host) weighs(want map[string]int, scheduler string) {
	h.t.Helper()
	all, err := h.Frontends()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range all {
		have := map[string]int{}
		for _, b := range f.Backends {
			if b.Weight > 0 {
				have[b.Addr.Addr().String()] = b.Weight
			}
		}
		if maps.Equal(have, want) && (f.Scheduler == scheduler || lab.Plane() != kernel.IPVS) {
			return
		}
	}
	h.t.Errorf("the kernel has no %s over %v, but %+v", scheduler, want, all)
}
