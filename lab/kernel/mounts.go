package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mountMachine mounts what an init mounts on a machine that has just booted, and the modules of User-Mode Linux where
// modprobe and the kernel look for them.
func mountMachine() error {
	for _, m := range []struct{ kind, at, data string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", ""},
		{"devpts", "/dev/pts", "ptmxmode=0666,mode=0620,gid=5"},
		{"tmpfs", "/dev/shm", ""},
		{"tmpfs", "/sys/fs/cgroup", ""},
	} {
		if strings.HasPrefix(m.at, "/dev/") {
			if err := os.MkdirAll(m.at, 0o755); err != nil {
				return err
			}
		}
		// The kernel may have mounted /dev itself.
		if err := ignore(unix.Mount(m.kind, m.at, m.kind, 0, m.data), unix.EBUSY); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.at, err)
		}
	}
	for name, target := range map[string]string{"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		_ = os.Symlink("/proc/self/"+target, "/dev/"+name)
	}
	if err := mountControllers(); err != nil {
		return err
	}
	return mountModules()
}

// mountControllers mounts every version 1 controller of control groups there is, each by itself, as Docker expects, and the
// version 2 hierarchy beside them, as systemd does in its hybrid mode.
func mountControllers() error {
	b, err := os.ReadFile("/proc/cgroups")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 4 || strings.HasPrefix(f[0], "#") || f[3] != "1" {
			continue
		}
		at := "/sys/fs/cgroup/" + f[0]
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("cgroup", at, "cgroup", 0, f[0]); err != nil {
			return fmt.Errorf("mount the control groups of %s: %w", f[0], err)
		}
	}
	const at = "/sys/fs/cgroup/unified"
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("cgroup2", at, "cgroup2", 0, "nsdelegate"); err != nil {
		return fmt.Errorf("mount the version 2 control groups: %w", err)
	}
	return nil
}

func mountModules() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	release := unix.ByteSliceToString(u.Release[:])
	from := "/usr/lib/uml/modules/" + release
	if !exists(from) {
		return fmt.Errorf("there are no modules for this kernel at %s", from)
	}
	// A machine that loads no modules of its own may lack the folder.
	if err := os.MkdirAll("/lib/modules", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/lib/modules", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs on /lib/modules: %w", err)
	}
	at := "/lib/modules/" + release
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(from, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", from, at, err)
	}
	return nil
}

// privateDirs are the folders a job has to itself.
var privateDirs = []string{"/run", "/tmp", "/var/tmp", "/var/lib/docker", "/var/lib/containerd"}

// mountPrivate mounts them, empty but for what the job needs of them, and what of /proc and /sys shows the job's
// own namespaces.
func (o *order) mountPrivate() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if !o.UML {
		if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			return fmt.Errorf("mount /proc: %w", err)
		}
		if err := MountSys(); err != nil {
			return err
		}
	}
	keep := []string{o.Dir, filepath.Dir(o.Self)}
	if command := o.Args[0]; filepath.IsAbs(command) {
		keep = append(keep, filepath.Dir(command))
	} else if strings.Contains(command, "/") {
		keep = append(keep, filepath.Dir(filepath.Join(o.Dir, command)))
	}
	for _, dir := range privateDirs {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			continue // there is none to hide
		}
		if err := mountOver(real, keep); err != nil {
			return err
		}
	}
	return nil
}

// mountOver mounts an empty tmpfs on dir. Folders in dir that hold one of keep are put back in their places.
func mountOver(dir string, keep []string) error {
	held := map[string]int{} // name in dir -> descriptor
	for _, name := range insideOf(dir, keep) {
		fd, err := unix.Open(filepath.Join(dir, name), unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", filepath.Join(dir, name), err)
		}
		defer unix.Close(fd)
		held[name] = fd
	}
	mode := "mode=0755"
	if slices.Contains([]string{"/tmp", "/var/tmp"}, dir) {
		mode = "mode=1777"
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, mode); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	for name, fd := range held {
		at := filepath.Join(dir, name)
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("put %s back in place: %w", at, err)
		}
	}
	return nil
}

// insideOf is the names in dir that lead to one of paths.
func insideOf(dir string, paths []string) []string {
	var names []string
	for _, path := range paths {
		rel, err := filepath.Rel(dir, path)
		if err != nil || rel == "." || rel == ".." || strings.HasPrefix(rel, "../") {
			continue
		}
		if name, _, _ := strings.Cut(rel, "/"); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// MountSys mounts sysfs anew, so that it shows the network namespace of the caller, and keeps the control groups
// mounted below the old one, which `ip netns exec` would lose.
func MountSys() error {
	fd, err := unix.Open("/sys/fs/cgroup", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /sys/fs/cgroup: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), "/sys/fs/cgroup", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep the control groups: %w", err)
	}
	return nil
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback interface: %w", err)
	}
	return netlink.LinkSetUp(lo)
}
