package sockets

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"shoal/kernel"
)

// processes are all that there are now, by their IDs.
func processes() (pids []int, err error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// inNamespaces calls visit in each network namespace that a process is in, on one
// thread, until visit returns false or ctx ends. A thread may be in another
// namespace than its process: that one is not visited. A process that ends
// meanwhile is no error. A namespace that cannot be entered is in the error, and
// the others are visited.
func inNamespaces(ctx context.Context, visit func() (more bool)) error {
	pids, err := processes()
	if err != nil {
		return err
	}
	return kernel.OnThread(func() error {
		var failed []error
		visited := map[string]bool{} // by what /proc calls them, "net:[4026531840]"
		for _, pid := range pids {
			if ctx.Err() != nil {
				break
			}
			path := fmt.Sprintf("/proc/%d/ns/net", pid)
			name, err := os.Readlink(path)
			if err == nil && visited[name] {
				continue
			}
			if err == nil {
				err = enter(path)
			}
			switch {
			case isGone(err):
				continue
			case err != nil:
				failed = append(failed, fmt.Errorf("enter the network namespace of process %d: %w", pid, err))
				continue
			}
			visited[name] = true
			if !visit() {
				break
			}
		}
		return errors.Join(failed...)
	})
}

// enter moves the calling thread to the network namespace at path.
func enter(path string) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return netns.Set(ns)
}

// isGone tells that there is no such process any more, or that it has ended and
// was not waited for.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}
