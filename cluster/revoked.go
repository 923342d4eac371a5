package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// CheckRevoked tells why a certificate of the cluster is not good any more; nil:
// its host was not removed. It is quick: for each request of a server.
func (id *Identity) CheckRevoked(cert *x509.Certificate) error {
	return why(*id.revoked.Load(), cert)
}

// RevokedBy makes of a file that [Identity.Files] names what tells, in another
// process, why a certificate is not good any more, as [Identity.CheckRevoked] does
// in this one. It is quick, and takes up changes of the file at once.
func RevokedBy(file string) func(*x509.Certificate) error {
	var mu sync.Mutex
	var read fs.FileInfo // what keys is of
	keys := map[string]revocation{}
	return func(cert *x509.Certificate) error {
		mu.Lock()
		defer mu.Unlock()
		// Each version is a file of its own, put in the place of the former.
		if now, err := os.Stat(file); err == nil && (read == nil || !os.SameFile(now, read) || !now.ModTime().Equal(read.ModTime())) {
			fresh := map[string]revocation{}
			b, err := os.ReadFile(file)
			if err == nil {
				err = json.Unmarshal(b, &fresh)
			}
			if err != nil {
				return fmt.Errorf("read the list of removed hosts: %w", err)
			}
			read, keys = now, fresh
		}
		return why(keys, cert)
	}
}

// why tells why a certificate is not good any more.
func why(revoked map[string]revocation, cert *x509.Certificate) error {
	if r, ok := revoked[keyOf(cert)]; ok {
		return fmt.Errorf("node %s was removed from the cluster on %s", r.Node, r.Removed.Format(time.DateTime))
	}
	return nil
}

// WatchRemoved follows the removal of hosts until ctx ends: connections with
// them are refused from then on. (Those already open are not closed: the
// handlers of [Server], and etcd by [Identity.CheckRevoked], check each request
// on them.) What was heard last is kept on disk, and goes for as long as the
// store is away.
func (id *Identity) WatchRemoved(ctx context.Context, r *Registry) {
	r.follow(ctx, revokedRoot, func() error {
		revoked, err := r.revoked(ctx)
		if err == nil {
			lost := id.addLost(revoked)
			err = errors.Join(id.setRevoked(revoked), r.revokeAgain(ctx, lost))
		}
		if err != nil && ctx.Err() == nil {
			id.host.Log.Warn("the list of removed hosts may be old", "error", err)
		}
		return err
	})
}

// addLost adds what this host knows to be revoked and the store does not have, and
// returns it: a removal is taken back by nobody, but the store may have been put back to
// a state from before it.
func (id *Identity) addLost(revoked map[string]revocation) (lost map[string]revocation) {
	lost = map[string]revocation{}
	for key, r := range *id.revoked.Load() {
		if _, has := revoked[key]; !has && id.now().Before(r.ends()) {
			lost[key], revoked[key] = r, r
		}
	}
	return lost
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
	if err := id.writeCRL(); err != nil {
		if _, there := os.Stat(filepath.Join(id.host.Dir, crlFile)); there != nil {
			return err
		}
		// That of the last run says the same.
		id.host.Log.Warn("the list of revoked certificates is not written anew", "error", err)
	}
	return nil
}

// writeCRL writes the CRL file, for this host's own etcd, which checks
// certificates by such a list. It takes the list for what it is, without asking
// who signed it; so it is there on every host, whoever holds the CA's key, and
// has been when a host comes to serve the store.
func (id *Identity) writeCRL() error {
	der, err := newCRL(*id.revoked.Load(), id.key, id.now())
	if err != nil {
		return fmt.Errorf("sign the list of revoked certificates: %w", err)
	}
	return writeFile(id.host.Dir, crlFile, der)
}

// newCRL lists the certificates of removed hosts, signed by a host's own key.
func newCRL(revoked map[string]revocation, key *ecdsa.PrivateKey, now time.Time) ([]byte, error) {
	list := &x509.RevocationList{Number: big.NewInt(now.Unix()), ThisUpdate: now.Add(-skew), NextUpdate: now.Add(caLife)}
	for _, r := range revoked {
		for _, c := range r.Certs {
			if n, ok := new(big.Int).SetString(c.Serial, 16); ok {
				list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
					x509.RevocationListEntry{SerialNumber: n, RevocationTime: r.Removed})
			}
		}
	}
	name, err := publicKeyID(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: name}, SubjectKeyId: []byte(name), KeyUsage: x509.KeyUsageCRLSign}
	return x509.CreateRevocationList(rand.Reader, list, issuer, key)
}
