package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"shoal/internal/statefile"
)

// Dump reads all of the store, as it is at one moment. It is for [Restore].
func (s *Store) Dump(ctx context.Context) (io.ReadCloser, error) {
	if s.Role() == RoleExternal {
		return nil, errors.New("the store is an etcd of yours; back it up by its own means, such as etcdctl snapshot save")
	}
	r, err := s.client.Snapshot(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the store: %w", err)
	}
	return r, nil
}

// revisionBump is by how much the revision of a restored store is ahead of the
// snapshot's: by more than a store can have gone on after a backup, so that nobody
// who was connected sees it go back.
const revisionBump = 1e9

// Restore makes a state folder, in which no store is, that of a host which serves
// the store alone, as it is in the snapshot. role is that of the host that the
// snapshot is from: of the cluster's servers it is the first.
func Restore(dir, node, file string, role Role) (err error) {
	if err := checkSocket(dir); err != nil {
		return err
	}
	if !slices.Contains([]Role{RoleAlone, RoleServer, RoleClient}, role) {
		return fmt.Errorf("restore the store: role %q is unknown", role)
	}
	if role == RoleClient {
		role = RoleServer
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the state folder: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer lock.release()
	for _, path := range []string{dataDir(dir), placePath(dir)} {
		if _, err := os.Stat(path); err == nil {
			return fmt.Errorf("%s is there already: move the folder %s away first", path, dir)
		}
	}
	// It becomes the store's by its name, once it is whole. The mark comes first and the
	// place last: by the one without the other it is known that this broke off.
	part := filepath.Join(dir, "etcd.restored")
	if err := restoreSnapshot(file, part, node); err != nil {
		return err
	}
	if err := statefile.Write(restoredPath(dir), nil); err != nil {
		return err
	}
	if err := statefile.Rename(part, dataDir(dir)); err != nil {
		return err
	}
	return place{Role: role}.write(dir)
}

// restoredPath is a file that is there from a restore until the host has found out what
// its store lacks.
func restoredPath(dir string) string { return filepath.Join(dir, "restored") }

// WasRestored tells whether the store in a state folder was restored, and nobody has
// called [ForgetRestored] since.
func WasRestored(dir string) bool {
	_, err := os.Stat(restoredPath(dir))
	return err == nil
}

// ForgetRestored has [WasRestored] be false.
func ForgetRestored(dir string) error {
	if err := os.Remove(restoredPath(dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// restoreSnapshot makes the data folder of an etcd, which is its only member, from a
// snapshot. Its cluster ID, which is made of the token, is one of its own: where one backup is
// restored twice, what was written in between has the same revisions as what comes after, so that hosts would take
// the second store for the first and leave out what it has lost.
func restoreSnapshot(file, to, node string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	const peer = "http://127.0.0.1:2380" // until the agent starts, which knows its address
	if err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: file, Name: node, OutputDataDir: to, PeerURLs: []string{peer}, InitialCluster: node + "=" + peer,
		InitialClusterToken: "shoal-" + rand.Text(), RevisionBump: revisionBump, MarkCompacted: true,
	}); err != nil {
		return errors.Join(fmt.Errorf("restore the store: %w", err), os.RemoveAll(to))
	}
	return os.Chmod(to, 0o700)
}
