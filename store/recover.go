package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"shoal/internal/statefile"
	"shoal/store/etcd"
)

// Recovery makes a new store on a host of a cluster that has lost its own. Until
// [Recovery.Finish] the host's state folder is as it was, and its agent can
// start as before.
type Recovery struct {
	dir, node string
	lock      *dirLock
	place     place
}

// The folders of a recovery, beside etcd's data.
func workDir(dir string) string    { return filepath.Join(dir, "recovery") }
func madeDir(dir string) string    { return filepath.Join(workDir(dir), "made") }
func oldDataDir(dir string) string { return dataDir(dir) + ".old" }

// BeginRecovery takes the state folder of a host whose agent does not run, until
// [Recovery.Close].
func BeginRecovery(dir, node string) (*Recovery, error) {
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	r := &Recovery{dir: dir, node: node, lock: lock}
	if r.place, err = readPlace(dir); err == nil && !slices.Contains([]Role{RoleClient, RoleServer}, r.place.Role) {
		err = fmt.Errorf("by %s this host uses no store of a cluster: there is nothing to recover", placePath(dir))
	}
	if err != nil {
		lock.release()
		return nil, err
	}
	return r, nil
}

// Servers are the endpoints of the hosts that served the store, but for this one.
func (r *Recovery) Servers() []string { return r.place.Servers }

// Make makes the new store, with what fill writes into it.
func (r *Recovery) Make(ctx context.Context, fill func(context.Context, *etcd.Client) error, log *slog.Logger) error {
	if err := errors.Join(os.RemoveAll(workDir(r.dir)), os.MkdirAll(workDir(r.dir), 0o700)); err != nil {
		return err
	}
	if err := checkSocket(workDir(r.dir)); err != nil {
		return err
	}
	snapshot := filepath.Join(workDir(r.dir), "snapshot")
	if err := r.write(ctx, fill, snapshot, log); err != nil {
		return fmt.Errorf("make the new store: %w", err)
	}
	// Hosts that have not heard of it yet compare its revisions with the former
	// store's: they are to be ahead.
	return restoreSnapshot(snapshot, madeDir(r.dir), r.node)
}

// write runs an etcd for as long as it is filled, and saves what it then holds.
func (r *Recovery) write(ctx context.Context, fill func(context.Context, *etcd.Client) error, snapshot string, log *slog.Logger) error {
	srv, err := startServer(ctx, serverConfig{Dir: workDir(r.dir), Name: r.node}, log)
	if err != nil {
		return err
	}
	defer srv.close()
	client, err := etcd.Dial([]string{srv.endpoint}, nil)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := srv.ready(ctx); err != nil {
		return err
	}
	if err := fill(ctx, client); err != nil {
		return err
	}
	dump, err := client.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer dump.Close()
	f, err := os.OpenFile(snapshot, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, dump)
	return errors.Join(err, f.Close())
}

// Finish makes the new store this host's, which serves it alone. Data of the
// former one are kept beside.
func (r *Recovery) Finish() error {
	if err := setAside(r.dir); err != nil {
		return err
	}
	if err := statefile.Rename(madeDir(r.dir), dataDir(r.dir)); err != nil {
		return err
	}
	if err := (place{Role: RoleServer}).write(r.dir); err != nil {
		return err
	}
	return os.RemoveAll(workDir(r.dir))
}

// setAside keeps the data of an etcd that is given up, in place of those of an
// earlier time. Where there are none, those of an earlier time stay: a recovery that
// broke off may just have put them there.
func setAside(dir string) error {
	if _, err := os.Lstat(dataDir(dir)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := os.RemoveAll(oldDataDir(dir)); err != nil {
		return err
	}
	return statefile.Rename(dataDir(dir), oldDataDir(dir))
}

// Close lets others use the state folder.
func (r *Recovery) Close() error { return r.lock.release() }

// Follow makes a host whose agent does not run a client of the store at these
// endpoints, whatever it was. Data of an etcd of its own are kept beside.
func Follow(dir string, endpoints []string) error {
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer lock.release()
	for _, endpoint := range endpoints {
		if err := checkEndpoint(endpoint); err != nil {
			return err
		}
	}
	if err := (place{Role: RoleClient, Servers: endpoints}).write(dir); err != nil {
		return err
	}
	return setAside(dir)
}
