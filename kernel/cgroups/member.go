package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Outside tells whether a process is neither in the group whose folder is group
// nor in one below. Programs that are attached to the group are not run for such a
// process. Containers are outside if their engine has another root of groups. The
// error is [fs.ErrNotExist] if there is no such process. A folder that is not in
// the hierarchy is an error too. So is a group that cannot be compared, which
// happens only in a cgroup namespace that is not the host's.
func Outside(pid int, group string) (bool, error) {
	h, err := Find()
	if err != nil {
		return false, err
	}
	of, err := h.path(group)
	if err != nil {
		return false, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if errors.Is(err, unix.ESRCH) {
		err = fs.ErrNotExist // it ended meanwhile
	}
	var at string
	if err == nil {
		at, err = unifiedPath(string(b))
	}
	if err != nil {
		return false, fmt.Errorf("find the control group of process %d: %w", pid, err)
	}
	in, err := within(at, of)
	return !in, err
}

// path is the path of a group's folder as /proc/PID/cgroup writes it.
func (h Hierarchy) path(folder string) (string, error) {
	rel, err := filepath.Rel(h.Path, folder)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return "", fmt.Errorf("the control group %s is not in the hierarchy at %s", folder, h.Path)
	}
	return join(h.root, rel), nil
}

// unifiedPath finds the version 2 group in a /proc/PID/cgroup. The path begins at
// the root of the reader's cgroup namespace, and with "/.." where it is outside.
func unifiedPath(text string) (string, error) {
	for line := range strings.Lines(text) {
		if p, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(strings.TrimSuffix(p, "\n"), " (deleted)"), nil
		}
	}
	return "", errors.New("it has none of version 2")
}

// within tells whether a group is another one, or below it. Both are paths as of
// /proc/PID/cgroup.
func within(group, other string) (bool, error) {
	up, below := climb(group)
	upOther, belowOther := climb(other)
	switch {
	case up > upOther:
		return false, nil
	case up < upOther && belowOther != "":
		// How the root of the namespace is called from above is not known.
		return false, fmt.Errorf("whether the control group %s is in %s is not known in this cgroup namespace: run the agent in the host's", group, other)
	case up < upOther, belowOther == "", below == belowOther:
		return true, nil
	}
	return strings.HasPrefix(below, belowOther+"/"), nil
}

// climb splits a path into how many steps it goes up from the namespace's root,
// and what it goes down from there.
func climb(p string) (up int, below string) {
	for p = strings.TrimPrefix(p, "/"); p == ".." || strings.HasPrefix(p, "../"); up++ {
		p = strings.TrimPrefix(strings.TrimPrefix(p, ".."), "/")
	}
	return up, p
}

// join is path.Join that keeps what goes up from the root.
func join(root, rel string) string {
	if below := path.Join(strings.TrimPrefix(root, "/"), rel); below != "." {
		return "/" + below
	}
	return "/"
}
