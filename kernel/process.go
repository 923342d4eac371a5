package kernel

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// InNetwork calls f on a thread in the network namespace of a process. Sockets
// that f makes belong to that namespace, wherever they are used.
func InNetwork(pid int, f func() error) error {
	return OnThread(func() error {
		ns, err := netns.GetFromPid(pid)
		if err != nil {
			return fmt.Errorf("open the network namespace of process %d: %w", pid, err)
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("enter the network namespace of process %d: %w", pid, err)
		}
		return f()
	})
}

// ReadFileOf reads a regular file as a process sees it, of most bytes at most. The
// path is absolute. Links lead nowhere out of the root that the process has: what
// is in a container says nothing of the host's own files.
func ReadFileOf(pid int, path string, most int64) ([]byte, error) {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the root of process %d: %w", pid, err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("open %s of process %d: %w", path, pid, err)
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s of process %d is no regular file", path, pid))
	}
	return io.ReadAll(io.LimitReader(file, most))
}
