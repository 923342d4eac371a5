//go:build e2e

package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// lookEnv has the test's program say what it sees in a cgroup namespace of its own.
const lookEnv = "SHOAL_TEST_LOOK"

func TestMain(m *testing.M) {
	if parent := os.Getenv(lookEnv); parent != "" {
		if err := look(parent); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// find finds the hierarchy, which has to be whole.
func find(t *testing.T) Hierarchy {
	t.Helper()
	h, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	if !h.Whole {
		t.Errorf("%s is not the root", h.Path)
	}
	return h
}

// group makes a group with a process in it, which runs command.
func group(t *testing.T, name string, cmd *exec.Cmd) string {
	t.Helper()
	top := filepath.Join(find(t).Path, os.Getenv("LAB_NAME"))
	path := filepath.Join(top, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(os.Remove(path), os.Remove(top)) })
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return path
}

func TestWhoIsOutsideOfAGroup(t *testing.T) {
	a, b := exec.Command("sleep", "1000"), exec.Command("sleep", "1000")
	in, beside := group(t, "a", a), group(t, "ab", b)
	root := find(t).Path
	if err := errors.Join(Check(in), Check(root)); err != nil {
		t.Error(err)
	}
	for _, tt := range []struct {
		who     string
		pid     int
		group   string
		outside bool
	}{
		{"its own", a.Process.Pid, in, false},
		{"another's", b.Process.Pid, in, true},
		{"another's", a.Process.Pid, beside, true},
		{"of one above", a.Process.Pid, filepath.Dir(in), false},
		{"everybody's", a.Process.Pid, root, false},
		{"this test's", os.Getpid(), in, true},
		{"this test's", os.Getpid(), root, false},
	} {
		if got, err := Outside(tt.pid, tt.group); got != tt.outside || err != nil {
			t.Errorf("%s, outside of %s: %v, %v", tt.who, tt.group, got, err)
		}
	}
	if _, err := Outside(a.Process.Pid, "/proc"); err == nil {
		t.Error("/proc passes for a control group")
	}
	_ = a.Process.Kill()
	_ = a.Wait()
	if _, err := Outside(a.Process.Pid, in); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a process that has ended: %v", err)
	}
}

func TestWhatAContainerSees(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{fmt.Sprintf("%s=%d", lookEnv, os.Getpid())}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWCGROUP | syscall.CLONE_NEWNS}
	var said strings.Builder
	cmd.Stdout = &said
	group(t, "a", cmd)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, said.String())
	}
	want := "the host's mount: whole true, the host's process is outside: false\n" +
		"its own mount: whole false, the host's process is outside: true\n"
	if said.String() != want {
		t.Errorf("got\n%swant\n%s", said.String(), want)
	}
}

// look says what is seen of the hierarchy with the host's mount of it, as the
// agent's container has it, and with one of its own, as containers have.
func look(parent string) error {
	var pid int
	if _, err := fmt.Sscan(parent, &pid); err != nil {
		return err
	}
	say := func(what string) error {
		h, err := Find()
		if err != nil {
			return err
		}
		outside, err := Outside(pid, h.Path)
		fmt.Printf("%s: whole %v, the host's process is outside: %v\n", what, h.Whole, outside)
		return err
	}
	if err := say("the host's mount"); err != nil {
		return err
	}
	h, err := Find()
	if err != nil {
		return err
	}
	if err := unix.Unmount(h.Path, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	if err := unix.Mount("cgroup2", h.Path, "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	return say("its own mount")
}
