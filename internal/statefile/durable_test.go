package statefile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// record has fsync and rename noted, and done all the same.
func record(t *testing.T, dir string) (steps *[]string) {
	steps = &[]string{}
	name := func(path string) string {
		if filepath.Dir(path) == dir && strings.HasPrefix(filepath.Base(path), ".file-") {
			return "temporary"
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			t.Error(err)
		}
		return rel
	}
	t.Cleanup(func() { fsync, renameat2 = (*os.File).Sync, unix.Renameat2 })
	fsync = func(f *os.File) error {
		*steps = append(*steps, "sync "+name(f.Name()))
		return f.Sync()
	}
	renameat2 = func(olddir int, from string, newdir int, to string, flags uint) error {
		*steps = append(*steps, "rename "+name(from)+" "+name(to))
		return unix.Renameat2(olddir, from, newdir, to, flags)
	}
	return steps
}

func TestTheContentIsOnTheDiskBeforeItsNameAndTheNameBeforeWhatFollows(t *testing.T) {
	put := func(t *testing.T, path, content string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		do   func(t *testing.T, dir string) error
		want []string
		has  map[string]string
	}{
		"a file is written": {
			func(t *testing.T, dir string) error { return Write(filepath.Join(dir, "file"), []byte("new")) },
			[]string{"sync temporary", "rename temporary file", "sync ."},
			map[string]string{"file": "new"},
		},
		"a file is renamed": {
			func(t *testing.T, dir string) error {
				put(t, filepath.Join(dir, "a"), "new")
				put(t, filepath.Join(dir, "b"), "old")
				return Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b"))
			},
			[]string{"sync a", "rename a b", "sync ."},
			map[string]string{"b": "new"},
		},
		"a folder comes out of another": {
			func(t *testing.T, dir string) error {
				put(t, filepath.Join(dir, "work/made/member/wal"), "log")
				return Rename(filepath.Join(dir, "work/made"), filepath.Join(dir, "etcd"))
			},
			[]string{"sync work/made", "sync work/made/member", "sync work/made/member/wal", "rename work/made etcd", "sync .", "sync work"},
			map[string]string{"etcd/member/wal": "log"},
		},
		"two folders change places": {
			func(t *testing.T, dir string) error {
				put(t, filepath.Join(dir, "a/key"), "a")
				put(t, filepath.Join(dir, "b/key"), "b")
				return Exchange(filepath.Join(dir, "a"), filepath.Join(dir, "b"))
			},
			[]string{"sync a", "sync a/key", "rename a b", "sync ."},
			map[string]string{"a/key": "b", "b/key": "a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			steps := record(t, dir)
			if err := test.do(t, dir); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(*steps, test.want) {
				t.Errorf("it did %q, want %q", *steps, test.want)
			}
			for file, want := range test.has {
				if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(got) != want {
					t.Errorf("%s holds %q, error %v; want %q", file, got, err, want)
				}
			}
		})
	}
}

func TestWhatIsNotOnTheDiskGetsNoName(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := Write(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	record(t, dir)
	broken := errors.New("input/output error")
	fsync = func(*os.File) error { return broken }
	if err := Write(path, []byte("new")); !errors.Is(err, broken) {
		t.Errorf("the disk failed, and the error is %v", err)
	}
	fsync = func(*os.File) error { return unix.EINVAL } // a file system that cannot
	if _, err := WriteBy(path, func(w io.Writer) error { io.WriteString(w, "half"); return broken }); !errors.Is(err, broken) {
		t.Errorf("who writes failed, and the error is %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "old" {
		t.Errorf("the file holds %q, %v", got, err)
	}
	if size, err := WriteBy(path, func(w io.Writer) error { _, err := io.WriteString(w, "whole"); return err }); size != 5 || err != nil {
		t.Errorf("%d bytes, error %v", size, err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}
