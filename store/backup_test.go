package store

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// What hosts go by are the cluster ID and the revision: those of two stores from one backup overlap.
func TestTwoStoresOfOneBackupAreTwoClusters(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "snapshot")
	s := open(t, "a", shortDir(t))
	if _, err := s.Client().Put(t.Context(), "key", "value"); err != nil {
		t.Fatal(err)
	}
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

// clusterID is that of a store, in which there is a key.
func clusterID(t *testing.T, s *Store) uint64 {
	t.Helper()
	r, err := s.Client().Get(t.Context(), "key", clientv3.WithLimit(1))
	if err != nil || r.Count != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	return r.Header.ClusterId
}
