//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/lab"
)

// TestContainersAreFollowed takes one of two tasks through all that can become of a container.
func TestContainersAreFollowed(t *testing.T) {
	h := home(t)
	h.run("steady", "-l shoal.service=follow")
	h.run("moves", "-l shoal.service=follow")
	h.Docker("network", "create", "second")
	url := h.web("follow")
	both := func(name string) {
		t.Helper()
		h.task(name, "running")
		h.answered(url, "steady", "moves") // its host name stays
	}
	both("moves")

	h.pause("moves")
	h.task("moves", "paused")
	h.answered(url, "steady")
	if out, err := h.TryShoal("explain", "moves"); code(err) != 1 || !strings.Contains(out, "docker unpause") {
		t.Errorf("explain of a paused container: %v\n%s", err, out)
	}
	h.Docker("unpause", "moves")
	both("moves")

	h.Docker("update", "--cpu-shares", "512", "moves")
	both("moves")

	h.Docker("rename", "moves", "moved")
	h.task("moves", "")
	both("moved")

	// On a second network, nobody knows which is meant, until it has left that, or the other.
	h.Docker("network", "connect", "second", "moved")
	if reason := h.problem("moved", "network-ambiguous"); !strings.Contains(reason, "shoal.network") || !strings.Contains(reason, "second") {
		t.Errorf("a container of two networks: %s", reason)
	}
	h.answered(url, "steady")
	h.Docker("network", "disconnect", "bridge", "moved")
	both("moved")
	h.noProblem("moved")

	h.Docker("stop", "moved")
	h.task("moved", "")
	h.answered(url, "steady")
	h.Docker("start", "moved")
	both("moved")

	h.Docker("kill", "moved")
	h.task("moved", "")
	h.answered(url, "steady")
	h.Docker("start", "moved")
	both("moved")

	// It dies, and nobody had it told to.
	pid := container{h, "moved"}.inspect().State.Pid
	h.Exec("kill", "-9", fmt.Sprint(pid))
	h.task("moved", "")
	h.answered(url, "steady")
	h.Docker("rm", "-f", "steady")
	h.refused(url)

	// The kernel ends it, for want of memory.
	greedy := h.run("greedy", "-l shoal.service=follow --memory 32m --memory-swap 32m",
		"sh", "-c", "whoami serve & until test -f /go; do sleep 0.1; done; tail -c 128m /dev/zero")
	h.answered(url, "greedy")
	greedy.exec("touch", "/go")
	h.task("greedy", "")
	h.refused(url)
	if s := greedy.inspect().State; s.ExitCode != 128+9 { // OOMKilled the engine may not know of when it hears of the end
		t.Errorf("it did not end for want of memory: %+v", s)
	}
}

// TestHealth takes a container with a HEALTHCHECK through its states. It begins unwell, as most do.
func TestHealth(t *testing.T) {
	h := home(t)
	h.Docker("run", "-d", "--name", "patient", "--hostname", "patient", "-l", "shoal.service=clinic",
		"--health-cmd", "test -e /tmp/well", "--health-interval", "500ms", "--health-retries", "1", "--health-start-period", "10m", lab.Image)
	h.Docker("run", "-d", "--name", "hardy", "--hostname", "hardy", "-l", "shoal.service=hardy", "-l", "shoal.health=none",
		"--health-cmd", "test -e /tmp/well", "--health-interval", "500ms", "--health-start-period", "10m", lab.Image)
	patient := container{h, "patient"}
	listed := func(want bool) {
		t.Helper()
		if got := h.client().dig("+short", "tasks.clinic.mesh.internal"); (got == patient.addr()) != want {
			t.Errorf("tasks.clinic is %q, want the patient's address: %v", got, want)
		}
	}
	h.answered(h.web("hardy"), "hardy") // its HEALTHCHECK does not matter
	url := h.web("clinic")
	h.task("patient", "starting")
	h.refused(url)
	listed(false)

	patient.exec("touch", "/tmp/well")
	h.task("patient", "running")
	h.answered(url, "patient")
	listed(true)

	patient.exec("rm", "/tmp/well")
	h.task("patient", "unhealthy")
	h.refused(url)
	listed(true)

	patient.exec("touch", "/tmp/well")
	h.task("patient", "running")
	h.answered(url, "patient")
}

// TestDraining stops one of two tasks while it has a request in hand and a steady sender of datagrams.
func TestDraining(t *testing.T) {
	h := home(t)
	const labels = "-l shoal.service=drain -l shoal.drain=60s"
	leaver := h.run("leaver", labels, everything(t)...)
	h.run("stayer", labels, everything(t)...)
	vip, url := h.vip("drain"), h.web("drain")
	h.answered(url, "leaver", "stayer")
	addr := netip.MustParseAddr(leaver.addr())
	entries := func(proto string) int {
		t.Helper()
		n, err := h.Connections(proto, addr)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}

	atLeaver := func(proto string, most int) {
		t.Helper()
		lab.Eventually(t, waitLimit, "of two one is at the leaver by "+proto, func() error {
			if n := entries(proto); n < 1 || n > most {
				return fmt.Errorf("%d are", n)
			}
			return nil
		})
	}
	sender := h.Load("--keep", "--workers", "2", "--timeout", "500ms", "udp://"+vip+":9000")
	atLeaver("udp", 2)      // a sender whose first datagram is refused takes another turn: the server may not be there yet
	var slow []*lab.Process // last, as these requests end by themselves
	for range 2 {
		slow = append(slow, h.Start("whoami", "get", "--timeout", "60s", url+"slow?d=30s"))
	}
	atLeaver("tcp", 1)
	stop := h.Start("docker", "stop", "--time", "60", "leaver")
	h.task("leaver", "draining")
	h.answered(url, "stayer") // the agent has told before the kernel has it, and the engine has told the container before both
	if s := h.load("--count", "20", url); s.OK != 20 || s.Hostnames["stayer"] != 20 {
		t.Errorf("requests while a task drains: %+v", s)
	}
	lab.Eventually(t, 5*time.Second, "the sender of datagrams has moved", func() error {
		if n := entries("udp"); n != 0 {
			return fmt.Errorf("%d flows to the task that drains", n)
		}
		return nil
	})
	if entries("tcp") != 1 {
		t.Error("the request in hand has gone before it was answered")
	}
	sender.Await(20)
	h.task("leaver", "draining") // still: what was seen above was while it drained

	answers := map[string]int{}
	for _, p := range slow {
		if err := p.Wait(waitLimit); err != nil {
			t.Errorf("a request in hand: %v\n%s", err, p.Output())
		}
		answers[field(p.Output(), "hostname")]++
	}
	if answers["leaver"] != 1 || answers["stayer"] != 1 {
		t.Errorf("the requests in hand were answered by %v", answers)
	}
	if err := stop.Wait(waitLimit); err != nil {
		t.Error(err)
	}
	h.task("leaver", "")
	// One datagram is lost for each sender that must move: see package lb.
	if s := sender.Stop(); s.Failed > 2 {
		t.Errorf("datagrams while a task left: %+v", s)
	}
}

// hasOneInHand waits until a task of the host has one TCP connection.
func (h *host) hasOneInHand(task netip.Addr) {
	h.t.Helper()
	lab.Eventually(h.t, waitLimit, "the request is in hand", func() error {
		n, err := h.Connections("tcp", task)
		if err == nil && n != 1 {
			err = fmt.Errorf("%d connections are", n)
		}
		return err
	})
}

// TestDrainEndsAtItsDeadline: what a task holds is cut off, for the sake of who waits for a dead one.
func TestDrainEndsAtItsDeadline(t *testing.T) {
	h := home(t)
	leaver := h.run("hasty", "-l shoal.service=hasty -l shoal.drain=1s")
	url := h.web("hasty")
	h.answered(url, "hasty")
	slow := h.Start("whoami", "get", "--timeout", "60s", url+"slow?d=50s")
	addr := netip.MustParseAddr(leaver.addr())
	h.hasOneInHand(addr)
	stop := h.Start("docker", "stop", "--time", "30", "hasty") // it waits 10 s for the request
	lab.Eventually(t, 8*time.Second, "the kernel has let go of it", func() error {
		all, err := h.Frontends()
		for _, f := range all {
			for _, b := range f.Backends {
				if b.Addr.Addr() == addr {
					err = fmt.Errorf("it has %+v", f)
				}
			}
		}
		return err
	})
	if c := leaver.inspect(); !c.State.Running {
		t.Error("the container had ended by itself")
	}
	h.Docker("kill", "hasty")
	_ = stop.Wait(waitLimit) // however it ends
	_ = slow.Signal(syscall.SIGKILL)
}

// TestATaskThatTheEngineDoesNotStopIsInRotationAgain: nobody else would take it back before the time for its stop is over.
func TestATaskThatTheEngineDoesNotStopIsInRotationAgain(t *testing.T) {
	h := home(t)
	kept := h.run("kept", "-l shoal.service=kept -l shoal.drain=60s")
	url := h.web("kept")
	h.answered(url, "kept")
	slow := h.Start("whoami", "get", "--timeout", "60s", url+"slow?d=20s")
	addr := netip.MustParseAddr(kept.addr())
	h.hasOneInHand(addr)
	stop := h.Start("shoal", "stop", "kept")
	h.task("kept", "draining")
	socket := h.DockerSocket()
	h.Exec("mv", socket, socket+".away") // whoever is connected stays so
	defer h.Exec("mv", socket+".away", socket)
	if err := slow.Wait(waitLimit); err != nil {
		t.Errorf("the request in hand: %v\n%s", err, slow.Output())
	}
	if err := stop.Wait(waitLimit); err == nil || !strings.Contains(stop.Output(), "it does not drain any more") {
		t.Errorf("stop without an engine: %v\n%s", err, stop.Output())
	}
	h.task("kept", "running")
	h.answered(url, "kept")
}

// TestPlacesOfTasks is tasks that are not simply on a network of their own, and one of two services.
func TestPlacesOfTasks(t *testing.T) {
	h := home(t)
	pod := h.run("pod", "", "sleep", "1000000")
	sidecar := []string{"run", "-d", "--name", "sidecar", "-l", "shoal.service=sidecar", "--network", "container:pod", lab.Image}
	h.Docker(sidecar...)
	h.run("onhost", "-l shoal.service=onhost --network host", "whoami", "serve", "--http", "8081")
	h.run("twofold", "-l shoal.services.front.ports=80:8000 -l shoal.services.admin.ports=8000:9000 -l shoal.services.admin.scheduler=lc",
		"whoami", "serve", "--http", "8000", "--tcp", "9000")
	client := h.client()

	h.answered(h.web("sidecar"), "pod")
	if got := client.dig("+short", "tasks.sidecar.mesh.internal"); got != pod.addr() {
		t.Errorf("tasks.sidecar is %q, want the address of the container it joined, %s", got, pod.addr())
	}
	if got := client.dig("+short", "tasks.onhost.mesh.internal"); got != h.Addr().String() {
		t.Errorf("tasks.onhost is %q, want the host's address, %v", got, h.Addr())
	}
	onhost := "http://" + h.vip("onhost") + ":8081/"
	h.answered(onhost, "onhost")
	if got := client.exec("whoami", "get", onhost); !strings.HasPrefix(field(got, "client"), client.addr()+":") {
		t.Errorf("the container asks the task on the host's network: %s", got)
	}

	front, admin := h.vip("front"), h.vip("admin")
	h.answered("http://"+front+"/", "twofold")
	h.answered("tcp://"+admin+":8000", "twofold")
	h.refused("http://" + front + ":8000/")
	h.refused("tcp://" + admin + ":9000")
	h.Docker("rm", "-f", "twofold")
	h.refused("http://" + front + "/")
	h.refused("tcp://" + admin + ":8000")
}
