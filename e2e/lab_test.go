//go:build e2e

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"shoal/lab"
	"shoal/lab/kernel"
	"shoal/lab/traffic"
)

// TestLabIsWhatItSaysItIs is about the lab alone: no shoal takes part. What fails here fails all the others.
func TestLabIsWhatItSaysItIs(t *testing.T) {
	begun := time.Now()
	lap := func(what string) {
		t.Logf("%-45s %6.2f s", what, time.Since(begun).Seconds())
		begun = time.Now()
	}
	l := lab.New(t) // not the shared one: it is closed here
	lap("wire and outside")
	hosts := l.Hosts("a", "b", "c")
	b, outside := hosts[1], l.Outside()
	lap("three hosts with engines and image")

	for _, h := range hosts {
		h.Docker(append([]string{"run", "-d", "--name", "task", "-p", "8080:8000", "whoami"}, everything(t)...)...)
	}
	lap("a container on each")

	t.Run("docker run and exec", func(t *testing.T) {
		a, b := l.With(t).Host("a"), l.With(t).Host("b")
		if got := a.Docker("exec", "task", "cat", "/etc/resolv.conf"); !strings.Contains(got, "192.168.77.1") {
			t.Errorf("the container's resolv.conf is %q, not that of its host", got)
		}
		if n := strings.Count(b.Docker("ps", "-q"), "\n"); n != 0 {
			t.Errorf("b has %d containers, want 1: engines share something", n+1)
		}
		task := a.Docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "task")
		if got := a.Docker("run", "--rm", "--add-host", "task:"+task, "whoami", "wget", "-qO-", "http://task:8000/"); !strings.Contains(got, "host=task:8000") {
			t.Errorf("wget from a container to a name says %q", got)
		}
		if rules := a.Exec("iptables", "-S", "FORWARD"); !strings.Contains(rules, "-P FORWARD DROP") {
			t.Errorf("the engine did not set the policy of FORWARD to DROP, as it does on a fresh machine:\n%s", rules)
		}
		if name := b.Exec("hostname"); name != "b" {
			t.Errorf("b calls itself %q", name)
		}
	})
	lap("docker run and exec")

	t.Run("hosts reach each other and outside reaches them", func(t *testing.T) {
		l := l.With(t)
		l.Host("a").Exec("busybox", "ping", "-c1", "-W2", b.Addr().String())
		for _, h := range hosts {
			got := l.Outside().Exec("whoami", "get", fmt.Sprintf("http://%v:8080/hello", h.Addr()))
			if !strings.Contains(got, "client="+outside.Addr().String()) || !strings.Contains(got, "path=/hello") {
				t.Errorf("%s's published port answers %q", h.Name(), got)
			}
		}
	})
	lap("hosts reach each other")

	t.Run("every protocol", func(t *testing.T) {
		h := l.With(t).Host("a")
		addr := h.Docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "task")
		id := h.Docker("inspect", "-f", "{{.Config.Hostname}}", "task")
		for _, target := range protocols(t) {
			got := h.Exec("whoami", "get", fmt.Sprintf(target, addr))
			if !strings.Contains(got, "hostname="+id) || !strings.Contains(got, "client=10.101.0.1:") {
				t.Errorf("%s answers %q", target, got)
			}
		}
		h.Docker("exec", "task", "whoami", "get", "http://127.0.0.1:8000/health")
		h.Docker("exec", "task", "touch", "/tmp/sick")
		if out, err := h.TryDocker("exec", "task", "whoami", "get", "http://127.0.0.1:8000/health"); err == nil {
			t.Errorf("a sick container says %q", out)
		}
	})
	lap("every protocol")

	t.Run("the kernel's balancer, per host", func(t *testing.T) {
		a, b := l.With(t).Host("a"), l.With(t).Host("b")
		task := netip.MustParseAddr(a.Docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "task"))
		want := lab.Frontend{Backends: []lab.Backend{{Addr: netip.AddrPortFrom(task, 8000), Weight: 1}}}
		if lab.Plane() == kernel.NFTables {
			balanceByMap(t, a, task)
		} else {
			balanceByIPVS(a, task)
			want.Scheduler = "rr"
		}
		get := a.Start("whoami", "get", "--timeout", "30s", "http://10.96.0.1/slow?d=2s")
		lab.Eventually(t, waitLimit, "the connection is seen", func() error {
			if n, err := a.Connections("tcp", task); err != nil || n != 1 {
				return fmt.Errorf("there are %d, %w", n, err)
			}
			return nil
		})
		if err := get.Wait(waitLimit); err != nil {
			t.Errorf("%v\n%s", err, get.Output())
		}
		if got, err := a.Frontends(); err != nil || !reflect.DeepEqual(got, []lab.Frontend{want}) {
			t.Errorf("what a balances is %+v, want %+v; %v", got, want, err)
		}
		if got, err := b.Frontends(); err != nil || len(got) > 0 {
			t.Errorf("b has a's %+v, %v", got, err)
		}
	})
	lap("the kernel's balancer")

	t.Run("cut off and reconnected", func(t *testing.T) {
		l := l.With(t)
		a := l.Host("a")
		load := l.Outside().Load("--timeout", "200ms", fmt.Sprintf("http://%v:8080/", a.Addr()))
		load.Await(1)
		a.CutOff()
		if _, err := l.Outside().TryExec("busybox", "ping", "-c1", "-W1", a.Addr().String()); err == nil {
			t.Error("a host that is cut off answers")
		}
		a.Reconnect()
		load.Await(5)
		if s := load.Stop(); s.OK == 0 || s.Failed == 0 || s.Errors["timeout"]+s.Errors["no route to host"] != s.Failed {
			t.Errorf("load over a cut: %+v; want some requests to fail for want of an answer", s)
		}
	})
	lap("cut off and reconnected")

	t.Run("a link is late, and loses nothing", func(t *testing.T) {
		l := l.With(t)
		a := l.Host("a")
		url := fmt.Sprintf("http://%v:8080/", a.Addr())
		stop := a.Delay(100 * time.Millisecond)
		if s := parsed(t, l.Outside().Exec("whoami", "load", "--count", "3", url)); s.Failed > 0 || s.P50 < 400*time.Millisecond { // to connect and to ask
			t.Errorf("by a link with a delay of 100 ms each way: %+v", s)
		}
		if s := parsed(t, l.Outside().Exec("whoami", "load", "--timeout", "30s", "--count", "1", url+"bytes?n=3000000")); s.Failed > 0 {
			t.Errorf("3 MB by a link with a delay: %v", s.Errors)
		}
		stop()
		if s := parsed(t, l.Outside().Exec("whoami", "load", "--count", "5", url)); s.Failed > 0 || s.P50 > 300*time.Millisecond {
			t.Errorf("by a link without a delay again: %+v", s)
		}
	})
	lap("a late link")

	t.Run("a link is narrow, and tells nobody", func(t *testing.T) {
		l := l.With(t)
		a := l.Host("a")
		url := fmt.Sprintf("http://%v:8080/", a.Addr())
		ping := func(octets int) error {
			_, err := l.Outside().TryExec("ping", "-c1", "-W1", "-M", "do", "-s", fmt.Sprint(octets-28), a.Addr().String())
			return err
		}
		stop := a.Narrow(1300)
		lab.Eventually(t, waitLimit, "1300 octets pass a link for as many", func() error { return ping(1300) }) // the bridge takes its port first
		if ping(1301) == nil {
			t.Error("1301 octets pass a link for 1300")
		}
		if s := parsed(t, l.Outside().Exec("whoami", "load", "--timeout", "5s", "--count", "1", url)); s.Failed > 0 {
			t.Errorf("a small answer by a narrow link: %v", s.Errors)
		}
		if s := parsed(t, l.Outside().Exec("whoami", "load", "--timeout", "2s", "--count", "1", url+"bytes?n=300000")); s.OK > 0 {
			t.Error("a large answer passes a narrow link, in segments of more octets than it carries")
		}
		stop()
		if s := parsed(t, l.Outside().Exec("whoami", "load", "--timeout", "30s", "--count", "1", url+"bytes?n=300000")); s.Failed > 0 || ping(1500) != nil {
			t.Errorf("by a link that is narrow no more: %v", s.Errors)
		}
	})
	lap("a narrow link")

	t.Run("two are cut apart", func(t *testing.T) {
		l := l.With(t)
		a, b, c := l.Host("a"), l.Host("b"), l.Host("c")
		ping := func(from *lab.Machine, to *lab.Host) error {
			_, err := from.TryExec("busybox", "ping", "-c1", "-W1", to.Addr().String())
			return err
		}
		join := l.CutApart(&a.Machine, &b.Machine)
		if ping(&a.Machine, b) == nil || ping(&b.Machine, a) == nil {
			t.Error("hosts that are cut apart reach each other")
		}
		for _, h := range []*lab.Host{a, b} {
			if err := errors.Join(ping(&h.Machine, c), ping(&c.Machine, h), ping(l.Outside(), h)); err != nil {
				t.Errorf("%s does not reach the others: %v", h.Name(), err)
			}
		}
		join()
		lab.Eventually(t, waitLimit, "they are joined again", func() error { return ping(&a.Machine, b) }) // a neighbour that did not answer is not asked at once
	})
	lap("two are cut apart")

	t.Run("the engine restarts", func(t *testing.T) {
		a := l.With(t).Host("a")
		a.StopDocker()
		if _, err := a.TryDocker("ps"); err == nil {
			t.Error("a stopped engine answers")
		}
		a.StartDocker()
		a.Docker("start", "task")
	})
	lap("the engine restarts")

	t.Run("nothing is left", func(t *testing.T) {
		pid := l.With(t).Host("a").Start("sleep", "1000").Pid()
		if len(l.ControlGroups()) == 0 {
			t.Error("containers have no control groups: this looks in the wrong place")
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		lab.Eventually(t, waitLimit, "its processes have ended", func() error {
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil && !strings.Contains(string(b), "Z (zombie)") {
				return fmt.Errorf("process %d lives", pid)
			}
			return nil
		})
		if _, err := os.Stat(l.Dir()); err == nil {
			t.Errorf("%s is still there", l.Dir())
		}
		if left := l.ControlGroups(); len(left) > 0 {
			t.Errorf("control groups are left: %v", left)
		}
	})
	lap("nothing is left")
}

func parsed(t *testing.T, output string) traffic.Summary {
	t.Helper()
	s, err := traffic.ParseSummary(output)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// balanceByIPVS balances 10.96.0.1:80 on a host to a task.
func balanceByIPVS(h *lab.Host, task netip.Addr) {
	h.Exec("ip", "addr", "add", "10.96.0.1/32", "dev", "lo")
	h.Exec("ipvsadm", "-A", "-t", "10.96.0.1:80", "-s", "rr")
	h.Exec("ipvsadm", "-a", "-t", "10.96.0.1:80", "-r", fmt.Sprintf("%v:8000", task), "-m")
	h.Exec("ipset", "create", "vips", "hash:ip", "skbinfo")
	h.Exec("ipset", "add", "vips", "10.96.0.1", "skbmark", "0x105")
	h.Exec("iptables", "-t", "mangle", "-A", "PREROUTING", "-m", "set", "--match-set", "vips", "dst", "-j", "SET", "--map-set", "vips", "dst", "--map-mark")
}

// balanceByMap does so by a table that is laid out as shoal's.
func balanceByMap(t *testing.T, h *lab.Host, task netip.Addr) {
	t.Helper()
	file := filepath.Join(h.Dir(), "balance.nft")
	if err := os.WriteFile(file, []byte(fmt.Sprintf(`table ip shoal {
	map services {
		type ipv4_addr . inet_proto . inet_service : mark
		counter
		elements = { 10.96.0.1 . tcp . 80 : 7 }
	}
	map balancers {
		type mark : verdict
		elements = { 7 : goto balance }
	}
	map slots {
		type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service
		elements = { 10.96.0.1 . tcp . 80 . 0 : %[1]v . 8000 }
	}
	map backends {
		type ipv4_addr . inet_proto . inet_service . ipv4_addr . inet_service : mark
		elements = { 10.96.0.1 . tcp . 80 . %[1]v . 8000 : 1 }
	}
	chain balance {
		ct mark set numgen inc mod 1
		dnat ip to ip daddr . ip protocol . th dport . ct mark map @slots
	}
	chain output {
		type nat hook output priority -100
		ct mark set ip daddr . ip protocol . th dport map @services
		ct mark vmap @balancers
	}
}
`, task)), 0o644); err != nil {
		t.Fatal(err)
	}
	h.Exec("nft", "-f", file)
}

// TestNothingIsLeftOfAKilledJob: what a job has outside its namespaces goes with it, even when nothing of the lab's own
// gets to run any more.
func TestNothingIsLeftOfAKilledJob(t *testing.T) {
	cmd := exec.Command(os.Getenv("LAB"), "run", "--plane", lab.Plane(), "--", "sh", "-c",
		`for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do mkdir -p $d/$LAB_NAME/engine/container; done; echo $LAB_NAME; exec sleep 1000`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	name, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	name = strings.TrimSpace(name)
	left := func() []string {
		all := kernel.ControlGroups(name)
		if dir := filepath.Join(os.TempDir(), name); exists(dir) {
			all = append(all, dir)
		}
		return all
	}
	if n := len(left()); n < 4 {
		t.Errorf("the job %s has %v: this looks in the wrong place", name, left())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	lab.Eventually(t, waitLimit, "all is gone", func() error {
		if all := left(); len(all) > 0 {
			return fmt.Errorf("left are %v", all)
		}
		return nil
	})
	_ = cmd.Wait() // "signal: killed"
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
