//go:build e2e

package sockets

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"shoal/lab"
	"shoal/lab/kernel"
)

// TestMain is the tests, the clients of [startClients] and those of [startDatagrams].
func TestMain(m *testing.M) {
	if os.Getenv(datagramsEnv) != "" {
		if err := runDatagrams(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(clientsEnv) != "" {
		if err := runClients(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// host is a process in a network namespace of its own, with two sockets of each
// kind: one that is to be closed, and one that is to be left alone.
type host struct {
	victims map[string]uint64 // kind -> cookie
	stdin   io.Writer
	lines   chan string
	cmd     *exec.Cmd
}

func startClients(t *testing.T) *host {
	t.Helper()
	h := &host{victims: map[string]uint64{}, lines: make(chan string, 100), cmd: exec.Command("/proc/self/exe")}
	h.cmd.Env = []string{clientsEnv + "=1"}
	h.cmd.Stderr = os.Stderr
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := h.cmd.StdoutPipe()
	if err == nil {
		h.stdin, err = h.cmd.StdinPipe()
	}
	if err == nil {
		err = h.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.end)
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			h.lines <- lines.Text()
		}
		close(h.lines)
	}()
	for line := h.next(t); line != "ready"; line = h.next(t) {
		kind, cookie, _ := strings.Cut(line, " ")
		if h.victims[kind], err = strconv.ParseUint(cookie, 10, 64); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
	}
	if len(h.victims) != len(kinds) {
		t.Fatalf("sockets: %v", h.victims)
	}
	return h
}

func (h *host) end() {
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait()
}

// next is the next line that the clients say.
func (h *host) next(t *testing.T) string {
	t.Helper()
	select {
	case line, ok := <-h.lines:
		if !ok {
			t.Fatal("the clients have ended")
		}
		return line
	case <-time.After(20 * time.Second):
		t.Fatal("the clients say nothing: a closed socket's owner was not woken")
	}
	return ""
}

// left is how the sockets are that were to be left alone.
func (h *host) left(t *testing.T) map[string]string {
	t.Helper()
	if _, err := io.WriteString(h.stdin, "check\n"); err != nil {
		t.Fatal(err)
	}
	how := map[string]string{}
	for range kinds {
		kind, is, _ := strings.Cut(h.next(t), " ")
		how[kind] = is
	}
	return how
}

func (h *host) checkLeft(t *testing.T) {
	t.Helper()
	for kind, how := range h.left(t) {
		if how != "lives" {
			t.Errorf("%s: the socket with another cookie: %s", kind, how)
		}
	}
}

func ofAll(states States, hosts ...*host) map[uint64]States {
	all := map[uint64]States{}
	for _, h := range hosts {
		for _, cookie := range h.victims {
			all[cookie] = states
		}
	}
	return all
}

// inTime is more than a walk through a few namespaces takes.
func inTime(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// aborted is how ECONNABORTED reads.
const aborted = "software caused connection abort"

func TestSocketsAreClosedInEveryNamespaceByTheirCookies(t *testing.T) {
	lab.Needs(t, "sock_destroy")
	home := threadNamespaces(t)
	hosts := []*host{startClients(t), startClients(t)}
	began := time.Now()
	closed, err := Destroy(inTime(t), ofAll(Connecting, hosts...))
	if closed != len(hosts) || err != nil {
		t.Errorf("%d that nobody had answered were closed, want %d; %v", closed, len(hosts), err)
	}
	for _, h := range hosts {
		if kind, how, _ := strings.Cut(h.next(t), " "); kind != "tcp-connecting" || how != aborted {
			t.Errorf("%s: its owner was told %q", kind, how)
		}
	}
	closed, err = Destroy(inTime(t), ofAll(Connected, hosts...))
	if want := len(hosts) * (len(kinds) - 1); closed != want || err != nil {
		t.Errorf("%d were closed, want %d; %v", closed, want, err)
	}
	for _, h := range hosts {
		for range len(kinds) - 1 {
			if kind, how, _ := strings.Cut(h.next(t), " "); how != aborted {
				t.Errorf("%s: its owner was told %q", kind, how)
			}
		}
		t.Logf("after %v", time.Since(began))
		h.checkLeft(t)
	}
	if closed, err := Destroy(inTime(t), ofAll(Connected, hosts...)); closed != 0 || err != nil {
		t.Errorf("what is closed was closed again: %d, %v", closed, err)
	}
	for ns := range threadNamespaces(t) {
		if !home[ns] {
			t.Errorf("a thread stayed in %s", ns)
		}
	}
}

// threadNamespaces are the network namespaces that threads of this process are in.
func threadNamespaces(t *testing.T) map[string]bool {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, thread := range threads {
		if ns, err := os.Readlink("/proc/self/task/" + thread.Name() + "/ns/net"); err == nil {
			found[ns] = true
		}
	}
	return found
}

func TestWithoutTimeNothingIsClosed(t *testing.T) {
	lab.Needs(t, "sock_destroy")
	h := startClients(t)
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if closed, err := Destroy(ctx, ofAll(Connected, h)); closed != 0 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%d were closed, %v", closed, err)
	}
	h.checkLeft(t)
}

func TestWhatGoesAwayMeanwhileIsNoError(t *testing.T) {
	lab.Needs(t, "sock_destroy")
	var stop atomic.Bool
	defer stop.Store(true)
	came := make(chan error, 1)
	go func() {
		for !stop.Load() {
			cmd := exec.Command("sleep", "1000")
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
			if err := cmd.Start(); err != nil {
				came <- err
				return
			}
			select {
			case came <- nil:
			default:
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}()
	if err := <-came; err != nil {
		t.Fatal(err)
	}
	for range 200 {
		if closed, err := Destroy(inTime(t), map[uint64]States{1 << 63: Connected}); closed != 0 || err != nil {
			t.Fatalf("%d were closed, %v", closed, err)
		}
	}
}

func TestAKernelThatCannotSaysSoOnce(t *testing.T) {
	err := CanDestroy()
	if kernel.Has("sock_destroy") == nil {
		if err != nil {
			t.Error(err)
		}
		return
	}
	if !errors.Is(err, ErrCannotDestroy) {
		t.Errorf("it says %v", err)
	}
	h := startClients(t)
	closed, err := Destroy(inTime(t), ofAll(Connected, h))
	if closed != 0 || !errors.Is(err, ErrCannotDestroy) || strings.Count(err.Error(), "CONFIG_INET_DIAG_DESTROY") != 1 {
		t.Errorf("%d were closed, %v", closed, err)
	}
	h.checkLeft(t)
}
