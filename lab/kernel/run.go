package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Run runs job and returns its exit status: 128 and the signal's number where a signal ended it. The job's output goes
// to this process's, live. When ctx ends, or the job's timeout, all of the job is ended. An error means
// that there is no exit status, and says why.
//
// Run must be called by a program that calls Init where IsInit says so, and needs root. Any number of jobs may run at
// once on a machine, and nothing is left of one that has ended, however it did. What kernel is used is told to logf, in a
// line, if it is not this machine's own.
func Run(ctx context.Context, job Job, logf func(format string, args ...any)) (int, error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("the lab makes namespaces and mounts: run it as root")
	}
	if job.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, job.Timeout, fmt.Errorf("the job did not end within %v", job.Timeout))
		defer cancel()
	}
	o := &order{Job: job}
	var err error
	if o.Self, err = os.Executable(); err != nil {
		return 0, fmt.Errorf("find this program's own file: %w", err)
	}
	if o.Dir == "" {
		if o.Dir, err = os.Getwd(); err != nil {
			return 0, fmt.Errorf("find the current folder: %w", err)
		}
	}
	loadModules()
	plane, lacks, err := choosePlane(o.Plane)
	if err != nil {
		return 0, err
	}
	if len(lacks) > 0 && plane == NFTables {
		return 0, fmt.Errorf("this kernel has no %s, and User-Mode Linux has no nf_tables for IPv4", strings.Join(lacks, ", "))
	}
	o.Plane = plane

	keeper, err := startKeeper()
	if err != nil {
		return 0, err
	}
	defer keeper.end()
	dir, err := keeper.keep("")
	if err != nil {
		return 0, fmt.Errorf("make a folder for the job: %w", err)
	}
	if len(lacks) == 0 {
		return runNative(ctx, o, dir)
	}
	path, err := exec.LookPath("linux.uml")
	if err != nil {
		return 0, fmt.Errorf("this kernel has no %s, and there is no linux.uml to run one that has: `make deps` installs it", strings.Join(lacks, ", "))
	}
	logf("this kernel has no %s: starting User-Mode Linux, %s of memory", strings.Join(lacks, ", "), job.Mem)
	return runUML(ctx, o, keeper, dir, path)
}

// runNative runs the job on this kernel.
func runNative(ctx context.Context, o *order, dir string) (int, error) {
	if err := o.write(dir); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = []string{jobEnv + "=" + dir}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, os.Stdout, os.Stderr
	if o.Terminal {
		cmd.Stdin = os.Stdin
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    !o.Terminal, // at a terminal, ^C is for the job
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 15 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return 0, fmt.Errorf("job ended: %w", context.Cause(ctx))
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, fmt.Errorf("start the job: %w", err)
	}
	if cmd.ProcessState.ExitCode() < 0 {
		return 0, fmt.Errorf("the job's first process: %v", cmd.ProcessState)
	}
	return cmd.ProcessState.ExitCode(), nil
}

// readStatus reads what Init left behind.
func readStatus(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// tail keeps the last bytes written to it.
type tail struct {
	max int
	b   []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > t.max {
		t.b = append(t.b[:0], t.b[len(t.b)-t.max:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.b) }
