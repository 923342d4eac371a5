package store

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStateFolderInUse(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	open(t, "a", dir)
	_, err := Open(t.Context(), Options{Node: "a", StateDir: dir})
	if err == nil || !strings.Contains(err.Error(), "in use by another agent") {
		t.Errorf("got %v", err)
	}
}

func TestDamagedEtcdDataIsAClearError(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	a := open(t, "a", dir)
	a.SetLocal(local(ctr("a", "1", "10.0.0.1")))
	settled(t, a)
	a.Close()
	wals, err := filepath.Glob(filepath.Join(dir, "etcd/member/wal/*.wal"))
	if err != nil || len(wals) == 0 {
		t.Fatal(wals, err)
	}
	f, err := os.OpenFile(wals[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xff}, 4096), 100); err != nil {
		t.Fatal(err)
	}
	f.Close()
	s, err := Open(t.Context(), Options{Node: "a", StateDir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Down(); err == nil || !strings.Contains(err.Error(), "shoal store restore") {
		t.Errorf("got %v", err)
	}
}

func TestNodeNamesThatCannotBeKeys(t *testing.T) {
	for _, name := range []string{"", "a/b", "a b", strings.Repeat("x", 254)} {
		if _, err := Open(t.Context(), Options{Node: name, StateDir: t.TempDir()}); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
}
