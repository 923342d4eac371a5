package cluster

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

func (id *Identity) checkRevoked(cert *x509.Certificate) error {
	if r, ok := (*id.revoked.Load())[keyOf(cert)]; ok {
		return fmt.Errorf("node %s was removed from the cluster on %s", r.Node, r.Removed.Format(time.DateTime))
	}
	return nil
}

// Revoked tells whether this host itself was removed from the cluster.
func (id *Identity) Revoked() bool { return id.checkRevoked(id.leaf()) != nil }

// WatchRemoved follows the removal of hosts until ctx ends: connections with
// them are refused from then on. (Those already open are not closed; the
// handlers of [Server] check each request.) What was heard last is kept on
// disk, and goes for as long as the store is away.
func (id *Identity) WatchRemoved(ctx context.Context, r *Registry) {
	changed := r.store.Watch(ctx, revokedRoot)
	for {
		revoked, err := r.revoked(ctx)
		if err == nil {
			err = id.setRevoked(revoked)
		}
		var retry <-chan time.Time
		if err != nil && ctx.Err() == nil {
			id.host.Log.Warn("the list of removed hosts may be old", "err", err)
			retry = time.After(5 * time.Second)
		}
		select {
		case <-ctx.Done():
			return
		case <-retry:
		case _, ok := <-changed:
			if !ok {
				return
			}
		}
	}
}

func (id *Identity) setRevoked(revoked map[string]revocation) error {
	before := *id.revoked.Load()
	for key, r := range revoked {
		if _, known := before[key]; !known {
			id.host.Log.Info("a host was removed from the cluster; its certificate is refused", "node", r.Node)
		}
	}
	id.revoked.Store(&revoked)
	id.saving.Lock()
	defer id.saving.Unlock()
	if err := writeFile(id.host.Dir, revokedFile, encode(revoked)); err != nil {
		return err
	}
	return id.writeCRL()
}

func (id *Identity) loadRevoked() error {
	revoked := map[string]revocation{}
	path := filepath.Join(id.host.Dir, revokedFile)
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &revoked)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the list of removed hosts: %w; remove %s, it is fetched anew", err, path)
	}
	id.revoked.Store(&revoked)
	return id.writeCRL()
}

// writeCRL writes the CRL file, if this host can sign one.
func (id *Identity) writeCRL() error {
	a := id.authority()
	if a == nil {
		return nil
	}
	var serials []*big.Int
	for _, r := range *id.revoked.Load() {
		for _, c := range r.Certs {
			if n, ok := new(big.Int).SetString(c.Serial, 16); ok {
				serials = append(serials, n)
			}
		}
	}
	der, err := a.crl(serials, id.now())
	if err != nil {
		return fmt.Errorf("sign the list of revoked certificates: %w", err)
	}
	return writeFile(id.host.Dir, crlFile, der)
}
