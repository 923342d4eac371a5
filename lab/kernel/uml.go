package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// runUML runs the job on User-Mode Linux.
//
// The kernel's consoles are pipes, never our own files: UML makes what it is given non-blocking, for everyone who shares
// it. The kernel is a process group of its own, so that a ^C at the terminal does not stop it half way, and so that it
// can be ended whole.
func runUML(ctx context.Context, o *order, keeper *keeper, dir, linux string) (int, error) {
	o.UML = true
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// A reader of our output that goes away is to end the job, not us at once: with us would go who cleans up.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, unix.SIGPIPE)
	defer signal.Stop(broken)
	size := &unix.Winsize{}
	if o.Terminal {
		if s, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
			size = s
		}
		o.Rows, o.Cols = size.Row, size.Col
	}
	if err := o.write(dir); err != nil {
		return 0, err
	}
	memory := filepath.Join(dir, "memory")
	if err := os.Mkdir(memory, 0o700); err != nil {
		return 0, fmt.Errorf("make a folder for the kernel's memory: %w", err)
	}
	if shm, err := keeper.keep("/dev/shm"); err == nil {
		if free(shm) >= sizeOf(o.Mem) {
			memory = shm
		}
	}

	messages := &tail{max: 16 << 10}
	cmd := exec.CommandContext(ctx, linux,
		"mem="+o.Mem, "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", "quiet",
		"init="+o.Self, fmt.Sprintf("%s=%q", jobEnv, dir),
		"uml_dir="+dir, "umid=uml",
		"con=null", "con0=null,fd:1",
	)
	cmd.Env = append(os.Environ(), "TMPDIR="+memory, "HOME="+dir)
	if lib := filepath.Join(filepath.Dir(o.Self), "uml-xstate.so"); exists(lib) {
		cmd.Env = append(cmd.Env, "LD_PRELOAD="+lib)
	}
	cmd.Stdout, cmd.Stderr = messages, messages
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return endGroup(cmd.Process.Pid) }
	cmd.WaitDelay = 2 * time.Second

	consoles, err := attach(cmd, o.Terminal, size, stop)
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		consoles.close()
		return 0, fmt.Errorf("start %s: %w", linux, err)
	}
	consoles.started()
	processor := pin(cmd.Process.Pid)
	defer processor.Close() // of nil, an error that is no matter
	err = cmd.Wait()
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // the processes of a kernel that was killed outlive it
	consoles.close()

	if ctx.Err() != nil {
		return 0, fmt.Errorf("job ended: %w", context.Cause(ctx))
	}
	status, serr := readStatus(filepath.Join(dir, statusFile))
	if serr == nil {
		return status, nil
	}
	last := strings.TrimSpace(messages.String())
	if strings.Contains(last, "set fp regs failed") {
		return 0, errors.New("User-Mode Linux cannot start on this processor without uml-xstate.so beside the lab program: `make build` makes it")
	}
	return 0, fmt.Errorf("User-Mode Linux ended before its job did (%v); its last messages:\n%s", cmd.ProcessState, last)
}

// endGroup asks the kernel to end, which halts all that runs on it; what the job held is in memory and needs no care.
func endGroup(pid int) error {
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		return err
	}
	time.AfterFunc(time.Second, func() { _ = unix.Kill(-pid, unix.SIGKILL) })
	return nil
}

// ends are our ends of the kernel's consoles, and theirs.
type ends struct {
	theirs, ours []*os.File
	copies       sync.WaitGroup
	restore      func()
	run          []func()
}

// attach adds consoles 1 and 2 to the kernel about to be started. Output that nobody takes is a reason to stop.
func attach(cmd *exec.Cmd, terminal bool, size *unix.Winsize, stop context.CancelCauseFunc) (*ends, error) {
	e := &ends{restore: func() {}}
	if terminal {
		return e, e.terminal(cmd, size)
	}
	for i, to := range []*os.File{os.Stdout, os.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("make a pipe: %w", err)
		}
		e.console(cmd, i+1, "null,fd:%d", w)
		e.ours = append(e.ours, r)
		e.run = append(e.run, func() {
			if _, err := io.Copy(to, r); err != nil {
				stop(err)
			}
		})
	}
	return e, nil
}

// console gives file to the kernel as console n.
func (e *ends) console(cmd *exec.Cmd, n int, channel string, file *os.File) {
	cmd.ExtraFiles = append(cmd.ExtraFiles, file)
	cmd.Args = append(cmd.Args, fmt.Sprintf("con%d="+channel, n, 2+len(cmd.ExtraFiles)))
	e.theirs = append(e.theirs, file)
}

// started closes the kernel's ends, and begins to copy.
func (e *ends) started() {
	for _, f := range e.theirs {
		f.Close()
	}
	e.theirs = nil
	for _, copy := range e.run {
		e.copies.Go(copy)
	}
}

// close waits for the rest of the output, gives back the terminal and closes all.
func (e *ends) close() {
	for _, f := range e.theirs {
		f.Close()
	}
	done := make(chan struct{})
	go func() { e.copies.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
	}
	for _, f := range e.ours {
		f.Close()
	}
	e.restore()
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// free is the room on the file system of dir, in bytes.
func free(dir string) uint64 {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return 0
	}
	return s.Bavail * uint64(s.Bsize)
}

// sizeOf reads UML's notation of memory sizes; 0 if it is none, which UML will then say itself.
func sizeOf(mem string) uint64 {
	var n uint64
	var unit string
	if _, err := fmt.Sscanf(mem, "%d%s", &n, &unit); err != nil {
		return 0
	}
	switch strings.ToUpper(unit) {
	case "K":
		return n << 10
	case "M":
		return n << 20
	case "G":
		return n << 30
	}
	return 0
}
