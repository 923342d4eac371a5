//go:build e2e

package dockerwatch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/lab"
	"shoal/lab/wait"
	"shoal/model"
)

// image is the lab's: it has busybox's programs.
const image = lab.Image

// engineSocket is where the engine of a host of the lab is found on that host.
const engineSocket = "/run/docker.sock"

// TestMain runs the tests on a host of the lab.
func TestMain(m *testing.M) {
	const onHost = "DOCKERWATCH_ON_HOST"
	if os.Getenv(onHost) != "" {
		os.Setenv("DOCKER_HOST", "unix://"+engineSocket)
		os.Exit(m.Run())
	}
	l, err := lab.Open()
	if err != nil {
		fmt.Fprintln(os.Stderr, "tests of a real engine:", err)
		os.Exit(1)
	}
	tests := l.Host("watched").Start(append([]string{"env", onHost + "=1"}, os.Args...)...)
	err = tests.Wait(10 * time.Minute)
	fmt.Print(tests.Output())
	if err = errors.Join(err, l.Close()); err != nil {
		fmt.Fprintln(os.Stderr, "tests of a real engine:", err)
		os.Exit(1)
	}
}

// host is a Watcher of the real engine, and what of it belongs to one test.
type host struct {
	t      *testing.T
	w      *Watcher
	prefix string // of the names of the test's containers and networks

	mu     sync.Mutex
	local  model.Local // those alone
	told   []string    // what was told of them, in order
	status []error
	change chan struct{}
	log    bytes.Buffer
}

func newHost(t *testing.T, socket string) *host {
	t.Helper()
	h := &host{t: t, prefix: fmt.Sprintf("dwt%d-%s-", os.Getpid(), strings.ToLower(t.Name()[4:12])), change: make(chan struct{}, 1)}
	w, err := New(Options{
		Host:     "unix://" + socket,
		Node:     "host",
		NodeAddr: func() netip.Addr { return netip.MustParseAddr("192.0.2.1") },
		Pool:     netip.MustParsePrefix("10.96.0.0/16"),
		Log:      slog.New(slog.NewTextHandler(h, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	h.w = w
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx, h.emit, func(err error) {
			h.mu.Lock()
			h.status = append(h.status, err)
			h.mu.Unlock()
			h.poke()
		})
	}()
	t.Cleanup(func() {
		if out, _ := exec.Command("docker", "ps", "-aq", "--filter", "name="+h.prefix).Output(); len(out) > 0 {
			exec.Command("docker", append([]string{"rm", "-f"}, strings.Fields(string(out))...)...).Run()
		}
		if out, _ := exec.Command("docker", "network", "ls", "-q", "--filter", "name="+h.prefix).Output(); len(out) > 0 {
			exec.Command("docker", append([]string{"network", "rm"}, strings.Fields(string(out))...)...).Run()
		}
		cancel()
		<-done
	})
	return h
}

func (h *host) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Write(b)
}

func (h *host) poke() {
	select {
	case h.change <- struct{}{}:
	default:
	}
}

func (h *host) emit(l model.Local) {
	l.Containers = slices.DeleteFunc(slices.Clone(l.Containers), func(c model.Container) bool {
		return !strings.HasPrefix(c.Name, h.prefix)
	})
	for i := range l.Containers {
		l.Containers[i].Name = strings.TrimPrefix(l.Containers[i].Name, h.prefix)
	}
	slices.SortFunc(l.Containers, func(a, b model.Container) int { return strings.Compare(a.Name, b.Name) })
	l.Networks = slices.DeleteFunc(slices.Clone(l.Networks), func(n model.Network) bool {
		return n.Name != "bridge" && !strings.HasPrefix(n.Name, h.prefix)
	})
	h.mu.Lock()
	h.local = l
	h.told = append(h.told, summary(l))
	h.mu.Unlock()
	h.poke()
}

// until waits for a condition over what has been told.
func (h *host) until(what string, cond func() bool) {
	h.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		h.mu.Lock()
		ok := cond()
		h.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-h.change:
		case <-deadline:
			h.mu.Lock()
			defer h.mu.Unlock()
			h.t.Fatalf("waited for %s\ntold: %q\nnow: %+v\nstatus: %v\nlog: %s", what, h.told, h.local, h.status, h.log.String())
		}
	}
}

// wants waits until the test's containers stand like this.
func (h *host) wants(summaryOf string) {
	h.t.Helper()
	h.until(fmt.Sprintf("%q", summaryOf), func() bool { return len(h.told) > 0 && summary(h.local) == summaryOf })
}

// docker runs a docker command and returns its output. A word that begins
// with @ is the name of one of the test's containers or networks.
func (h *host) docker(words string, more ...string) string {
	h.t.Helper()
	args := append(strings.Fields(words), more...)
	for i, a := range args {
		if name, ok := strings.CutPrefix(a, "@"); ok {
			args[i] = h.prefix + name
		}
		args[i] = strings.ReplaceAll(args[i], ":@", ":"+h.prefix)
		args[i] = strings.ReplaceAll(args[i], "=@", "="+h.prefix)
	}
	var stderr bytes.Buffer
	cmd := exec.Command("docker", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		h.t.Fatalf("docker %v: %v: %s", args, err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// run starts a container that sleeps.
func (h *host) run(name, options string) string {
	h.t.Helper()
	return h.docker("run -d --name @"+name+" "+options, image, "sleep", "1000")
}

func (h *host) addr(name, network string) string {
	h.t.Helper()
	return h.docker("inspect @"+name+" -f", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).IPAddress}}", network))
}

// container is one of those last told.
func (h *host) container(name string) model.Container {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.local.Containers, func(c model.Container) bool { return c.Name == name })
	if i < 0 {
		h.t.Fatalf("no container %s in %+v", name, h.local)
	}
	return h.local.Containers[i]
}

func TestEngineLifeOfATask(t *testing.T) {
	h := newHost(t, engineSocket)
	id := h.run("web", "-l shoal.service=web -l shoal.ports=http:80:8080 -l com.docker.compose.project=my_shop")
	h.wants("web:running")
	c := h.container("web")
	task := c.Tasks[0]
	if c.ID != id || c.Stack != "my-shop" || c.Node != "host" || len(c.Addrs) != 1 || c.Addrs[0].String() != h.addr("web", "bridge") ||
		task.Service.String() != "my-shop/web" || task.Addr != c.Addrs[0] || task.Container != id || task.Name != h.prefix+"web" ||
		c.Since.IsZero() || !task.Started.Equal(c.Since) || !task.Since.Equal(c.Since) || task.Spec.Ports[0].Target != 8080 {
		t.Errorf("%+v", c)
	}

	h.docker("pause @web")
	h.wants("web:paused")
	h.docker("unpause @web")
	h.wants("web:running")

	h.docker("rename @web @shop")
	h.wants("shop:running")
	h.docker("update --memory 100m --memory-swap 200m @shop")

	// Only signals that ask to end begin to drain; sleep, as process 1, ends of
	// none of them.
	h.docker("kill -s USR1 @shop")
	h.docker("pause @shop") // whatever USR1 did has been told before this
	h.wants("shop:paused")
	h.docker("unpause @shop")
	h.wants("shop:running")
	h.docker("kill -s TERM @shop")
	h.wants("shop:draining")
	if s := h.container("shop").Tasks[0]; !s.Since.After(task.Started) || time.Since(s.Since) > time.Minute {
		t.Errorf("draining since %v", s.Since)
	}
	h.docker("restart -t 0 @shop")
	h.wants("shop:running")
	if s := h.container("shop").Tasks[0]; !s.Started.After(task.Started) {
		t.Errorf("restarted, but started at %v as before", s.Started)
	}

	h.docker("stop -t 1 @shop")
	h.wants("")
	h.mu.Lock()
	if !slices.Contains(h.told, "shop:draining") || h.told[len(h.told)-2] != "shop:draining" {
		t.Errorf("did not drain before it stopped: %q", h.told)
	}
	h.mu.Unlock()
	h.docker("start @shop")
	h.wants("shop:running")
	h.docker("rm -f @shop")
	h.wants("")
}

func TestEngineHealthOfATask(t *testing.T) {
	h := newHost(t, engineSocket)
	const check = "--health-interval=200ms --health-retries=1 --health-timeout=5s -l shoal.service=web"
	h.docker("run -d --name @sick "+check, "--health-cmd", "test -f /well", image, "sleep", "1000")
	h.until("the first probe", func() bool { return slices.Contains(h.told, "sick:starting") })
	h.docker("run -d --name @sure -l shoal.health=none "+check, "--health-cmd", "test -f /well", image, "sleep", "1000")
	h.wants("sick:unhealthy sure:running")
	h.docker("exec @sick touch /well")
	h.wants("sick:running sure:running")
	h.docker("exec @sick rm /well")
	h.wants("sick:unhealthy sure:running")
}

func TestEngineKillsATaskThatTakesTooMuchMemory(t *testing.T) {
	h := newHost(t, engineSocket)
	h.docker("run -d --name @greedy -l shoal.service=web --memory 16m --memory-swap 16m", image,
		"sh", "-c", "until test -f /go; do sleep 0.1; done; tail -c 64m /dev/zero")
	h.wants("greedy:running")
	h.docker("exec @greedy touch /go")
	h.wants("")
	// The kernel told of the death; the engine learns it, and of what, a moment later.
	wait.For(t, 30*time.Second, "the engine says that it died of that", func() bool {
		return h.docker("inspect @greedy -f {{.State.OOMKilled}}") == "true"
	})
}

func TestEngineNetworks(t *testing.T) {
	h := newHost(t, engineSocket)
	id := h.docker("network create @front")
	h.until("the network", func() bool { return len(h.local.Networks) == 2 })
	h.mu.Lock()
	for _, n := range h.local.Networks {
		want := "docker0"
		if n.Name != "bridge" {
			want = "br-" + id[:12]
		}
		if n.Bridge != want || len(n.Subnets) == 0 {
			t.Errorf("%+v: want the interface %s", n, want)
		}
		if _, err := net.InterfaceByName(n.Bridge); err != nil {
			t.Errorf("%+v: %v", n, err)
		}
	}
	h.mu.Unlock()

	h.run("web", "-l shoal.service=web")
	h.run("back", "--network @front -l shoal.service=back -l shoal.network=@front")
	h.run("short", "--network @front -l shoal.service=short -l shoal.network=front -l com.docker.compose.project="+strings.TrimSuffix(h.prefix, "-"))
	h.wants("back:running short:problem web:running") // prefix-front, not prefix_front
	h.docker("network connect @front @web")
	h.wants("back:running short:problem web:problem")
	if c := h.container("web"); !strings.Contains(c.Problem, "several networks (bridge, "+h.prefix+"front)") || len(c.Addrs) != 2 {
		t.Errorf("%+v", c)
	}
	h.docker("network disconnect bridge @web")
	h.wants("back:running short:problem web:running")
	if got, want := h.container("web").Tasks[0].Addr.String(), h.addr("web", h.prefix+"front"); got != want {
		t.Errorf("at %s, want %s", got, want)
	}
	h.docker("network disconnect @front @web")
	h.wants("back:running short:problem web:problem")
	h.docker("rm -f @web @back @short")
	h.docker("network rm @front")
	h.until("the network to go", func() bool { return len(h.local.Networks) == 1 })
}

func TestEngineNetworkOfAnother(t *testing.T) {
	h := newHost(t, engineSocket)
	h.run("owner", "")
	h.run("joiner", "--network container:@owner -l shoal.service=web")
	h.run("hosted", "--network host -l shoal.service=node")
	h.run("lonely", "--network none -l shoal.service=web")
	h.wants("hosted:running joiner:running lonely:problem owner")
	if got, want := h.container("joiner").Tasks[0].Addr.String(), h.addr("owner", "bridge"); got != want {
		t.Errorf("joiner at %s, want %s", got, want)
	}
	if got := h.container("hosted").Tasks[0].Addr.String(); got != "192.0.2.1" {
		t.Errorf("hosted at %s", got)
	}
	// The claim that a restart of the owner leaves the joiner without network.
	h.docker("restart -t 0 @owner")
	h.wants("hosted:running joiner:problem lonely:problem owner")
	if out := h.docker("exec @joiner ip -o -4 addr show"); strings.Contains(out, "eth0") {
		t.Errorf("the joiner still has a network: %s", out)
	}
	h.docker("restart -t 0 @joiner")
	h.wants("hosted:running joiner:running lonely:problem owner")
	// Without a network of its own, its death is all there is to hear of it.
	h.docker("kill @joiner")
	h.wants("hosted:running lonely:problem owner")
	h.docker("start @joiner")
	h.wants("hosted:running joiner:running lonely:problem owner")
	h.docker("kill @owner")
	h.wants("hosted:running joiner:problem lonely:problem")
}

// TestEngineLabelsOfAnImage is about images that bring labels of their own.
func TestEngineLabelsOfAnImage(t *testing.T) {
	h := newHost(t, engineSocket)
	labelled := h.prefix + "image"
	h.run("plain", "")
	h.docker("commit --change", "LABEL shoal.service=web shoal.publish=22", "@plain", labelled)
	t.Cleanup(func() { exec.Command("docker", "rmi", "-f", labelled).Run() })
	h.docker("run -d --name @alone " + labelled + " sleep 1000")
	h.docker("run -d --name @asked -l shoal.weight=1 " + labelled + " sleep 1000")
	h.docker("run -d --name @said -l shoal.services.web.weight=1 " + labelled + " sleep 1000")
	h.run("own", "-l shoal.service=web")
	h.wants("alone asked:problem own:running plain said:running")
	for _, name := range []string{"alone", "asked", "said"} {
		if n := h.container(name).Notices; len(n) != 1 || n[0].Code != model.LabelsOfImage {
			t.Errorf("the notices of %s are %v", name, n)
		}
	}
	if tasks := h.container("said").Tasks; len(tasks[0].Spec.Publish) > 0 {
		t.Errorf("the image publishes %v", tasks[0].Spec.Publish)
	}
}

func TestEngineManyAtOnce(t *testing.T) {
	h := newHost(t, engineSocket)
	var group sync.WaitGroup
	var want []string
	for i := range 10 {
		name := fmt.Sprintf("c%d", i)
		want = append(want, name+":running")
		group.Go(func() {
			args := []string{"run", "-d", "--name", h.prefix + name, "-l", "shoal.service=web", image, "sleep", "1000"}
			if out, err := exec.Command("docker", args...).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	group.Wait()
	h.wants(strings.Join(want, " "))
}

// TestEngineIsFollowedAtOnce measures, and fails only where an event was not
// followed but found by a later list.
func TestEngineIsFollowedAtOnce(t *testing.T) {
	h := newHost(t, engineSocket)
	h.until("the first list", func() bool { return len(h.told) > 0 })
	var join, leave []time.Duration
	for range 5 {
		h.run("web", "-l shoal.service=web")
		returned := time.Now()
		h.wants("web:running")
		join = append(join, time.Since(returned))
		h.docker("kill @web")
		returned = time.Now()
		h.wants("")
		leave = append(leave, time.Since(returned))
		h.docker("rm @web")
	}
	slices.Sort(join)
	slices.Sort(leave)
	t.Logf("told after docker run has returned: median %v, most %v; after docker kill: median %v, most %v", join[2], join[4], leave[2], leave[4])
	if join[4] > 2*time.Second || leave[4] > 2*time.Second {
		t.Error("that is too long")
	}
}

// proxy is a socket in front of the engine's, which can be cut.
type proxy struct {
	t        *testing.T
	path     string
	mu       sync.Mutex
	listener net.Listener
	conns    []net.Conn
}

func (p *proxy) open() {
	p.t.Helper()
	l, err := net.Listen("unix", p.path)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	p.listener = l
	p.mu.Unlock()
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", engineSocket)
			if err != nil {
				in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			pipe := func(to, from net.Conn) { io.Copy(to, from); to.Close(); from.Close() }
			go pipe(in, out)
			go pipe(out, in)
		}
	}()
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		p.listener.Close() // takes the socket's file away
	}
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

func TestEngineAwayAndBack(t *testing.T) {
	p := &proxy{t: t, path: filepath.Join(t.TempDir(), "docker.sock")}
	h := newHost(t, p.path)
	t.Cleanup(p.cut)
	h.until("failures", func() bool { return len(h.status) >= 3 })
	h.mu.Lock()
	if len(h.told) != 0 || errors.Join(h.status...) == nil {
		t.Errorf("told %q, status %v, without an engine", h.told, h.status)
	}
	h.mu.Unlock()

	h.run("stays", "-l shoal.service=web")
	h.run("leaves", "-l shoal.service=web")
	p.open()
	h.wants("leaves:running stays:running")

	p.cut()
	h.until("the loss", func() bool { return h.status[len(h.status)-1] != nil })
	h.docker("rm -f @leaves")
	h.run("comes", "-l shoal.service=web")
	h.docker("kill -s TERM @stays") // ignored by its process
	h.wants("stays:running")        // of a death the kernel tells, of all else the engine
	h.mu.Lock()
	before := len(h.told)
	h.mu.Unlock()
	p.open()
	h.wants("comes:running stays:draining")
	h.mu.Lock()
	if after := h.told[before:]; after[0] != "comes:running stays:draining" {
		t.Errorf("when the engine was back: %q", after)
	}
	h.mu.Unlock()
}
