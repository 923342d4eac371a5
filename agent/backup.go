package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"shoal/backup"
	"shoal/cluster"
	"shoal/store"
)

// backup writes all that it takes to go on with the cluster on another host: the
// store, and the key of the CA.
func (a *Agent) backup(ctx context.Context, w io.Writer) error {
	dump, err := a.store.Dump(ctx)
	if err != nil {
		return err
	}
	defer dump.Close()
	files, err := a.member.id.Secrets()
	if err != nil {
		return err
	}
	return backup.Write(w, backup.Manifest{
		Version: a.version, Node: a.config.Node, Created: time.Now().UTC().Truncate(time.Second), Role: string(a.store.Role()),
	}, files, dump)
}

// Restore makes of a backup the state folder of a host, in which no store and no
// identity may be: its agent then starts with the cluster's store, the only one
// that serves it. It is the host of that name again if the backup is of one, else a
// further one.
func Restore(c Config, r io.Reader) (m backup.Manifest, err error) {
	if err := c.Check(); err != nil {
		return m, err
	}
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return m, fmt.Errorf("make the state folder: %w", err)
	}
	snapshot, err := os.CreateTemp(c.StateDir, "snapshot-*.part")
	if err != nil {
		return m, fmt.Errorf("restore: %w", err)
	}
	defer os.Remove(snapshot.Name())
	m, files, err := backup.Read(r, snapshot)
	if err = errors.Join(err, snapshot.Close()); err != nil {
		return m, err
	}
	identity := filepath.Join(c.StateDir, identityFolder)
	if _, err := os.Stat(identity); err == nil {
		return m, fmt.Errorf("%s is there already: move the folder %s away first", identity, c.StateDir)
	}
	if err := store.Restore(c.StateDir, c.Node, snapshot.Name(), store.Role(m.Role)); err != nil {
		return m, err
	}
	return m, cluster.Restore(identity, files, m.Node == c.Node)
}
