package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"shoal/lab/clock"
	"shoal/lab/wait"
)

// Host is a machine with a Docker engine, and an agent where one is started.
type Host struct{ Machine }

// startLimit is how long an engine or an agent may take to answer. Engines start in about 2 s, and where others use the
// processors fully, in twenty times that.
const startLimit = 3 * time.Minute

func (m *machine) runDir() string       { return filepath.Join(m.dir, "run") }
func (m *machine) busSocket() string    { return filepath.Join(m.dir, "bus") }
func (m *machine) dockerSocket() string { return filepath.Join(m.dir, "docker.sock") }

// DockerSocket is the path of the engine's socket, for the test as for the host. On the host it is /run/docker.sock too.
func (h *Host) DockerSocket() string { return h.dockerSocket() }

// AgentSocket is the path of the agent's socket.
func (h *Host) AgentSocket() string { return filepath.Join(h.runDir(), "shoal.sock") }

// Docker runs the docker command with args against the host's engine, and returns its standard output.
func (h *Host) Docker(args ...string) string {
	h.t.Helper()
	return h.Exec(append([]string{"docker"}, args...)...)
}

// TryDocker is Docker that returns an error, with the command's output, where Docker fails the test.
func (h *Host) TryDocker(args ...string) (string, error) {
	return h.TryExec(append([]string{"docker"}, args...)...)
}

// Shoal runs the shoal command with args, which finds the host's agent, and returns its standard output.
func (h *Host) Shoal(args ...string) string {
	h.t.Helper()
	return h.Exec(append([]string{"shoal"}, args...)...)
}

// TryShoal is Shoal that returns an error, with the command's output, where Shoal fails the test.
func (h *Host) TryShoal(args ...string) (string, error) {
	return h.TryExec(append([]string{"shoal"}, args...)...)
}

// StartDocker starts the host's engine and waits until it answers. A new host's runs already.
func (h *Host) StartDocker() {
	h.t.Helper()
	if err := h.tryStartDocker(); err != nil {
		h.t.Fatalf("%v", err)
	}
}

func (h *Host) tryStartDocker() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.engine.running() {
		return fmt.Errorf("%s: its engine runs already", h.name)
	}
	fresh := h.engine == nil
	config := filepath.Join(h.dir, "daemon.json")
	if fresh {
		// The machine's own settings are none of the lab's.
		if err := os.WriteFile(config, []byte("{}\n"), 0o644); err != nil {
			return err
		}
	}
	var err error
	h.engine, err = h.background(filepath.Join(h.dir, "dockerd.log"), "dockerd",
		"--config-file", config,
		"--data-root", filepath.Join(h.dir, "docker"),
		"--exec-root", filepath.Join(h.dir, "docker-run"),
		"--pidfile", filepath.Join(h.dir, "docker.pid"),
		"--host", "unix://"+h.dockerSocket(),
		"--host", "unix:///run/docker.sock",
		"--bip", fmt.Sprintf("10.%d.0.1/24", 100+h.number),
		"--default-address-pool", fmt.Sprintf("base=10.%d.0.0/16,size=24", 100+h.number),
		"--storage-driver", "overlay2",
		"--exec-opt", "native.cgroupdriver=cgroupfs",
		"--cgroup-parent", "/"+h.controlGroup(),
		"--shutdown-timeout", "5",
		"--log-level", "warn",
	)
	if err != nil {
		return fmt.Errorf("%s: start its engine: %w", h.name, err)
	}
	err = h.ready(h.engine, func() error {
		return answers(client(h.dockerSocket()), "http://docker/_ping")
	})
	if err != nil {
		return fmt.Errorf("%s: its engine does not answer: %w\n%s", h.name, err, end(h.engine.Output()))
	}
	if fresh {
		return h.importImage()
	}
	return nil
}

// ready waits until check finds what p offers. That p has ended ends the wait.
func (m *machine) ready(p *Process, check func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	go func() {
		select {
		case <-p.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	return wait.Until(ctx, check)
}

// client is a client of an API on a unix socket.
func client(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
}

// answers says that a server answers, whatever it says: one that only accepts connections may still be about to fail.
func answers(c *http.Client, url string) error {
	c.Timeout = 2 * time.Second
	resp, err := c.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusServiceUnavailable { // an agent that starts
		b, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s", resp.Status, b)
	}
	return nil
}

// StopDocker stops the host's engine, and with it the containers.
func (h *Host) StopDocker() {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.engine.running() {
		h.t.Fatalf("%s: its engine does not run", h.name)
	}
	if err := h.engine.Signal(syscall.SIGTERM); err != nil {
		h.t.Fatalf("%s: stop its engine: %v", h.name, err)
	}
	if err := h.engine.Wait(time.Minute); err != nil {
		h.t.Fatalf("%s: stop its engine: %v", h.name, err)
	}
}

// StartAgent starts `shoal agent` on the host with args after those that name the host, its folders and its
// engine, and waits until its socket answers.
func (h *Host) StartAgent(args ...string) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.agent.running() {
		h.t.Fatalf("%s: its agent runs already", h.name)
	}
	h.args = slices.Clone(args)
	program := []string{cmp.Or(h.program, "shoal")}
	if h.clock != nil {
		program = []string{"env", h.clock.Env(), clock.Program}
	}
	var err error
	h.agent, err = h.background(filepath.Join(h.dir, "agent.log"), append(append(program, "agent",
		"--node", h.name,
		"--state-dir", filepath.Join(h.dir, "state"),
		"--run-dir", h.runDir(),
		"--docker-host", "unix://"+h.dockerSocket(),
		"--servers", "manual", // one host's store is what most tests are about
	), args...)...)
	if err != nil {
		h.t.Fatalf("%s: start its agent: %v", h.name, err)
	}
	err = h.ready(h.agent, func() error {
		return answers(client(h.AgentSocket()), "http://shoal/")
	})
	if err != nil {
		h.t.Fatalf("%s: its agent does not answer: %v\n%s", h.name, err, end(h.agent.Output()))
	}
}

// Program has the host's agents be of another program than shoal, by its name, from their next start on; "": shoal.
func (h *Host) Program(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.program = name
}

// Skew has the host's agent, and its store, see a time of day that is wrong by so much, in whole seconds. Before an agent's first
// start it has to be called once, with 0: only then the program is one that can be skewed (see [shoal/lab/clock]).
func (h *Host) Skew(by time.Duration) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	var err error
	if h.clock == nil {
		var c clock.Clock
		if c, err = clock.New(h.dir); err == nil {
			h.clock = &c
		}
	}
	if err == nil {
		err = h.clock.Skew(by)
	}
	if err != nil {
		h.t.Fatalf("%s: %v", h.name, err)
	}
}

// KillAgent sends the agent a signal and waits until it has ended.
func (h *Host) KillAgent(sig syscall.Signal) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.agent.running() {
		h.t.Fatalf("%s: its agent does not run", h.name)
	}
	if err := h.agent.Signal(sig); err != nil {
		h.t.Fatalf("%s: signal its agent: %v", h.name, err)
	}
	var exit interface{ ExitCode() int }
	if err := h.agent.Wait(time.Minute); err != nil && !errors.As(err, &exit) {
		h.t.Fatalf("%s: its agent: %v", h.name, err)
	}
}

// RestartAgent kills the agent, as a crash would, and starts it again with the same arguments.
func (h *Host) RestartAgent() {
	h.t.Helper()
	h.KillAgent(syscall.SIGKILL)
	h.StartAgent(h.args...)
}

// Agent is the agent's process, nil where none was started. Its Output is its log since its last start.
func (h *Host) Agent() *Process {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.agent
}

// Engine is the engine's process.
func (h *Host) Engine() *Process {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.engine
}

// logsOnFailure has the ends of the host's logs told if the test fails, and how its agent and its engine ended if they have.
func (h *Host) logsOnFailure() {
	t, m := h.t, h.machine
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for name, p := range map[string]*Process{"agent": h.Agent(), "engine": h.Engine()} {
			if p != nil && !p.running() {
				t.Logf("%s's %s has ended: %v", m.name, name, p.err)
			}
		}
		for _, name := range []string{"agent.log", "dockerd.log"} {
			if b, err := os.ReadFile(filepath.Join(m.dir, name)); err == nil {
				t.Logf("the end of %s's %s:\n%s", m.name, name, end(string(b)))
			}
		}
	})
}

// end is the last 4 KiB of text.
func end(text string) string { return text[max(0, len(text)-4<<10):] }
