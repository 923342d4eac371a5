//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/lab"
)

// project is a stack of this repository on a host.
type project struct {
	h     *host
	name  string
	files []string
}

// compose runs docker compose for the project.
func (p project) compose(args ...string) string {
	p.h.t.Helper()
	command := []string{"docker-compose"} // of old; newer ones are a plug-in of docker
	if _, err := exec.LookPath(command[0]); err != nil {
		command = []string{"docker", "compose"}
	}
	for _, f := range p.files {
		command = append(command, "--file", f)
	}
	return p.h.Exec(append(append(command, "--project-name", p.name), args...)...)
}

// up starts services of a stack, and takes the stack away when the test ends.
func (h *host) up(stack, name string, services ...string) project {
	h.t.Helper()
	file, err := filepath.Abs(filepath.Join("..", "compose", stack, "compose.yaml"))
	if err != nil {
		h.t.Fatal(err)
	}
	p := project{h, name, []string{file}}
	p.start(services...)
	return p
}

func (p project) start(args ...string) {
	p.h.t.Helper()
	p.h.t.Cleanup(func() { p.compose("down", "--timeout", "1") })
	p.compose(append([]string{"up", "-d"}, args...)...)
}

// names are the host names of a project's containers.
func (h *host) names(project string) []string {
	h.t.Helper()
	ids := strings.Fields(h.Docker("ps", "-q", "--filter", "label=com.docker.compose.project="+project))
	return ids // whose beginning is the host name: see docker run --hostname
}

func TestHostsAStackIsScaledOverHosts(t *testing.T) {
	m := cluster(t, "host-gw")
	a, b, c := m.hosts[0], m.hosts[1], m.hosts[2]
	who := a.up("whoami", "who", "--scale", "whoami=2")
	b.up("whoami", "who")
	by := append(a.names("who"), b.names("who")...)
	if len(by) != 3 {
		t.Fatalf("the stack has the containers %v, want 3", by)
	}
	vip := a.service("who/whoami").VIP
	for _, h := range m.hosts {
		h.answered("http://"+vip+":8000/", by...)
		h.answered("http://127.0.0.1:8000/", by...)
	}
	who.compose("up", "-d", "--scale", "whoami=1")
	c.answered("http://"+vip+":8000/", append(a.names("who"), b.names("who")...)...)
}

func TestHostsThreeTiersFindEachOtherByName(t *testing.T) {
	m := cluster(t, "host-gw")
	var tiers []string
	for i, tier := range []string{"web", "api", "store"} {
		m.hosts[i].up("shop", "shop", tier)
		tiers = append(tiers, m.hosts[i].names("shop")...)
	}
	for _, h := range m.hosts {
		url := fmt.Sprintf("http://%v:8080/chain", h.Addr())
		lab.Eventually(t, waitLimit, url+" is answered by every tier", func() error {
			out, err := m.outside.TryExec("whoami", "get", url)
			if err != nil {
				return err
			}
			for _, name := range tiers {
				if !strings.Contains(out, "hostname="+name) {
					return fmt.Errorf("%s is not in\n%s", name, out)
				}
			}
			return nil
		})
	}
}

func TestHostsEachProjectFindsItsOwn(t *testing.T) {
	m := cluster(t, "host-gw")
	port := map[string]string{"blue": "8081", "green": "8082"}
	for _, project := range slices.Sorted(maps.Keys(port)) {
		t.Setenv("WEB_PORT", port[project])
		m.hosts[0].up("shop", project, "web")
		m.hosts[1].up("shop", project, "web")
	}
	for project := range port {
		own := append(m.hosts[0].names(project), m.hosts[1].names(project)...)
		for _, h := range m.hosts[:2] {
			c := container{h, h.names(project)[0]}
			lab.Eventually(t, waitLimit, "web is the web of "+project, func() error {
				s := c.load("--timeout", "2s", "--count", "4", "http://web/")
				if who := slices.Sorted(maps.Keys(s.Hostnames)); s.Failed > 0 || !slices.Equal(who, slices.Sorted(slices.Values(own))) {
					return fmt.Errorf("answered by %v, want %v; %d failed %v", who, own, s.Failed, s.Errors)
				}
				return nil
			})
			if out := c.exec("whoami", "get", "http://web.blue.mesh.internal/"); !slices.Contains(append(m.hosts[0].names("blue"), m.hosts[1].names("blue")...), field(out, "hostname")) {
				t.Errorf("web.blue is answered by\n%s", out)
			}
		}
	}
}

func TestHostsTheAgentRunsAsAContainer(t *testing.T) {
	lab.Needs(t, "privileged")
	h := &host{shared.With(t).Host("box"), t}
	state := filepath.Join(h.Dir(), "var")
	t.Setenv("SHOAL_NODE", "box")
	t.Setenv("SHOAL_STATE_DIR", state)
	// This kernel may have no nf_tables, and the lab its own folder of links to the other iptables. The engine's daemon.json
	// may name shoal's DNS server to every container, to this one as well.
	iptables, err := exec.LookPath("iptables")
	if err != nil {
		t.Fatal(err)
	}
	balancing := "auto"
	if !lab.SocketBalancing() {
		balancing = "off"
	}
	override := filepath.Join(h.Dir(), "override.yaml")
	if err := os.WriteFile(override, []byte(fmt.Sprintf(`
services:
  agent:
    dns: [%[3]s]
    environment:
      PATH: %[1]s:/usr/sbin:/usr/bin:/sbin:/bin:/shoal
      SHOAL_DATA_PLANE: %[4]s
      SHOAL_STATE_DIR: %[2]s
      SHOAL_RUN_DIR: %[6]s
      SHOAL_SOCKET_CGROUP: %[5]s
      SHOAL_SOCKET_BALANCING: "%[7]s"
    volumes: ["%[1]s:%[1]s:ro", "%[2]s:%[2]s", "%[6]s:%[6]s"]
`, filepath.Dir(iptables), state, dnsServer, lab.Plane(), h.Cgroup(), filepath.Dir(h.AgentSocket()), balancing)), 0o644); err != nil {
		t.Fatal(err)
	}
	file, err := filepath.Abs("../compose/agent/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	startResolver(t, shared.With(t).Outside(), map[string]string{"www.example.net.": "203.0.113.5"})
	agent := project{h, "shoal", []string{file, override}}
	agent.start()
	asked := func() error {
		out, err := h.TryDocker("exec", "shoal_agent_1", "/shoal/shoal", "status")
		if code(err) == 1 && strings.Contains(out, "connected") { // it answers, and has something to say
			return nil
		}
		if err == nil && !strings.Contains(out, "connected") {
			err = errors.New(out)
		}
		return err
	}
	lab.Eventually(t, waitLimit, "the agent in the container answers", asked)
	h.Exec("mkdir", "/sys/fs/bpf/pinned")
	for _, path := range []string{"/sys/fs/bpf/pinned", h.Cgroup()} {
		if out, err := h.TryDocker("exec", "shoal_agent_1", "ls", path); err != nil {
			t.Errorf("the host's %s is not seen by the agent in the container: %v: %s", path, err, out)
		}
	}
	h.hasMesh()
	web := h.run("web-1", "--network mesh -l shoal.service=web -l shoal.publish=8000:8000")
	h.answered("http://127.0.0.1:8000/", "web-1")
	client := h.client()
	carried := func(when string, leads bool, says string) {
		t.Helper()
		if out, _ := h.TryDocker("exec", "shoal_agent_1", "/shoal/shoal", "status"); !strings.Contains(out, says) {
			t.Errorf("%s, status says nothing of %q:\n%s", when, says, out)
		}
		ledBefore, throughBefore := h.madeTo("web")
		led, through := h.path(client.enter(true), client.enter(false), h.vip("web"), web.addr())
		if (led == 1) != leads {
			t.Errorf("%s, a client in a container has %d connections to the task and %d to the VIP", when, led, through)
		}
		lab.Eventually(t, waitLimit, when+", it is counted as what it is", func() error {
			ledNow, throughNow := h.madeTo("web")
			if int(ledNow-ledBefore) != led || int(throughNow-throughBefore) != through {
				return fmt.Errorf("%v more were led in connect(), and %v more were the data plane's", ledNow-ledBefore, throughNow-throughBefore)
			}
			return nil
		})
	}
	says := "in the control group " + h.Cgroup()
	if !lab.SocketBalancing() {
		says = "--socket-balancing says so"
	}
	carried("begun", lab.SocketBalancing(), says)
	if got := h.Exec("dig", "+short", "@"+dnsServer, "www.example.net"); strings.TrimSpace(got) != "203.0.113.5" {
		t.Errorf("www.example.net is %q: the host's resolver was not asked", got)
	}
	h.Docker("restart", "shoal_agent_1")
	h.answered("http://127.0.0.1:8000/", "web-1")
	lab.Eventually(t, waitLimit, "the agent in the container is back", asked)
	carried("begun again", lab.SocketBalancing(), says)
	if !lab.SocketBalancing() {
		return
	}

	// A container that sees no control groups cannot lead anybody. It says so, and the data plane carries all.
	blind, none := filepath.Join(h.Dir(), "blind.yaml"), filepath.Join(h.Dir(), "none")
	if err := errors.Join(os.Mkdir(none, 0o755), os.WriteFile(blind, fmt.Appendf(nil, `
services:
  agent:
    environment: {SHOAL_SOCKET_CGROUP: ""}
    volumes: ["%s:/sys/fs/cgroup"]
`, none), 0o644)); err != nil {
		t.Fatal(err)
	}
	project{h, "shoal", append(agent.files, blind)}.compose("up", "-d")
	lab.Eventually(t, waitLimit, "the agent in a container without control groups answers", asked)
	h.answered("http://"+h.vip("web")+":8000/", "web-1")
	carried("without control groups", false, "leads nobody to a task: no version 2 hierarchy of control groups is mounted")
}

// TestHostsComposeReplacesWithoutLoss: plain docker compose scales a service and replaces its containers, and a plain docker stop takes
// one away, under load, and no request fails: the process accepts connections for a second after the signal, as
// docs/operations.md asks of it.
func TestHostsComposeReplacesWithoutLoss(t *testing.T) {
	m := cluster(t, "host-gw")
	a, b, c := m.hosts[0], m.hosts[1], m.hosts[2]
	lingering := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(lingering, []byte("services:\n  whoami:\n    command: [whoami, serve, --linger, 4s]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stack, err := filepath.Abs(filepath.Join("..", "compose", "whoami", "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	onA, onB := project{a, "who", []string{stack, lingering}}, project{b, "who", []string{stack, lingering}}
	onA.start("--scale", "whoami=2")
	onB.start("--scale", "whoami=2")
	vip := a.service("who/whoami").VIP
	all := func() []string { return append(a.names("who"), b.names("who")...) }
	for _, h := range m.hosts {
		h.answered("http://"+vip+":8000/", all()...)
	}
	loads := map[string]*lab.Load{
		"a host with tasks, by VIP":    a.Load("--each", "--timeout", "5s", "http://"+vip+":8000/"),
		"a host without, by VIP":       c.Load("--each", "--timeout", "5s", "http://"+vip+":8000/"),
		"outside, by a published port": m.outside.Load("--timeout", "5s", fmt.Sprintf("http://%v:8000/", c.Addr())),
	}

	onA.compose("up", "-d", "--scale", "whoami=3")
	c.answered("http://"+vip+":8000/", all()...)
	old := a.names("who")
	onA.compose("up", "-d", "--scale", "whoami=3", "--force-recreate")
	for _, h := range m.hosts {
		h.answered("http://"+vip+":8000/", all()...)
	}
	for _, name := range a.names("who") {
		if slices.Contains(old, name) {
			t.Errorf("%s was not replaced", name)
		}
	}
	stopped := b.names("who")[0]
	begun := time.Now()
	b.Docker("stop", stopped)
	c.answered("http://"+vip+":8000/", all()...)

	for from, l := range loads {
		l.Await(20)
		requests := l.Requests()
		if s := l.Stop(); s.Failed > 0 || s.Sent < 100 {
			t.Errorf("%s: %d of %d requests failed: %v", from, s.Failed, s.Sent, s.Errors)
		}
		var last time.Duration
		for _, r := range requests {
			if r.Hostname == stopped {
				last = max(last, time.Unix(0, r.Begun).Sub(begun))
			}
		}
		if len(requests) > 0 {
			t.Logf("%s: the last request that went to a container began %d ms after its docker stop", from, last.Milliseconds())
		}
		if last > 2*time.Second {
			t.Errorf("%s: a container that was stopped had requests for %v", from, last)
		}
	}
}
