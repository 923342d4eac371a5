package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// room is a thread that stays in a machine's namespaces, and does there what must be done there: start processes,
// mostly. A process started so costs one fork and exec, where nsenter would cost another.
type room struct{ work chan func() }

func newRoom() *room {
	r := &room{make(chan func())}
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		for f := range r.work {
			f()
		}
	}()
	return r
}

// do runs f in the room and waits for it.
func (r *room) do(f func()) {
	done := make(chan struct{})
	r.work <- func() { defer close(done); f() }
	<-done
}

func (r *room) leave() { close(r.work) }

// enter moves the calling thread to the namespaces of process pid. Of the process namespace only its children are members.
func enter(pid int) error {
	// A thread that shares its root and current folder with others may not change its mounts.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the current folder: %w", err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	// All at once, by the process: setns(2), Linux 5.8.
	if err := unix.Setns(fd, unix.CLONE_NEWNET|unix.CLONE_NEWNS|unix.CLONE_NEWPID|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("enter the namespaces of process %d: %w", pid, err)
	}
	return nil
}

// command prepares a command for the machine. Its folder is the test's.
func (m *machine) command(env []string, args ...string) (*exec.Cmd, error) {
	if m.init == nil {
		return nil, fmt.Errorf("%s: it is no more", m.name)
	}
	cmd := exec.Command(args[0], args[1:]...)
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	cmd.Dir = dir
	// SHOAL_DATA_PLANE is the flag --data-plane of whatever agent is started here, by the lab or by a command.
	cmd.Env = append(os.Environ(), "SHOAL_RUN_DIR="+m.runDir(), "SHOAL_DATA_PLANE="+Plane(), "DOCKER_CONFIG="+filepath.Join(m.dir, "docker-config"))
	if !SocketBalancing() {
		cmd.Env = append(cmd.Env, "SHOAL_SOCKET_BALANCING=off")
	}
	// All hosts have one kernel. An agent attaches its programs to its own host's control group.
	if group := m.cgroup(); group != "" {
		cmd.Env = append(cmd.Env, "SHOAL_SOCKET_CGROUP="+group)
	}
	// The bus of the machine that the lab is on is nobody's business here.
	cmd.Env = append(cmd.Env, "DBUS_SYSTEM_BUS_ADDRESS=unix:path="+m.busSocket())
	cmd.Env = append(cmd.Env, env...)
	return cmd, cmd.Err
}

func (m *machine) start(cmd *exec.Cmd) (err error) {
	m.room.do(func() { err = m.placed(cmd).Start() })
	return err
}

func (m *machine) try(env []string, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd, err := m.command(env, args...)
	if err != nil {
		return "", fmt.Errorf("%s: %w", m.name, err)
	}
	cmd.Stdout, cmd.Stderr = &out, &errs
	// What outlives the command, and holds its output, is not waited for.
	cmd.WaitDelay = time.Second
	if err := m.start(cmd); err != nil {
		return "", fmt.Errorf("%s: start %s: %w", m.name, args[0], err)
	}
	timer := time.AfterFunc(execLimit, func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	if !timer.Stop() {
		err = fmt.Errorf("not done within %v", execLimit)
	}
	text := strings.TrimSpace(out.String())
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return text, fmt.Errorf("%s: %s: %w\n%s%s", m.name, strings.Join(args, " "), err, out.String(), errs.String())
	}
	return text, nil
}

// Process is a command that runs in the background on a machine, its output going to a file.
type Process struct {
	cmd    *exec.Cmd
	log    string
	offset int64 // where in the log its output begins
	ended  chan struct{}
	err    error // valid once ended is closed
}

// Start starts a command on the machine. It ends with the machine at the latest.
func (m *Machine) Start(args ...string) *Process {
	m.t.Helper()
	log, err := os.CreateTemp(m.dir, filepath.Base(args[0])+"-*.log")
	if err == nil {
		log.Close()
		var p *Process
		if p, err = m.background(log.Name(), args...); err == nil {
			return p
		}
	}
	m.t.Fatalf("%s: start %s: %v", m.name, args[0], err)
	return nil
}

// background starts a command whose output is added to the file log.
func (m *machine) background(log string, args ...string) (*Process, error) {
	cmd, err := m.command(nil, args...)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	p := &Process{cmd: cmd, log: log, ended: make(chan struct{})}
	if info, err := file.Stat(); err == nil {
		p.offset = info.Size()
	}
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := m.start(cmd); err != nil {
		return nil, err
	}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// Pid is the process's number as the test sees it; on its machine it has another.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Output is what it has written so far.
func (p *Process) Output() string {
	b, _ := os.ReadFile(p.log)
	return string(b[min(p.offset, int64(len(b))):])
}

// Signal sends it a signal.
func (p *Process) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Wait waits until it ends, and returns nil if it ended well. One that has not ended after limit is killed, and an error.
func (p *Process) Wait(limit time.Duration) error {
	select {
	case <-p.ended:
		return p.err
	case <-time.After(limit):
		_ = p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("%s did not end within %v", p.cmd.Args[0], limit)
	}
}

// running says that it has not ended.
func (p *Process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}
