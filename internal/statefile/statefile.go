// Package statefile writes what an agent needs after a restart, and gives it its name.
//
// In: a value, a content, or a file or folder that is ready under another name. Out: a
// file or folder that is the old one or the new one after a crash, never half of either.
// What happens after a function of this package has returned finds its work on the disk,
// so that the order of two calls holds after a crash too.
//
// All state of an agent gets its name here: os.Rename alone is lost, or done before the
// content is there, when the machine loses its power.
package statefile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Tests see by these what is done in which order.
var (
	fsync     = (*os.File).Sync
	renameat2 = unix.Renameat2
)

// Save writes v to a file that root alone may read. The folder must exist.
func Save(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err == nil {
		err = Write(path, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write the state file %s: %w", path, err)
	}
	return nil
}

// Load reads what [Save] wrote into the value that v points to. Without a file
// it leaves that alone, and found is false.
func Load(path string, v any) (found bool, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return true, fmt.Errorf("read the state file %s: %w", path, err)
	}
	return true, nil
}

// Write replaces a file whole: the content is on the disk under another name
// before it gets this one. Its mode is 0600.
func Write(path string, content []byte) error {
	_, err := WriteBy(path, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
	return err
}

// WriteBy is [Write] with a content that a function writes. It returns the file's size in
// bytes. After an error the file is as it was.
func WriteBy(path string, write func(io.Writer) error) (size int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // of mode 0600
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return 0, errors.Join(err, f.Close())
	}
	info, err := f.Stat()
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	return info.Size(), Rename(f.Name(), path)
}

// Rename gives a file, or a folder with all that is in it, another name on the same file
// system, in place of a file, or an empty folder, that has that name.
func Rename(from, to string) error { return rename(from, to, 0) }

// Exchange has two files or folders exchange their names, in one step.
func Exchange(a, b string) error { return rename(a, b, unix.RENAME_EXCHANGE) }

// rename writes the content to the disk before the name, and the name before it returns.
func rename(from, to string, flags uint) error {
	if err := syncAll(from); err != nil {
		return err
	}
	if err := renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	err := syncOne(filepath.Dir(to))
	if filepath.Dir(from) != filepath.Dir(to) {
		err = errors.Join(err, syncOne(filepath.Dir(from)))
	}
	return err
}

// syncAll writes a file to the disk, or a folder with all that is in it.
func syncAll(path string) error {
	return filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		return syncOne(path)
	})
}

// syncOne writes a file to the disk, or the names in a folder.
func syncOne(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = fsync(f)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		err = nil // a file system that has no such thing for folders; a backup may be on one
	}
	return errors.Join(err, f.Close())
}
