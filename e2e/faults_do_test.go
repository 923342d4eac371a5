//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"shoal/e2e/faults"
	"shoal/lab"
)

// do breaks what a step says, and returns what puts it right.
func (s *suite) do(step faults.Step) (undo func()) {
	s.t.Helper()
	h := s.host(step.Host)
	task := container{h, step.Service + "-" + step.Host}
	switch step.Kind {
	case faults.TaskKilled:
		h.Docker("kill", "--signal", "KILL", task.name)
		return func() { h.Docker("start", task.name); task.healthy() }
	case faults.TaskFrozen:
		h.pause(task.name)
		return func() { h.Docker("unpause", task.name); task.healthy() } // the engine has it prove that anew
	case faults.HostCut:
		h.CutOff()
		return h.Reconnect
	case faults.HostsApart:
		return shared.With(s.t).CutApart(&h.Machine, &s.host(step.Other).Machine)
	case faults.LinkDelayed:
		return h.Delay(faults.Delay)
	case faults.AgentKilled:
		h.KillAgent(syscall.SIGKILL)
		return func() { h.StartAgent(s.args()...) }
	case faults.AgentFrozen:
		return s.freeze(h.Agent())
	case faults.EngineFrozen:
		return s.freeze(h.Engine())
	case faults.StoreKilled:
		h.Exec("kill", "-KILL", h.store())
		return func() {} // its agent starts it again
	case faults.StoreFrozen:
		pid := h.store()
		h.Exec("kill", "-STOP", pid)
		return func() { _, _ = h.TryExec("kill", "-CONT", pid) } // its agent may have ended it
	case faults.DiskFull:
		return s.fillDisk(h)
	case faults.ClockSkewed:
		h.Skew(step.Skew)
		h.clockIsWrong(step.Skew)
		return func() { h.Skew(0) }
	case faults.StoreRestored:
		return s.restore(h)
	}
	s.t.Fatalf("%v: nobody knows how", step)
	return nil
}

func (s *suite) host(name string) *host {
	s.t.Helper()
	for _, h := range s.hosts {
		if h.Name() == name {
			return h
		}
	}
	s.t.Fatalf("there is no host %s", name)
	return nil
}

// healthy waits until the engine has found the container to be.
func (c container) healthy() {
	c.h.t.Helper()
	lab.Eventually(c.h.t, waitLimit, c.name+" is healthy", func() error {
		if is := c.inspect().State.Health; is == nil || is.Status != "healthy" {
			return fmt.Errorf("it is %+v", is)
		}
		return nil
	})
}

// freeze stops a process by SIGSTOP.
func (s *suite) freeze(p *lab.Process) (thaw func()) {
	s.t.Helper()
	send := func(sig syscall.Signal) {
		s.t.Helper()
		if err := p.Signal(sig); err != nil {
			s.t.Fatalf("%v: %v", sig, err)
		}
	}
	send(syscall.SIGSTOP)
	return func() { s.t.Helper(); send(syscall.SIGCONT) }
}

// clockIsWrong checks that the host's agent has another time than this process, by so much: an HTTP server says what time it is.
func (h *host) clockIsWrong(by time.Duration) {
	h.t.Helper()
	resp, err := h.dial("/v1/status")
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	is, err := http.ParseTime(resp.Header.Get("Date"))
	if off := time.Until(is) - by; err != nil || off.Abs() > 5*time.Second {
		h.t.Fatalf("the agent of %s says that it is %v, %v; its clock is to be wrong by %v", h.Name(), is, err, by)
	}
}

// store is the number of the process that the host's agent has for its store, on the host.
func (h *host) store() string {
	h.t.Helper()
	return strings.TrimSpace(h.Exec("pgrep", "-f", "^shoal-store"))
}

// fillDisk fills the disk of a host's state folder, and has its agent want to write.
func (s *suite) fillDisk(h *host) (undo func()) {
	s.t.Helper()
	ballast := filepath.Join(faultsState, "ballast")
	if _, err := h.TryExec("dd", "if=/dev/zero", "of="+ballast, "bs=64k"); err == nil {
		s.t.Fatal("the disk is not full")
	}
	_, _ = h.TryExec("timeout", "2", "shoal", "token", "create") // it may fail
	return func() { h.Exec("rm", ballast) }
}

// backup keeps what the store has now.
func (s *suite) backup() {
	s.t.Helper()
	h := s.hosts[0]
	h.Exec("sh", "-c", "echo correct horse >"+filepath.Join(h.Dir(), "secret"))
	h.Shoal("store", "backup", filepath.Join(h.Dir(), "backup"), "--passphrase-file", filepath.Join(h.Dir(), "secret"))
}

// restore has the host that serves the store lose its state folder, and a backup take its place.
func (s *suite) restore(h *host) (undo func()) {
	s.t.Helper()
	if !*faultsBackup {
		s.backup()
	}
	h.KillAgent(syscall.SIGKILL)
	h.Exec("rm", "-r", faultsState+"/shoal")
	return func() {
		s.t.Helper()
		h.Shoal("store", "restore", filepath.Join(h.Dir(), "backup"), "--passphrase-file", filepath.Join(h.Dir(), "secret"),
			"--node", h.Name(), "--state-dir", faultsState+"/shoal")
		h.StartAgent(s.args()...)
	}
}
