package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoHierarchy says that no version 2 hierarchy is mounted. It can be mounted
// beside those of version 1: systemd's hybrid mode does so at
// /sys/fs/cgroup/unified.
var ErrNoHierarchy = errors.New("no version 2 hierarchy of control groups is mounted: boot with systemd.unified_cgroup_hierarchy=1, mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified, or, in a container, mount the host's /sys/fs/cgroup")

// Hierarchy is the version 2 hierarchy as this process sees it.
type Hierarchy struct {
	// Path is the folder where it is mounted.
	Path string
	// Whole tells that Path is the root of the hierarchy: every process is in it or
	// below. It is false in a container that sees its own groups only.
	Whole bool
	// NetCls and NetPrio tell that these controllers of version 1 are mounted. Before
	// Linux 5.15 the first use of one makes every new socket a member of the
	// hierarchy's root, whatever its process is in: programs that are attached to
	// another group are not run for it (cgroup_sk_alloc_disable and sock_cgroup_ptr,
	// there in include/linux/cgroup.h and kernel/cgroup/cgroup.c).
	NetCls, NetPrio bool

	root string // what is mounted at Path, as paths in /proc/PID/cgroup are written
}

// Find finds the hierarchy; [ErrNoHierarchy] if there is none.
func Find() (Hierarchy, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return Hierarchy{}, fmt.Errorf("find the hierarchy of control groups: %w", err)
	}
	h, mounts := parse(string(b))
	visible := slices.IndexFunc(mounts, func(m mount) bool { return Check(m.at) == nil })
	if visible < 0 {
		return h, ErrNoHierarchy
	}
	h.Path, h.root = mounts[visible].at, mounts[visible].root
	// All groups have this file but the root (Documentation/admin-guide/cgroup-v2.rst).
	// In a cgroup namespace of one's own mountinfo calls each group the root.
	_, err = os.Stat(filepath.Join(h.Path, "cgroup.events"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return h, fmt.Errorf("look at the control group %s: %w", h.Path, err)
	}
	h.Whole = err != nil
	return h, nil
}

// places are where the hierarchy is mounted as a rule.
var places = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}

// mount is a mounted version 2 hierarchy.
type mount struct {
	at   string
	root string // what of the hierarchy is seen there
}

// parse reads a mountinfo (proc_pid_mountinfo(5)): what it tells of version 1, and
// where version 2 is mounted, the usual places first. It does not tell whether
// something else hides such a mount. Of several at one place the last counts.
func parse(mountinfo string) (h Hierarchy, mounts []mount) {
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		f, super := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(super) < 3 {
			continue
		}
		switch super[0] {
		case "cgroup2":
			m := mount{at: unescape(f[4]), root: unescape(f[3])}
			mounts = slices.DeleteFunc(mounts, func(o mount) bool { return o.at == m.at })
			mounts = append(mounts, m)
		case "cgroup":
			controllers := strings.Split(super[2], ",")
			h.NetCls = h.NetCls || slices.Contains(controllers, "net_cls")
			h.NetPrio = h.NetPrio || slices.Contains(controllers, "net_prio")
		}
	}
	rank := func(m mount) int {
		if i := slices.Index(places, m.at); i >= 0 {
			return i
		}
		return len(places)
	}
	slices.SortStableFunc(mounts, func(a, b mount) int { return rank(a) - rank(b) })
	return h, mounts
}

// unescape undoes how mountinfo writes a path: spaces, tabs, line feeds and
// backslashes as three octal digits.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

// Check returns an error unless path is a folder of a version 2 hierarchy.
func Check(path string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return fmt.Errorf("%s: %w; name a folder of the version 2 hierarchy of control groups", path, err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("%s is no control group of version 2: name a folder of that hierarchy", path)
	}
	return nil
}
