//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/lab"
	"shoal/lab/kernel"
)

// led says whom the connections of a process lead to, by what the kernel has of its namespace's sockets: the address that the
// socket is connected to, whatever getpeername says.
func (c container) led(addr string) (connections int) {
	c.h.t.Helper()
	return c.h.connectionsTo(c.enter(false), addr)
}

// connectionsTo counts the connections to an address in the network namespace that a command enters.
func (h *host) connectionsTo(enter []string, addr string) (connections int) {
	h.t.Helper()
	out := h.Exec(append(slices.Clone(enter), "ss", "-Hnt", "state", "established", "dst", addr)...)
	return len(strings.Fields(out)) / 4
}

// path makes a request to a VIP that takes seconds, as from says, and tells whether the connection is one to the task, as
// connect() makes it, or to the VIP, which the data plane changes on the way. look enters the client's network namespace.
func (h *host) path(from, look []string, vip, task string) (led, through int) {
	h.t.Helper()
	p := h.Start(append(slices.Clone(from), "whoami", "get", "--timeout", "30s", "http://"+vip+":8000/slow?d=4s")...)
	lab.Eventually(h.t, waitLimit, "the request is in hand", func() error {
		led, through = h.connectionsTo(look, task), h.connectionsTo(look, vip)
		if led+through != 1 {
			return fmt.Errorf("%d connections to the task, %d to the VIP", led, through)
		}
		return nil
	})
	if err := p.Wait(waitLimit); err != nil {
		h.t.Errorf("a request: %v\n%s", err, p.Output())
	}
	return led, through
}

// madeTo is how many connections to a service's VIP the agent has counted: those that were led in connect(), and those that
// the data plane carried.
func (h *host) madeTo(service string) (led, through float64) {
	h.t.Helper()
	m := h.metrics()
	via := func(what string) float64 {
		return m[fmt.Sprintf(`shoal_service_connections_total{service=%q,stack="default",via=%q}`, service, what)]
	}
	return via("connect"), via("plane")
}

// needsSocketBalancing leaves a test out of a run that is about the data plane alone.
func needsSocketBalancing(t *testing.T) {
	t.Helper()
	if !lab.SocketBalancing() {
		t.Skip("this run is about the data plane alone")
	}
}

// TestConnectLeadsToATask: who connects to a VIP is connected to a task, and thinks it is the VIP; without it, the data plane
// does the same.
func TestConnectLeadsToATask(t *testing.T) {
	needsSocketBalancing(t)
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
	needsSocketBalancing(t)
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
	needsSocketBalancing(t)
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
	h.passes([]string{"path " + h.Name() + " leads it: beside is in no control group below " + h.Cgroup()}, "--from", c.name, h.vip("within")+":8000")
	ledBefore, throughBefore := h.madeTo("within")
	// What enters only its network is none of its processes.
	out := h.Docker("exec", c.name, "whoami", "load", "--count", "5", url)
	if s := jsonOf[summary](t, out); s.OK != 5 || s.Clients[c.addr()] != 5 {
		t.Errorf("requests from outside of the group: %+v", s)
	}
	// The kernel adds the counters of IPVS up every two seconds.
	lab.Eventually(t, waitLimit, "they are counted as the data plane's", func() error {
		led, through := h.madeTo("within")
		if led != ledBefore || through < throughBefore+5 {
			return fmt.Errorf("%v more were led in connect(), and %v more were the data plane's", led-ledBefore, through-throughBefore)
		}
		return nil
	})
	h.Docker("rm", "-f", "beside")
	h.noProblem("control group " + h.Cgroup())
}

// TestAClientInANestedControlGroup is one that an engine in a container started: its control group is below that container's, or
// somewhere else, and its network is behind that container's. It is led if its group is below the one that the programs are
// attached to, however deep; else the data plane carries it.
func TestAClientInANestedControlGroup(t *testing.T) {
	needsSocketBalancing(t)
	h := home(t)
	task := h.run("nested", "-l shoal.service=nested")
	outer := h.run("outer", useDNS, "sleep", "1000000")
	vip := h.vip("nested")
	h.answered(h.web("nested"), "nested")

	// The network of a container in the container, as an engine there makes it.
	h.Exec("ip", "netns", "add", "inner")
	t.Cleanup(func() { h.Exec("ip", "netns", "del", "inner") })
	in := []string{"nsenter", "--net=/run/netns/inner", "--"}
	for _, command := range []string{
		"ip link add inner type veth peer name eth0 netns inner",
		"ip addr add 198.18.77.1/24 dev inner", "ip link set inner up",
		"sysctl -qw net.ipv4.ip_forward=1",
		"iptables -t nat -A POSTROUTING -s 198.18.77.0/24 -o eth0 -j MASQUERADE",
	} {
		h.Exec(append(outer.enter(false), strings.Fields(command)...)...)
	}
	for _, command := range []string{"ip addr add 198.18.77.2/24 dev eth0", "ip link set eth0 up", "ip route add default via 198.18.77.1"} {
		h.Exec(append(slices.Clone(in), strings.Fields(command)...)...)
	}

	pid := fmt.Sprint(outer.inspect().State.Pid)
	below := filepath.Join(unified(h.Exec("cat", "/proc/"+pid+"/cgroup")), "docker", "inner")
	beside := filepath.Join(kernel.UnifiedHierarchy(), os.Getenv("LAB_NAME"), filepath.Base(filepath.Dir(h.Dir())), "other-engine", "inner")
	for _, tt := range []struct {
		what, group string
		led         bool
	}{{"below the outer container's", below, true}, {"that of another engine", beside, false}} {
		if strings.HasPrefix(tt.group, h.Cgroup()+"/") != tt.led {
			t.Fatalf("%s is not where it should be", tt.group)
		}
		h.Exec("mkdir", "-p", tt.group)
		enter := append([]string{"sh", "-c", `echo 0 >"$0/cgroup.procs" && exec "$@"`, tt.group}, in...)
		if got := unified(h.Exec(append(slices.Clone(enter), "cat", "/proc/self/cgroup")...)); got != tt.group {
			t.Fatalf("the client is in %s, not in %s", got, tt.group)
		}
		ledBefore, throughBefore := h.madeTo("nested")
		led, through := h.path(enter, in, vip, task.addr())
		if (led == 1) != tt.led {
			t.Errorf("its group is %s: %d connections to the task, %d to the VIP", tt.what, led, through)
		}
		lab.Eventually(t, waitLimit, "it is counted as what it is", func() error {
			ledNow, throughNow := h.madeTo("nested")
			if int(ledNow-ledBefore) != led || int(throughNow-throughBefore) != through {
				return fmt.Errorf("its group is %s: %v more were led in connect(), and %v more were the data plane's", tt.what, ledNow-ledBefore, throughNow-throughBefore)
			}
			return nil
		})
		// It goes once its processes are gone, with the outer container's at the latest.
		h.Exec("rmdir", tt.group, filepath.Dir(tt.group))
	}

	// Where programs are attached is said wherever one looks: whoever is below is led.
	if s := h.Shoal("status"); !strings.Contains(s, "in the control group "+h.Cgroup()) {
		t.Errorf("status does not say whom connect() leads:\n%s", s)
	}
	if e := h.Shoal("explain", "nested"); !strings.Contains(e, "connect() leads it: the BPF programs at the control group "+h.Cgroup()) {
		t.Errorf("explain does not say whom connect() leads:\n%s", e)
	}
}

// TestPinsThatAreTheAgentsOwn: an agent whose BPF file system is its own, as in a container that lacks the host's, leads clients as long
// as it lives, and says so.
func TestPinsThatAreTheAgentsOwn(t *testing.T) {
	needsSocketBalancing(t)
	h := home(t)
	task := h.run("brief", "-l shoal.service=brief")
	client := h.client()
	vip := h.vip("brief")
	h.answered(h.web("brief"), "brief")
	h.KillAgent(syscall.SIGKILL)
	h.Exec("rm", "-r", "/sys/fs/bpf/shoal") // what is attached by links that are not pinned is detached
	const ends = "it ends with this agent: /sys/fs/bpf is not the host's"

	p := h.Start("unshare", "--mount", "sh", "-c", `mount -t bpf own /sys/fs/bpf && exec shoal agent "$@"`, "agent",
		"--node", h.Name(), "--state-dir", filepath.Join(h.Dir(), "state"), "--run-dir", filepath.Dir(h.AgentSocket()),
		"--docker-host", "unix://"+h.DockerSocket(), "--servers", "manual")
	h.ready()
	h.answered(h.web("brief"), "brief")
	if s := h.Shoal("status"); !strings.Contains(s, "in the control group "+h.Cgroup()) || !strings.Contains(s, ends) {
		t.Errorf("status does not say that connect() leads clients for as long as the agent lives:\n%s", s)
	}
	if led, _ := h.path(client.enter(true), client.enter(false), vip, task.addr()); led != 1 {
		t.Error("nobody is led")
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait(waitLimit) // by which signal it ended
	if _, through := h.path(client.enter(true), client.enter(false), vip, task.addr()); through != 1 {
		t.Error("clients are led without the agent")
	}

	h.StartAgent()
	h.ready()
	if s := h.Shoal("status"); !strings.Contains(s, "in the control group "+h.Cgroup()) || strings.Contains(s, ends) {
		t.Errorf("with the host's pins again, status says:\n%s", s)
	}
}
