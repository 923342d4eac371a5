package cluster

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"shoal/internal/statefile"
	"shoal/model"
)

// ErrNotJoined says that the folder holds no identity: this host is in no
// cluster yet. [Create] or [Join] makes one.
var ErrNotJoined = errors.New("this host is in no cluster yet")

// Host says which host an identity is for.
type Host struct {
	Dir  string     // root's only, made if it is not there: StateDir/cluster
	Node string     // its name, a DNS label
	Addr netip.Addr // the other hosts reach it by this
	Log  *slog.Logger

	// Settings have to be those of the cluster that it joins, and of those that join by it.
	Settings model.Settings
}

func (h *Host) check() error {
	if err := model.CheckLabel(h.Node); err != nil {
		return fmt.Errorf("node name: %w", err)
	}
	if !usable(h.Addr) {
		return fmt.Errorf("address %s of node %s: other hosts must be able to reach it", h.Addr, h.Node)
	}
	if h.Log == nil {
		h.Log = slog.Default()
	}
	if err := os.MkdirAll(h.Dir, 0o700); err != nil {
		return fmt.Errorf("make the folder for certificates: %w", err)
	}
	return os.Chmod(h.Dir, 0o700)
}

// usable tells whether a host can have the address.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.Is4In6() && a.Zone() == ""
}

// Certificate is this host's own now, with its key. It is renewed from time to time.
func (id *Identity) Certificate() *tls.Certificate { return id.cert.Load() }

// Files are the paths of an identity's PEM files, for servers that want files.
// Renewal replaces Cert and leaves Key and CA as they are.
type Files struct {
	CA   string // the CA's certificate
	Cert string // this host's, followed by the CA's
	Key  string // this host's
	// CRL is the list of revoked serials (DER), signed by this host: for itself.
	CRL string
	// Revoked is the list of removed hosts, for [RevokedBy].
	Revoked string
}

// Identity is this host's membership: its certificate and what it was given
// on joining. Its methods may be called from any goroutine.
type Identity struct {
	host   Host
	now    func() time.Time
	ca     *x509.Certificate
	pool   *x509.CertPool
	caSum  fingerprint
	key    *ecdsa.PrivateKey
	gossip []byte
	client *http.Client

	cert    atomic.Pointer[tls.Certificate]
	caKey   atomic.Pointer[ecdsa.PrivateKey]      // nil: not held
	revoked atomic.Pointer[map[string]revocation] // key of a removed node -> its revocation

	saving sync.Mutex // of files
}

const (
	caFile      = "ca.crt"
	caKeyFile   = "ca.key"
	crlFile     = "revoked.crl"
	certFile    = "node.crt"
	keyFile     = "node.key"
	gossipFile  = "gossip.key"
	revokedFile = "revoked.json"

	gossipKeyBytes = 32
)

// Create makes a new cluster with this host as its first: the CA, a certificate
// and the key of gossip. Where [Restore] left a cluster's, it goes on with them. It
// is refused in a folder that holds an identity.
func Create(h Host) (*Identity, error) { return create(h, time.Now) }

func create(h Host, now func() time.Time) (*Identity, error) {
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("make a cluster: %w", err)
	}
	if joined, _ := Joined(h.Dir); joined {
		return nil, fmt.Errorf("make a cluster: %s already holds the certificate of one; move the folder away to leave that", h.Dir)
	}
	a, gossip, err := restored(h.Dir)
	if err != nil {
		return nil, err
	}
	if a == nil {
		if a, err = newAuthority(now()); err != nil {
			return nil, fmt.Errorf("make the cluster's CA: %w", err)
		}
		gossip = newGossipKey()
	}
	key, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("make this host's key: %w", err)
	}
	cert, err := a.issue(h.Node, h.Addr, &key.PublicKey, now())
	if err != nil {
		return nil, err
	}
	return a.saveFirst(h, cert, key, gossip, now)
}

// Joined tells whether a folder has a host's identity: it has made a cluster, or joined one.
func Joined(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, certFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// saveFirst makes the identity of a host that needed none to admit it.
func (a *authority) saveFirst(h Host, cert *x509.Certificate, key *ecdsa.PrivateKey, gossip []byte, now func() time.Time) (*Identity, error) {
	caPEM, err := keyPEM(a.key)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(removeFiles(h.Dir, crlFile, revokedFile), writeFile(h.Dir, caKeyFile, caPEM)); err != nil {
		return nil, err
	}
	if err := saveIdentity(h.Dir, a.cert, cert, key, gossip); err != nil {
		return nil, err
	}
	return load(h, now)
}

func newGossipKey() []byte {
	key := make([]byte, gossipKeyBytes)
	rand.Read(key) // never fails, see its documentation
	return key
}

// saveIdentity writes the certificate last: with it the identity is whole.
func saveIdentity(dir string, ca, cert *x509.Certificate, key *ecdsa.PrivateKey, gossip []byte) error {
	k, err := keyPEM(key)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{caFile, certPEM(ca)}, {keyFile, k}, {gossipFile, gossip}, {certFile, certPEM(cert, ca)}} {
		if err := writeFile(dir, f.name, f.data); err != nil {
			return err
		}
	}
	return nil
}

// Load reads the identity that [Create] or [Join] left in the folder. Where
// there is none, the error is [ErrNotJoined]. A host that changed its address
// gets a certificate for the new one from [Identity.KeepFresh].
func Load(h Host) (*Identity, error) { return load(h, time.Now) }

func load(h Host, now func() time.Time) (*Identity, error) {
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("read this host's certificate: %w", err)
	}
	read := func(name string) (b []byte, err error) { return os.ReadFile(filepath.Join(h.Dir, name)) }
	var ca, key []byte
	cert, err := read(certFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotJoined
	}
	id := &Identity{host: h, now: now}
	if err == nil {
		ca, err = read(caFile)
	}
	if err == nil {
		key, err = read(keyFile)
	}
	if err == nil {
		id.gossip, err = read(gossipFile)
	}
	if err == nil {
		err = id.parse(cert, ca, key)
	}
	if err != nil {
		return nil, fmt.Errorf("read this host's certificate: %w; if its files in %s are damaged, move the folder away, "+
			"run: shoal node rm %s on another host, and join again with a token", err, h.Dir, h.Node)
	}
	switch caKey, err := read(caKeyFile); {
	case err == nil:
		if err := id.setCAKey(caKey); err != nil {
			return nil, fmt.Errorf("read the CA's key in %s: %w; if other hosts hold it too, remove the file", h.Dir, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if err := id.loadRevoked(); err != nil {
		return nil, err
	}
	transport := &http.Transport{
		TLSClientConfig:     id.ClientTLS(),
		DialContext:         dialFrom(h.Addr).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		IdleConnTimeout:     time.Minute,
	}
	id.client = &http.Client{Transport: transport}
	return id, nil
}

func (id *Identity) parse(certBytes, caBytes, keyBytes []byte) error {
	cert, err := parseCertPEM(certBytes)
	if err != nil {
		return fmt.Errorf("%s: %w", certFile, err)
	}
	if id.ca, err = parseCertPEM(caBytes); err != nil {
		return fmt.Errorf("%s: %w", caFile, err)
	}
	if id.key, err = parseKeyPEM(keyBytes); err != nil {
		return fmt.Errorf("%s: %w", keyFile, err)
	}
	if !id.key.PublicKey.Equal(cert.PublicKey) {
		return errors.New("the certificate is for another key")
	}
	if len(id.gossip) != gossipKeyBytes {
		return fmt.Errorf("%s has %d bytes, not %d", gossipFile, len(id.gossip), gossipKeyBytes)
	}
	if got := cert.Subject.CommonName; got != id.host.Node {
		return fmt.Errorf("this host joined as node %s, not as %s: start it under that name", got, id.host.Node)
	}
	if err := cert.CheckSignatureFrom(id.ca); err != nil {
		return fmt.Errorf("the certificate is not of this CA: %w", err)
	}
	id.caSum = sum(id.ca)
	id.pool = x509.NewCertPool()
	id.pool.AddCert(id.ca)
	id.setCert(cert)
	return nil
}

func (id *Identity) setCert(leaf *x509.Certificate) {
	id.cert.Store(&tls.Certificate{Certificate: [][]byte{leaf.Raw, id.ca.Raw}, PrivateKey: id.key, Leaf: leaf})
}

func (id *Identity) leaf() *x509.Certificate { return id.cert.Load().Leaf }

func (id *Identity) setCAKey(pem []byte) error {
	key, err := parseKeyPEM(pem)
	if err != nil {
		return err
	}
	if !key.PublicKey.Equal(id.ca.PublicKey) {
		return errors.New("it is the key of another CA")
	}
	id.caKey.Store(key)
	return nil
}

// keepCAKey makes this host one that holds the CA's key.
func (id *Identity) keepCAKey(pem []byte) error {
	id.saving.Lock()
	defer id.saving.Unlock()
	if err := id.setCAKey(pem); err != nil {
		return err
	}
	return writeFile(id.host.Dir, caKeyFile, pem)
}

// authority is the CA if this host holds its key, else nil.
func (id *Identity) authority() *authority {
	if key := id.caKey.Load(); key != nil {
		return &authority{id.ca, key}
	}
	return nil
}

// HoldsCA tells whether this host can admit others and renew certificates.
func (id *Identity) HoldsCA() bool { return id.caKey.Load() != nil }

// DropCA deletes this host's copy of the CA's key, for one that stops serving
// the store. Another host must hold it; that is the caller's to know.
func (id *Identity) DropCA() error {
	id.saving.Lock()
	defer id.saving.Unlock()
	if err := removeFiles(id.host.Dir, caKeyFile); err != nil {
		return err
	}
	id.caKey.Store(nil)
	return nil
}

// Node is this host's name, as its certificate has it.
func (id *Identity) Node() string { return id.host.Node }

// Key names this host's identity: the SHA-256 of its public key, in hex.
func (id *Identity) Key() string { return keyOf(id.leaf()) }

// CAFingerprint is the SHA-256 of the CA's certificate, in hex.
func (id *Identity) CAFingerprint() string { return id.caSum.String() }

// Expires is when this host's certificate ends.
func (id *Identity) Expires() time.Time { return id.leaf().NotAfter }

// RenewalDue is when this host's certificate has to be renewed, which is tried from then on.
// One that ends with the CA's is not renewed before: no later one is to be had.
func (id *Identity) RenewalDue() time.Time {
	ends := id.Expires()
	if !ends.Before(id.ca.NotAfter) {
		return ends
	}
	return ends.Add(-renewBefore)
}

// CAExpires is when the certificate of the cluster's CA ends.
func (id *Identity) CAExpires() time.Time { return id.ca.NotAfter }

// Ended tells that this host's certificate has ended, so that no other host lets
// it in, and that it cannot make itself a new one, as a host with the CA's key can.
func (id *Identity) Ended() bool { return !id.HoldsCA() && !id.now().Before(id.Expires()) }

// GossipKey is the 32 bytes that gossip is encrypted with.
func (id *Identity) GossipKey() []byte { return id.gossip }

// Files are the paths of the identity's files.
func (id *Identity) Files() Files {
	path := func(name string) string { return filepath.Join(id.host.Dir, name) }
	return Files{CA: path(caFile), Cert: path(certFile), Key: path(keyFile), CRL: path(crlFile), Revoked: path(revokedFile)}
}

// HTTPClient speaks HTTPS to other hosts of the cluster, by mutual TLS and from
// this host's own address. A request takes as long as its context lasts.
func (id *Identity) HTTPClient() *http.Client { return id.client }

// ServerTLS is for servers to which only hosts of the cluster may speak. It
// follows renewals and removals while it is in use. TLS 1.3 only.
func (id *Identity) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion:       tls.VersionTLS13,
		Time:             id.now,
		GetCertificate:   func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.cert.Load(), nil },
		ClientAuth:       tls.RequireAndVerifyClientCert,
		ClientCAs:        id.pool,
		VerifyConnection: id.verify,
	}
}

// ClientTLS is for clients of such servers. The server's certificate has to be
// for the address that was dialled; see [ServerName] to mean a host by name.
func (id *Identity) ClientTLS() *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		Time:                 id.now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.cert.Load(), nil },
		RootCAs:              id.pool,
		VerifyConnection:     id.verify,
	}
}

// verify refuses removed hosts. It is VerifyConnection because that one is
// called on resumed sessions as well (crypto/tls.Config).
func (id *Identity) verify(s tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return nil
	}
	return id.CheckRevoked(s.PeerCertificates[0])
}

// dialFrom connects from a host's own address: the one that its certificate
// is for, on a host that has several.
func dialFrom(a netip.Addr) *net.Dialer {
	return &net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: a.AsSlice()}}
}

func writeFile(dir, name string, data []byte) error {
	path := filepath.Join(dir, name)
	if err := statefile.Write(path, data); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func removeFiles(dir string, names ...string) error {
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
