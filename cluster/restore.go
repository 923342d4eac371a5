package cluster

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// backedUp are the files of an identity that a backup has: the cluster's, which
// [Create] goes on with where it finds them, and this host's own.
var backedUp = []string{caFile, caKeyFile, gossipFile, keyFile, certFile}

// Secrets are the files of this host's identity, by name, for [Restore]. Of a host
// that does not hold the CA's key, it is an error.
func (id *Identity) Secrets() (map[string][]byte, error) {
	if !id.HoldsCA() {
		return nil, errors.New("this host does not hold the key of the cluster's CA: make the backup on one that serves the store (shoal nodes)")
	}
	files := map[string][]byte{}
	for _, name := range backedUp {
		b, err := os.ReadFile(filepath.Join(id.host.Dir, name))
		if err != nil {
			return nil, fmt.Errorf("read this host's certificate: %w", err)
		}
		files[name] = b
	}
	return files, nil
}

// Restore makes the identity of a host from [Identity.Secrets] in a folder that has
// none. same tells that it is the host that they are from; another becomes a host
// of that cluster by [Create], under a key of its own.
func Restore(dir string, files map[string][]byte, same bool) error {
	if _, err := os.Stat(filepath.Join(dir, certFile)); err == nil {
		return fmt.Errorf("%s already holds the certificate of a cluster; move the folder away first", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("restore the cluster's CA: %w", err)
	}
	for _, name := range backedUp { // the certificate after the key: with it the identity is whole
		b, ok := files[name]
		if !ok {
			return fmt.Errorf("restore the cluster's CA: the backup has no %s", name)
		}
		if !same && slices.Contains([]string{certFile, keyFile}, name) {
			continue
		}
		if err := writeFile(dir, name, b); err != nil {
			return fmt.Errorf("restore the cluster's CA: %w", err)
		}
	}
	return nil
}

// restored is the CA that [Restore] left in a folder, and the key of gossip; nil if
// it did not.
func restored(dir string) (*authority, []byte, error) {
	var parts [3][]byte
	for i, name := range []string{caFile, caKeyFile, gossipFile} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, nil
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read the cluster's CA: %w", err)
		}
		parts[i] = b
	}
	cert, err := parseCertPEM(parts[0])
	var key *ecdsa.PrivateKey
	if err == nil {
		key, err = parseKeyPEM(parts[1])
	}
	if err == nil && !key.PublicKey.Equal(cert.PublicKey) {
		err = fmt.Errorf("%s is the key of another CA than %s", caKeyFile, caFile)
	}
	if err == nil && len(parts[2]) != gossipKeyBytes {
		err = fmt.Errorf("%s has %d bytes, not %d", gossipFile, len(parts[2]), gossipKeyBytes)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the cluster's CA in %s: %w; move the folder away to make a new cluster", dir, err)
	}
	return &authority{cert, key}, parts[2], nil
}
