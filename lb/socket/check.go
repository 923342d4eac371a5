package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/model"
)

// checkCgroup tells whether the folder is a cgroup that programs can be attached
// to, and its number, by which links know it: that of its inode
// (kernel/cgroup/cgroup.c, kernfs with 64-bit inode numbers, from Linux 5.5 on).
func checkCgroup(folder string) (number uint64, err error) {
	var in unix.Statfs_t
	if err := unix.Statfs(folder, &in); err != nil {
		return 0, fmt.Errorf("cgroup %s: %w", folder, err)
	}
	if in.Type != unix.CGROUP2_SUPER_MAGIC {
		return 0, model.KernelIncomplete.Errorf("%s is no cgroup of version 2, which BPF programs for sockets need: `mount -t cgroup2 none FOLDER` gives that hierarchy a folder", folder)
	}
	var st unix.Stat_t
	if err := unix.Stat(folder, &st); err != nil {
		return 0, fmt.Errorf("cgroup %s: %w", folder, err)
	}
	return st.Ino, nil
}

// checkClassifiers tells whether cgroups of version 1 keep sockets from being of
// one of version 2.
func checkClassifiers() error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	return classifiers(string(mounts), unix.ByteSliceToString(u.Release[:]))
}

// classifiers reads a list of mounts as in proc(5). Before Linux 5.14 a socket
// has either a cgroup of version 2 or a class of net_cls or a priority of
// net_prio; as soon as one of the latter is set, programs of cgroups do not see
// new sockets (struct sock_cgroup_data, commit 8520e224f547).
func classifiers(mounts, release string) error {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil || major > 5 || major == 5 && minor >= 14 {
		return nil
	}
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 4 || f[2] != "cgroup" {
			continue
		}
		for option := range strings.SplitSeq(f[3], ",") {
			if option == "net_cls" || option == "net_prio" {
				return model.KernelIncomplete.Errorf("the cgroup controller %s is mounted on %s, and before Linux 5.14 (here %s) it keeps BPF programs from sockets: unmount it, or boot with cgroup_no_v1=net_cls,net_prio", option, f[1], release)
			}
		}
	}
	return nil
}

// bpfFolder is where the BPF file system is on every distribution.
const bpfFolder = "/sys/fs/bpf"

// prepare has the folder of pins there, on a BPF file system.
func prepare(pins string) error {
	if err := rlimit.RemoveMemlock(); err != nil { // counted before Linux 5.11
		return fmt.Errorf("lift the limit of locked memory for BPF: %w", err)
	}
	there := pins
	var in unix.Statfs_t
	for {
		err := unix.Statfs(there, &in)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || there == "/" || there == "." {
			return fmt.Errorf("folder of BPF pins %s: %w", pins, err)
		}
		there = filepath.Dir(there)
	}
	if in.Type != unix.BPF_FS_MAGIC {
		if there != bpfFolder {
			return fmt.Errorf("the folder of BPF pins %s is on no BPF file system: `mount -t bpf bpf FOLDER` makes one, or use a folder below %s", pins, bpfFolder)
		}
		kernel.Wrote("bpf", 1)
		if err := unix.Mount("bpf", bpfFolder, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
			return fmt.Errorf("mount the BPF file system on %s: %w", bpfFolder, err)
		}
	}
	if err := os.MkdirAll(pins, 0o700); err != nil {
		return fmt.Errorf("make the folder of BPF pins: %w", err)
	}
	return nil
}

// logVerifier logs what the kernel's verifier said of a program, whole.
func logVerifier(log *slog.Logger, err error) {
	if v, ok := errors.AsType[*ebpf.VerifierError](err); ok {
		log.Error("the kernel refuses a BPF program", "error", err, "verifier", strings.Join(v.Log, "\n"))
	}
}
