package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"

	"shoal/cluster"

	"golang.org/x/sync/errgroup"
)

// memory is a [cluster.Store] for as long as identities are made.
type memory struct {
	mu       sync.Mutex
	revision int64
	values   map[string][]byte
	written  map[string]int64
}

func (m *memory) Get(_ context.Context, key string) ([]byte, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.values[key], m.written[key], nil
}

func (m *memory) List(_ context.Context, prefix string) (map[string][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[string][]byte{}
	for key, value := range m.values {
		if strings.HasPrefix(key, prefix) {
			all[key] = value
		}
	}
	return all, nil
}

func (m *memory) Commit(_ context.Context, unchanged map[string]int64, write map[string][]byte) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, revision := range unchanged {
		if m.written[key] != revision {
			return false, nil
		}
	}
	m.revision++
	for key, value := range write {
		delete(m.values, key)
		delete(m.written, key)
		if value != nil {
			m.values[key], m.written[key] = value, m.revision
		}
	}
	return true, nil
}

func (m *memory) Watch(ctx context.Context, _ string) <-chan struct{} {
	ch := make(chan struct{})
	context.AfterFunc(ctx, func() { close(ch) })
	return ch
}

func identityOf(dir, node string, addr netip.Addr) cluster.Host {
	return cluster.Host{Dir: filepath.Join(dir, node, "cluster"), Node: node, Addr: addr}
}

// makeIdentities makes an identity for each node, all of one cluster.
func makeIdentities(ctx context.Context, dir string, nodes map[string]netip.Addr) error {
	m := &memory{values: map[string][]byte{}, written: map[string]int64{}}
	var work errgroup.Group
	work.SetLimit(16)
	for node, addr := range nodes {
		work.Go(func() error {
			_, err := cluster.JoinByStore(ctx, identityOf(dir, node, addr), m)
			return err
		})
	}
	return work.Wait()
}

// storeTLS is for a host's client of the store. It checks that a server is of the cluster,
// and not for which address its certificate is: the host reaches it by an alias.
func storeTLS(id *cluster.Identity) *tls.Config {
	c := id.ClientTLS()
	c.InsecureSkipVerify = true // VerifyConnection does it, without the name
	revoked := c.VerifyConnection
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errors.New("the server shows no certificate")
		}
		if _, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: c.RootCAs}); err != nil {
			return fmt.Errorf("the server's certificate: %w", err)
		}
		return revoked(s)
	}
	return c
}
