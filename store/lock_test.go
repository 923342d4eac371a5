package store

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestAReleasedFolderIsFreeWhileAProgramStarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	// A process has a copy of its parent's files between the fork and the exec.
	copied, err := unix.Dup(int(l.f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(copied)
	if err := l.release(); err != nil {
		t.Fatal(err)
	}
	if l, err = lockDir(dir); err != nil {
		t.Fatal(err)
	}
	l.release()
}
