package store

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// What hosts go by are the cluster ID and the revision: those of two stores from one backup overlap.
func TestTwoStoresOfOneBackupAreTwoClusters(t *testing.T) {
	t.Parallel()
	s := open(t, "a", shortDir(t))
	if _, err := s.Client().Put(t.Context(), "key", "value"); err != nil {
		t.Fatal(err)
	}
	file := dumped(t, s.Store)
	seen := map[uint64]bool{clusterID(t, s.Store): true}
	for range 2 {
		dir := shortDir(t)
		if err := Restore(dir, "a", file, RoleAlone); err != nil {
			t.Fatal(err)
		}
		restored := open(t, "a", dir)
		if id := clusterID(t, restored.Store); seen[id] {
			t.Errorf("the cluster ID %x is that of another of them", id)
		} else {
			seen[id] = true
		}
	}
}

// TestARestoreThatBrokeOffIsNotTakenForAStore: the mark is there before the data are, and the agent does not start until
// the place is there too.
func TestARestoreThatBrokeOffIsNotTakenForAStore(t *testing.T) {
	t.Parallel()
	file := dumped(t, open(t, "a", shortDir(t)).Store)
	dir := shortDir(t)
	if err := os.Symlink("nowhere", dataDir(dir)); err != nil { // a folder cannot take its name
		t.Fatal(err)
	}
	if err := Restore(dir, "a", file, RoleServer); err == nil {
		t.Error("the data have no name, and there is no error")
	}
	if !WasRestored(dir) {
		t.Error("the data would have been there before the mark")
	}
	if err := os.Remove(dataDir(dir)); err != nil {
		t.Fatal(err)
	}
	for _, join := range [][]string{nil, {"https://10.0.0.1:2379"}} {
		s, err := Open(t.Context(), Options{Node: "a", StateDir: dir, Join: join})
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "broke off") || !strings.Contains(err.Error(), dir) {
			t.Errorf("the agent starts with what a restore left that broke off: %v", err)
		}
	}
	if err := Restore(dir, "a", file, RoleAlone); err != nil { // nothing is in its way yet
		t.Fatal(err)
	}
	open(t, "a", dir)
}

// dumped is a file with all of a store.
func dumped(t *testing.T, s *Store) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "snapshot")
	r, err := s.Dump(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// clusterID is that of a store, in which there is a key.
func clusterID(t *testing.T, s *Store) uint64 {
	t.Helper()
	r, err := s.Client().Get(t.Context(), "key", clientv3.WithLimit(1))
	if err != nil || r.Count != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	return r.Header.ClusterId
}
