//go:build hosts

package hosts

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/lab"
	"shoal/lab/vm"
	"shoal/lab/wait"
)

// An emulated host takes some ten times as long as a real one.
const (
	commandLimit = 6 * time.Minute  // for a command on a host
	startLimit   = 8 * time.Minute  // for agents to make a cluster, and for an engine's first containers
	waitLimit    = 2 * time.Minute  // after a disturbance, until all holds again
	leastTime    = 15 * time.Second // for something to hold, where all that time is over
)

// suite is a cluster of hosts of a suite, and the step that it is at.
type suite struct {
	t      *testing.T
	image  []byte // the containers', a tar
	wire   *vm.Wire
	hosts  []*host // a, and but for quick runs b
	vip    netip.Addr
	report *SuiteReport
	save   func() // writes what was found so far

	mu    sync.Mutex
	step  *StepReport
	until time.Time // by then all should hold
}

// host is a machine with an engine and an agent.
type host struct {
	*vm.Machine
	s *suite

	mu    sync.Mutex
	found map[string]container // by name, until something is disturbed or does not hold
}

// container is what checks need of a container that all steps use.
type container struct {
	pid  int
	addr netip.Addr
}

// fail records that something does not hold, and goes on.
func (s *suite) fail(format string, args ...any) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	s.step.Failures = append(s.step.Failures, text)
	s.t.Errorf("%s: %s", s.step.Name, text)
	say("%s: %s: FAILED: %s", s.report.Suite, s.step.Name, firstLine(text))
}

// during goes through a step.
func (s *suite) during(name, about string, f func()) {
	s.t.Helper()
	step := &StepReport{Name: name, About: about}
	s.step = step
	s.disturbed()
	s.report.Steps = append(s.report.Steps, step)
	say("%s: %s: %s", s.report.Suite, name, about)
	began := time.Now()
	ended := false
	defer func() {
		step.Took = time.Since(began)
		defer s.save()
		if !ended { // t.FailNow
			step.Failures = append(step.Failures, "the step could not be ended: see the log")
		}
		if n := len(step.Failures); n > 0 {
			say("%s: %s: %d FAILED, after %v", s.report.Suite, name, n, step.Took.Round(time.Second))
		}
	}()
	f()
	ended = true
}

// disturbed says that time for what should hold begins now.
func (s *suite) disturbed() {
	s.allow(waitLimit)
	s.lookAgain()
}

// lookAgain has the hosts look at their containers again before they are used: they may have been restarted.
func (s *suite) lookAgain() {
	for _, h := range s.hosts {
		h.mu.Lock()
		h.found = nil
		h.mu.Unlock()
	}
}

func (s *suite) allow(limit time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until = time.Now().Add(limit)
}

// window is the time that something has to hold.
func (s *suite) window() (context.Context, context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	until := time.Now().Add(leastTime)
	if s.until.After(until) {
		until = s.until
	}
	return context.WithDeadline(s.t.Context(), until)
}

// holds waits until check returns nil. Where that takes too long it is a failure, and the step goes on.
func (s *suite) holds(what string, check func() error) bool {
	s.t.Helper()
	ctx, cancel := s.window()
	defer cancel()
	began := time.Now()
	if err := wait.Until(ctx, s.looking(check)); err != nil {
		s.fail("%s: %v", what, err)
		return false
	}
	if took := time.Since(began); took > 10*time.Second {
		say("%s: after %v: %s", s.report.Suite, took.Round(time.Second), what)
	}
	return true
}

// quietly is holds for who tells by himself what does not hold.
func (s *suite) quietly(check func() error) {
	ctx, cancel := s.window()
	defer cancel()
	_ = wait.Until(ctx, s.looking(check))
}

// looking is check, with a new look at the containers after it failed.
func (s *suite) looking(check func() error) func() error {
	return func() error {
		err := check()
		if err != nil {
			s.lookAgain()
		}
		return err
	}
}

// each does something on all hosts at a time.
func (s *suite) each(f func(h *host)) {
	var all sync.WaitGroup
	for _, h := range s.hosts {
		all.Go(func() { f(h) })
	}
	all.Wait()
}

// run runs a script on the host.
func (h *host) run(format string, args ...any) (string, error) {
	ctx, cancel := context.WithTimeout(h.s.t.Context(), commandLimit)
	defer cancel()
	out, err := h.Run(ctx, fmt.Sprintf(format, args...))
	return strings.TrimSpace(out), err
}

// must runs a script that has to work: without it nothing else of the step makes sense.
func (h *host) must(format string, args ...any) string {
	h.s.t.Helper()
	out, err := h.run(format, args...)
	if err != nil {
		h.s.fail("%v", err)
	}
	return out
}

// exec runs a command in the namespaces of a container. By nsenter: docker exec takes seconds on an emulated host.
func (h *host) exec(container, format string, args ...any) (string, error) {
	c, err := h.container(container)
	if err != nil {
		return "", err
	}
	return h.run("PATH=/bin exec /usr/bin/nsenter -t %d -m -u -i -n -p -- %s", c.pid, fmt.Sprintf(format, args...))
}

// container finds a container.
func (h *host) container(name string) (container, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.found == nil {
		out, err := h.run("docker inspect -f '{{.Name}} {{.State.Pid}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' web-%[1]s quiet-%[1]s client-%[1]s other-%[1]s", h.Name())
		if err != nil {
			return container{}, err
		}
		found := map[string]container{}
		for line := range strings.Lines(out) {
			var name, addr string
			var c container
			if _, err := fmt.Sscan(line, &name, &c.pid, &addr); err != nil {
				return container{}, fmt.Errorf("docker inspect printed %q: %w", line, err)
			}
			if c.addr, err = netip.ParseAddr(addr); err != nil {
				return container{}, fmt.Errorf("container %s: %w", name, err)
			}
			if c.pid == 0 {
				return container{}, fmt.Errorf("container %s does not run", name)
			}
			found[strings.TrimSuffix(strings.TrimPrefix(name, "/"), "-"+h.Name())] = c
		}
		h.found = found
	}
	c, found := h.found[name]
	if !found {
		return c, fmt.Errorf("container %s-%s is not there", name, h.Name())
	}
	return c, nil
}

// neighbour runs a command as the neighbour.
func (s *suite) neighbour(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), commandLimit)
	defer cancel()
	return s.wire.Exec(ctx, args...)
}

// whoami is the program's path on this machine, where the neighbour lives.
func whoami() string {
	path, err := filepath.Abs(filepath.Join(*bin, "whoami"))
	if err != nil {
		panic(err)
	}
	return path
}

// start makes the cluster.
func (s *suite) start() {
	t, name := s.t, s.report.Suite
	image, err := vm.Suite(name).Image(t.Context(), *cache, *mirror, say)
	if err != nil {
		t.Fatal(err)
	}
	if s.wire, err = vm.NewWire(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.wire.Close() })
	names := []string{"a", "b"}[:*number]
	s.report.Hosts = len(names)
	s.during("start", "hosts booted, agents started, a cluster made", func() {
		gifts := s.gifts()
		for i, n := range names {
			m, err := vm.Start(vm.Config{Name: n, Number: 11 + i, Image: image, Wire: s.wire, Dir: filepath.Join(*logs, name+"-"+n), Give: gifts, CPUs: *cpus, Accel: *accel})
			if err != nil {
				t.Fatal(err)
			}
			h := &host{Machine: m, s: s}
			s.hosts = append(s.hosts, h)
			t.Cleanup(func() {
				h.tellOnFailure()
				if err := m.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		s.each(func(h *host) {
			if err := h.Await(t.Context()); err != nil {
				s.fail("%v", err)
				return
			}
			say("%s: %s has booted", name, h.Name())
			h.install()
		})
		s.stopIfFailed()
		say("%s: hosts are up, and shoal is installed", name)
		s.makeCluster()
		s.stopIfFailed()
		s.each((*host).prepare)
		s.stopIfFailed()
		s.describe()
		s.findVIP()
		s.stopIfFailed()
		s.routeNeighbour()
	})
}

// stopIfFailed ends the suite where what comes next has no sense.
func (s *suite) stopIfFailed() {
	s.t.Helper()
	s.mu.Lock()
	failed := len(s.step.Failures) > 0
	s.mu.Unlock()
	if failed {
		s.t.FailNow()
	}
}

// tellOnFailure logs what the host has to say, if the test has failed.
func (h *host) tellOnFailure() {
	if !h.s.t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := h.Run(ctx, "shoal status; shoal problems; shoal nodes; shoal tasks; docker ps -a; journalctl -u shoal -n 60 --no-pager -o cat; systemctl --failed --no-legend")
	h.s.t.Logf("what %s tells (error %v):\n%s\nthe end of its console:\n%s", h.Name(), err, out, h.Console())
	for file, command := range map[string]string{"journal.log": "journalctl -b --no-pager", "rules.log": "iptables-save; nft list ruleset"} {
		if out, err := h.Run(ctx, command); err == nil {
			_ = os.WriteFile(filepath.Join(*logs, h.s.report.Suite+"-"+h.Name(), file), []byte(out), 0o644)
		}
	}
}

// gifts makes a folder of what people put on a host.
func (s *suite) gifts() string {
	dir := s.t.TempDir()
	deb, err := filepath.Glob(filepath.Join(*bin, "packages", "*_amd64.deb"))
	if err != nil || len(deb) != 1 {
		s.t.Fatalf("%d packages for amd64 in %s: make packages makes one", len(deb), *bin)
	}
	if err := newer(deb[0], filepath.Join(dir, "newer.deb")); err != nil {
		s.t.Fatal(err)
	}
	for name, from := range map[string]string{"shoal.deb": deb[0], "whoami": whoami()} {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o644)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "image.tar"), s.image, 0o644); err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// newer makes a package of a higher version of another one.
func newer(deb, to string) error {
	dir, err := os.MkdirTemp("", "shoal-newer-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	out, err := exec.Command("sh", "-ec", `dpkg-deb -R "$1" "$2/root"; sed -i 's/^Version: .*/&.newer/' "$2/root/DEBIAN/control"
		dpkg-deb -Znone --root-owner-group -b "$2/root" "$3"`, "sh", deb, dir, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make a newer package: %w\n%s", err, out)
	}
	return nil
}

// install puts those in their places.
func (h *host) install() {
	changes := ""
	for _, line := range lab.ImageConfig {
		changes += fmt.Sprintf(" --change '%s'", line)
	}
	h.must("set -e; mount -o ro %s /mnt; cd /mnt; install whoami /usr/local/bin; dpkg -i shoal.deb; cp newer.deb /root; "+
		"docker import%s image.tar %s; cd /; umount /mnt", vm.Given, changes, lab.Image)
}

// makeCluster starts the agents, the second as docs/hosts.md has it.
func (s *suite) makeCluster() {
	a := s.hosts[0]
	s.allow(startLimit)
	passing := a.bridgesPass()
	a.must("systemctl enable --now shoal")
	if now := a.bridgesPass(); passing == "" && strings.Trim(now, "0\n") != "" {
		s.fail("with br_netfilter, every bridge of the host passes its packets to iptables, ip6tables or arptables: %q", now)
	}
	for _, h := range s.hosts[1:] {
		var command string
		s.holds("a gives a token", func() (err error) {
			command, err = a.run("shoal token create")
			return err
		})
		_, token, found := strings.Cut(command, "--token ")
		if !found {
			s.fail("shoal token create printed %q", command)
			return
		}
		h.must("mkdir -p /etc/shoal && printf 'join: %v\\ntoken-file: /etc/shoal/token\\n' >/etc/shoal/agent.yaml && "+
			"(umask 077; echo %s >/etc/shoal/token) && systemctl enable --now shoal", a.Addr(), strings.TrimSpace(token))
	}
	for _, h := range s.hosts {
		s.holds(h.Name()+" sees every host alive", h.seesAll)
	}
}

// bridgesPass tells whether what all bridges forward passes arptables, ip6tables and iptables, a line of 0 or 1 each. It is empty
// without br_netfilter.
func (h *host) bridgesPass() string {
	return h.must("cat /proc/sys/net/bridge/bridge-nf-call-* 2>/dev/null || true")
}

// seesAll says that the host's agent sees all hosts alive, with a subnet.
func (h *host) seesAll() error {
	out, err := h.run("shoal nodes")
	if err != nil {
		return err
	}
	alive := 0
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 3 && f[2] != "-" && f[3] == "alive" {
			alive++
		}
	}
	if alive != len(h.s.hosts) {
		return fmt.Errorf("%d of %d hosts are alive in\n%s", alive, len(h.s.hosts), out)
	}
	return nil
}

// prepare has the engine's containers ask shoal, and starts those that all steps use:
//
//	web     on the mesh, a task of the service web, which publishes port 8080
//	quiet   on the mesh, of no service: what it listens on is published nowhere
//	client  on the mesh, for what a container of the mesh sends
//	other   on a bridge of its own
func (h *host) prepare() {
	h.s.allow(startLimit)
	h.must("shoal docker-config >/etc/docker/daemon.json && systemctl restart docker")
	h.s.holds("the mesh's network is there", func() error {
		_, err := h.run("docker network inspect mesh")
		return err
	})
	h.must("docker network create other")
	h.start("web", "--network mesh -l shoal.service=web -l shoal.ports=8000,8002/udp -l shoal.publish=8080:8000")
	h.start("quiet", "--network mesh")
	h.start("client", "--network mesh")
	h.start("other", "--network other")
}

// start starts a container.
func (h *host) start(name, options string) {
	h.must("docker run -d --restart always --name %[1]s-%[2]s --hostname %[1]s-%[2]s %[3]s %[4]s whoami serve --http 8000,8001 --udp 8002",
		name, h.Name(), options, lab.Image)
}

// addr is a container's address.
func (h *host) addr(name string) (netip.Addr, error) {
	c, err := h.container(name)
	return c.addr, err
}

// describe finds what the report says about the hosts.
func (s *suite) describe() {
	a, r := s.hosts[0], s.report
	r.System = a.must(`. /etc/os-release; echo "$PRETTY_NAME"`)
	r.Kernel = a.must("uname -r")
	r.Engine = a.must("docker version --format '{{.Server.Version}}'")
	r.Firewall = a.must("iptables --version")
	var status struct {
		Plane string `json:"dataPlane"`
	}
	if err := json.Unmarshal([]byte(a.must("shoal status -o json || test $? = 1")), &status); err != nil {
		s.fail("shoal status: %v", err)
	}
	r.Plane = status.Plane
	say("%s: %s, kernel %s, engine %s, %s, data plane %s", r.Suite, r.System, r.Kernel, r.Engine, r.Firewall, r.Plane)
}

// findVIP finds the VIP of the service.
func (s *suite) findVIP() {
	s.holds("the service has a VIP", func() error {
		out, err := s.hosts[0].run("shoal services -o json")
		if err != nil {
			return err
		}
		var services []struct {
			ID  string
			VIP netip.Addr
		}
		if err := json.Unmarshal([]byte(out), &services); err != nil {
			return err
		}
		for _, service := range services {
			if service.ID == "default/web" && service.VIP.IsValid() {
				s.vip = service.VIP
				return nil
			}
		}
		return fmt.Errorf("no VIP of default/web in %s", out)
	})
}

// routeNeighbour has the neighbour send what is for the cluster's own addresses to host a, as one does who wants in.
func (s *suite) routeNeighbour() {
	for _, net := range []string{"10.244.0.0/16", "10.96.0.0/16", "169.254.83.0/31", "172.16.0.0/12"} {
		if _, err := s.neighbour("ip", "route", "replace", net, "via", s.hosts[0].Addr().String()); err != nil {
			s.fail("%v", err)
		}
	}
}

// goThrough goes through the steps: walk and table first, and after each disturbance.
func (s *suite) goThrough(wanted []disturbance) {
	s.during("walk", "as started", func() {
		s.walk()
		s.whoReachesWhat()
	})
	for _, d := range wanted {
		s.during(d.name, d.about, func() { d.run(s) })
	}
}
