package kernel

import (
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

// IsInit says whether Run started this process for its own purposes, which then must call Init at once and do nothing
// else: it is the first of a job, or cleans up after one.
func IsInit() bool {
	return os.Getenv(keepEnv) != "" || os.Getpid() == 1 && os.Getenv(jobEnv) != ""
}

// Init does the work of process 1: prepares the job's surroundings, runs its command and ends with its status. It does
// not return.
func Init() {
	if os.Getenv(keepEnv) != "" {
		runKeeper()
		os.Exit(0)
	}
	dir := os.Getenv(jobEnv)
	o, err := readOrder(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(125)
	}
	// Opened now: the folder may be about to disappear from sight.
	status, err := os.Create(filepath.Join(dir, statusFile))
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(125)
	}
	code := o.run(filepath.Base(dir))
	fmt.Fprintln(status, code)
	status.Close()
	if !o.UML {
		os.Exit(code)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// run prepares the surroundings and runs the command. 125 is the status of a job that could not be started.
func (o *order) run(name string) int {
	err := o.prepare(name)
	stdio, serr := o.open()
	if serr != nil {
		return 125 // there is nowhere to say it
	}
	defer stdio.finish()
	if err != nil {
		fmt.Fprintln(stdio.files[2], "lab:", err)
		return 125
	}
	code, err := o.command(stdio)
	reportLacking(stdio.files[2])
	if err != nil {
		fmt.Fprintln(stdio.files[2], "lab:", err)
		return 125
	}
	return code
}

// prepare makes mounts, loads modules and sets the environment of this process, which is the job's. The job's name is that
// of its folder, and no other's on this machine.
func (o *order) prepare(name string) error {
	os.Clearenv()
	for _, v := range o.Env {
		name, value, _ := strings.Cut(v, "=")
		os.Setenv(name, value)
	}
	kind := "native"
	if o.UML {
		kind = "uml"
	}
	os.Setenv("LAB", o.Self)
	os.Setenv("LAB_KERNEL", kind)
	os.Setenv("LAB_PLANE", o.Plane)
	if o.SocketOff {
		os.Setenv("LAB_SOCKET", "off")
	}
	os.Setenv("LAB_NAME", name)
	os.Setenv(lackingEnv, "/tmp/lab-lacking")
	path := filepath.Dir(o.Self) + ":" + os.Getenv("PATH")
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"} {
		if !strings.Contains(path+":", ":"+dir+":") {
			path += ":" + dir
		}
	}
	os.Setenv("PATH", path)

	if o.UML {
		if err := mountMachine(); err != nil {
			return err
		}
	}
	if err := o.mountPrivate(); err != nil {
		return err
	}
	_ = unix.Sethostname([]byte("lab"))
	if err := loopbackUp(); err != nil {
		return err
	}
	if o.UML {
		loadModules()
		lacks, err := missing(o.Plane)
		if err != nil {
			return err
		}
		if len(lacks) > 0 {
			return fmt.Errorf("User-Mode Linux has no %s either", strings.Join(lacks, ", "))
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return err
	}
	if legacyIPTables() {
		return preferLegacyIPTables()
	}
	return nil
}

// preferLegacyIPTables puts a folder first on PATH where iptables is iptables-legacy.
func preferLegacyIPTables() error {
	dir, err := os.MkdirTemp("/tmp", "iptables-")
	if err != nil {
		return err
	}
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, verb := range []string{"", "-save", "-restore"} {
			if target, err := exec.LookPath(family + "-legacy" + verb); err == nil {
				if err := os.Symlink(target, filepath.Join(dir, family+verb)); err != nil {
					return err
				}
			}
		}
	}
	return os.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// stdio is what the command has for standard input, output and error.
type stdio struct {
	files  []*os.File
	ttys   []*os.File
	copies sync.WaitGroup
	ended  chan struct{}
}

// open finds them: our own on this machine's kernel, the consoles in User-Mode Linux. There the command gets pipes,
// not a terminal it would colour its output for, unless a terminal is what it is to have.
func (o *order) open() (*stdio, error) {
	s := &stdio{ended: make(chan struct{})}
	if !o.UML {
		s.files = []*os.File{os.Stdin, os.Stdout, os.Stderr}
		return s, nil
	}
	if o.Terminal {
		tty, err := os.OpenFile("/dev/tty1", os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			return nil, err
		}
		if o.Rows > 0 {
			_ = unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: o.Rows, Col: o.Cols})
		}
		s.files, s.ttys = []*os.File{tty, tty, tty}, []*os.File{tty}
		return s, nil
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	s.files = append(s.files, null)
	for _, name := range []string{"/dev/tty1", "/dev/tty2"} {
		tty, err := os.OpenFile(name, os.O_WRONLY|unix.O_NOCTTY, 0)
		if err != nil {
			return nil, err
		}
		if _, err := makeRaw(int(tty.Fd())); err != nil {
			return nil, err
		}
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		s.files, s.ttys = append(s.files, w), append(s.ttys, tty)
		s.copies.Go(func() { _, _ = io.Copy(tty, r) })
	}
	return s, nil
}

// finish waits until all output has left this kernel. Processes that outlive the command may hold its output open:
// what they say after a second is lost.
func (s *stdio) finish() {
	if len(s.ttys) == 2 {
		s.files[1].Close()
		s.files[2].Close()
		done := make(chan struct{})
		go func() { s.copies.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(time.Second):
		}
	}
	for _, tty := range s.ttys {
		_ = unix.IoctlSetInt(int(tty.Fd()), unix.TCSBRK, 1) // tcdrain(3)
	}
}

// command runs the job's command, reaps every process until it has ended, and returns its status.
func (o *order) command(s *stdio) (int, error) {
	if err := os.Chdir(o.Dir); err != nil {
		return 0, err
	}
	path, err := exec.LookPath(o.Args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return 0, fmt.Errorf("find the command: %w", err)
	}
	attr := &os.ProcAttr{Dir: o.Dir, Env: os.Environ(), Files: s.files}
	if o.Terminal && o.UML {
		attr.Sys = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	}
	p, err := os.StartProcess(path, o.Args, attr)
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", o.Args[0], err)
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	go func() {
		for sig := range signals {
			_ = unix.Kill(p.Pid, sig.(unix.Signal))
		}
	}()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("wait for %s: %w", o.Args[0], err)
		case pid == p.Pid && ws.Signaled():
			return 128 + int(ws.Signal()), nil
		case pid == p.Pid && ws.Exited():
			return ws.ExitStatus(), nil
		}
	}
}
