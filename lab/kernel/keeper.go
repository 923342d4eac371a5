package kernel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"shoal/lab/wait"
)

// keeper removes what a job leaves outside its namespaces once Run has ended, in whatever way, SIGKILL included: it is a
// process of its own that reads what to remove from a pipe, and sees the pipe's end when Run is gone.
type keeper struct {
	process *exec.Cmd
	paths   io.WriteCloser
}

// keepEnv says to this program that it is a keeper.
const keepEnv = "LAB_KEEP"

func startKeeper() (*keeper, error) {
	k := &keeper{process: exec.Command("/proc/self/exe")}
	k.process.Env = []string{keepEnv + "=1"}
	k.process.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a ^C is not for it
	var err error
	if k.paths, err = k.process.StdinPipe(); err != nil {
		return nil, err
	}
	if err := k.process.Start(); err != nil {
		return nil, fmt.Errorf("start what cleans up after the job: %w", err)
	}
	return k, nil
}

// keep makes a folder that the keeper will remove, with the control groups of that name.
func (k *keeper) keep(in string) (dir string, err error) {
	if dir, err = os.MkdirTemp(in, "lab-"); err == nil {
		_, err = fmt.Fprintln(k.paths, dir)
	}
	return dir, err
}

// end has the keeper remove everything, and waits for it.
func (k *keeper) end() {
	k.paths.Close()
	_ = k.process.Wait()
}

// runKeeper is what the keeper's process does. It tries for some time, as the job's processes may be about to end.
func runKeeper() {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	var dirs []string
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		dirs = append(dirs, lines.Text())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_ = wait.Until(ctx, func() (err error) { // nobody is there to be told
		for _, dir := range dirs {
			err = errors.Join(err, os.RemoveAll(dir), RemoveControlGroups(filepath.Base(dir)))
		}
		return err
	})
}

// UnifiedHierarchy is where the version 2 hierarchy of control groups is mounted: alone, or beside those of version 1 as
// systemd calls hybrid. It is empty where it is not.
func UnifiedHierarchy() string {
	for _, at := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(at, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return at
		}
	}
	return ""
}

// ControlGroups are the folders of the control groups of that name, in all hierarchies, those inside others last.
func ControlGroups(name string) (dirs []string) {
	for _, top := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		found, _ := filepath.Glob(filepath.Join(top, name))
		for _, dir := range found {
			_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
		}
	}
	return dirs
}

// RemoveControlGroups removes them. They must have no processes.
func RemoveControlGroups(name string) error {
	dirs := ControlGroups(name)
	var left []string
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := ignore(unix.Rmdir(dirs[i]), unix.ENOENT); err != nil {
			left = append(left, fmt.Sprintf("%s: %v", dirs[i], err))
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("remove control groups: %s", strings.Join(left, ", "))
	}
	return nil
}
