//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/lab"
)

// led says whom the connections of a process lead to, by what the kernel has of its namespace's sockets: the address that the
// socket is connected to, whatever getpeername says.
func (c container) led(addr string) (connections int) {
	c.h.t.Helper()
	out := c.h.Exec(append(c.enter(false), "ss", "-Hnt", "state", "established", "dst", addr)...)
	return len(strings.Fields(out)) / 4
}

// TestConnectLeadsToATask: who connects to a VIP is connected to a task, and thinks it is the VIP; without it, the data plane
// does the same.
func TestConnectLeadsToATask(t *testing.T) {
	if !lab.SocketBalancing() {
		t.Skip("this run is about the data plane alone")
	}
	h := home(t)
	task := h.run("led-1", "-l shoal.service=led -l shoal.ports=80:8000")
	client := h.client()
	vip := h.vip("led")
	url := "http://" + vip + "/"
	h.answered(url, "led-1")

	held := func() (led, through int) {
		t.Helper()
		p := h.Start(append(client.enter(true), "whoami", "get", "--timeout", "30s", url+"slow?d=4s")...)
		lab.Eventually(t, waitLimit, "the request is in hand", func() error {
			led, through = client.led(task.addr()), client.led(vip)
			if led+through != 1 {
				return fmt.Errorf("%d connections to the task, %d to the VIP", led, through)
			}
			return nil
		})
		if err := p.Wait(waitLimit); err != nil {
			t.Errorf("a request: %v\n%s", err, p.Output())
		}
		return led, through
	}
	if led, _ := held(); led != 1 {
		t.Error("a connection to the VIP is none to the task")
	}
	type status struct {
		Cgroup string `json:"socketCgroup"`
		Why    string `json:"socketReason"`
	}
	if s, err := ask[status](h, "status"); err != nil || s.Cgroup != h.Cgroup() || (s.Why != "") == lab.Has(t, "sock_destroy") {
		t.Errorf("status says %+v, %v", s, err)
	}
	for _, want := range []string{"connect4 at " + h.Cgroup(), "services " + vip + ":80/tcp: 1 slots"} {
		if out := h.Shoal("explain", "-v", "led"); !strings.Contains(out, want) {
			t.Errorf("shoal explain lacks %q:\n%s", want, out)
		}
	}

	// Killed, the agent leaves all as it is.
	h.KillAgent(syscall.SIGKILL)
	if led, _ := held(); led != 1 {
		t.Error("without an agent, connections are led no more")
	}
	// Told to, it leaves it all to the data plane, and nothing is left.
	h.StartAgent("--socket-balancing", "off")
	h.ready()
	if _, through := held(); through != 1 {
		t.Error("--socket-balancing off leads connections still")
	}
	if s, err := ask[status](h, "status"); err != nil || s.Cgroup != "" || !strings.Contains(s.Why, "--socket-balancing") {
		t.Errorf("switched off, status says %+v, %v", s, err)
	}
	if out := h.Exec("ls", "/sys/fs/bpf"); strings.Contains(out, "shoal") {
		t.Errorf("switched off, there are pins: %s", out)
	}
	h.KillAgent(syscall.SIGKILL)
	h.StartAgent()
	h.ready()
	lab.Eventually(t, waitLimit, "switched on again, it leads", func() error {
		if led, _ := held(); led != 1 {
			return errors.New("the connection is to the VIP")
		}
		return nil
	})
}

// TestConnectionsToAKilledTaskAreClosed: a client that waits for an answer is told that there will be none.
func TestConnectionsToAKilledTaskAreClosed(t *testing.T) {
	if !lab.SocketBalancing() {
		t.Skip("this run is about the data plane alone")
	}
	lab.Needs(t, "sock_destroy")
	h := home(t)
	victim := h.run("victim", "-l shoal.service=mortal -l shoal.drain=1s")
	client := h.client()
	url := h.web("mortal")
	h.answered(url, "victim")
	addr := victim.addr()
	for _, from := range []struct {
		name  string
		enter []string
	}{{"a container", client.enter(true)}, {"a host process", nil}} {
		p := h.Start(append(from.enter, "whoami", "get", "--timeout", "60s", url+"slow?d=50s")...)
		lab.Eventually(t, waitLimit, "the request is in hand", func() error {
			if n, err := h.Connections("tcp", netip.MustParseAddr(addr)); err != nil || n != 1 {
				return fmt.Errorf("%d connections, %w", n, err)
			}
			return nil
		})
		// Its link goes before it can say goodbye, as with a host that loses its power.
		pid := fmt.Sprint(victim.inspect().State.Pid)
		h.Exec("nsenter", "--target", pid, "--net", "--", "ip", "link", "set", "eth0", "down")
		began := time.Now()
		h.Docker("kill", "victim")
		if err := p.Wait(20 * time.Second); err == nil || strings.Contains(err.Error(), "still runs") {
			t.Fatalf("%s waits for an answer of a dead task: %v", from.name, err)
		}
		t.Logf("%s knew after %v: %s", from.name, time.Since(began).Round(time.Millisecond), strings.TrimSpace(p.Output()))
		if !strings.Contains(p.Output(), "abort") {
			t.Errorf("%s was told %q", from.name, p.Output())
		}
		h.Docker("start", "victim")
		h.task("victim", "running")
		h.answered(url, "victim")
		if addr != victim.addr() {
			addr = victim.addr()
		}
	}
}

// TestAContainerOutsideOfTheControlGroup is carried by the data plane, and named.
func TestAContainerOutsideOfTheControlGroup(t *testing.T) {
	if !lab.SocketBalancing() {
		t.Skip("this run is about the data plane alone")
	}
	h := home(t)
	h.run("within", "-l shoal.service=within")
	url := h.web("within")
	h.answered(url, "within")
	beside := filepath.Join("/", os.Getenv("LAB_NAME"), filepath.Base(filepath.Dir(h.Dir())), "beside")
	h.Docker("run", "-d", "--name", "beside", "--cgroup-parent", beside, lab.Image, "sleep", "1000000")
	c := container{h, "beside"}
	if reason := h.problem("control group "+h.Cgroup(), "socket-outside"); !strings.Contains(reason, "container beside is outside") {
		t.Errorf("the reason is %q", reason)
	}
	// What enters only its network is none of its processes.
	out := h.Docker("exec", c.name, "whoami", "load", "--count", "5", url)
	if s := jsonOf[summary](t, out); s.OK != 5 || s.Clients[c.addr()] != 5 {
		t.Errorf("requests from outside of the group: %+v", s)
	}
	h.Docker("rm", "-f", "beside")
	h.noProblem("control group " + h.Cgroup())
}
