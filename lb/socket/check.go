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
	"shoal/kernel/cgroups"
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

// checkClassifiers tells whether control groups of version 1 keep sockets from being of
// that one of version 2.
func checkClassifiers(cgroup string) error {
	h, err := cgroups.Find()
	if err != nil {
		return err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	return classifiers(h, cgroup, unix.ByteSliceToString(u.Release[:]))
}

// classifiers decides that. It does no harm where the programs are attached to the
// root, or from Linux 5.15 on: see [cgroups.Hierarchy].
func classifiers(h cgroups.Hierarchy, cgroup, release string) error {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil || major > 5 || major == 5 && minor >= 15 {
		return nil
	}
	if !h.NetCls && !h.NetPrio || h.Whole && filepath.Clean(cgroup) == h.Path {
		return nil
	}
	return model.KernelIncomplete.Errorf("control groups of version 1 have net_cls or net_prio, and before Linux 5.15 (here %s) they keep BPF programs of the group %s from sockets: attach to the root of the hierarchy, or boot with cgroup_no_v1=net_cls,net_prio", release, cgroup)
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
