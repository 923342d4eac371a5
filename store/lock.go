package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// dirLock is a lock on a state folder, which keeps a second agent off it: etcd would
// wait for its data without end. It is gone with the process that took it.
type dirLock struct{ f *os.File }

func lockDir(dir string) (*dirLock, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("the state folder %s is in use by another agent: stop that one, or give this one a folder of its own", dir)
	}
	return &dirLock{f}, nil
}

// release lets others take the state folder at once. Closing the file alone does not,
// while a program that is being started holds a copy of it, from the fork to the exec
// (flock(2)).
func (l *dirLock) release() error {
	return errors.Join(unix.Flock(int(l.f.Fd()), unix.LOCK_UN), l.f.Close())
}
