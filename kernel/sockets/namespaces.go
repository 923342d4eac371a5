package sockets

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"shoal/kernel"
)

// inNamespaces calls visit in each network namespace that a process is in, on one
// thread, until visit returns false or ctx ends. A thread may be in another
// namespace than its process: that one is not visited. A process that ends
// meanwhile is no error. A namespace that cannot be entered is in the error, and
// the others are visited.
func inNamespaces(ctx context.Context, visit func() (more bool)) error {
	proc, err := os.Open("/proc")
	if err != nil {
		return err
	}
	pids, err := proc.Readdirnames(-1)
	proc.Close()
	if err != nil {
		return fmt.Errorf("list the processes: %w", err)
	}
	return kernel.OnThread(func() error {
		var failed []error
		visited := map[string]bool{} // by what /proc calls them, "net:[4026531840]"
		for _, pid := range pids {
			if pid[0] < '0' || pid[0] > '9' {
				continue
			}
			if ctx.Err() != nil {
				break
			}
			path := "/proc/" + pid + "/ns/net"
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
				failed = append(failed, fmt.Errorf("enter the network namespace of process %s: %w", pid, err))
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
