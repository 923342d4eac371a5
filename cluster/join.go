package cluster

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"shoal/internal/connlimit"
	"shoal/model"
)

// joinRequest is the body of POST /v1/join.
type joinRequest struct {
	Node   string     `json:"node"`
	Addr   netip.Addr `json:"addr"`
	CSR    []byte     `json:"csr"`    // DER
	Secret []byte     `json:"secret"` // of the token

	Settings model.Settings `json:"settings,omitempty"`
}

type joinResponse struct {
	Welcome
	Cert   []byte `json:"cert"` // DER
	CA     []byte `json:"ca"`   // DER
	Gossip []byte `json:"gossip"`
}

// decodeJoin reads and checks all of a request that can be checked without the
// store.
func decodeJoin(body []byte) (q joinRequest, s secret, pub *ecdsa.PublicKey, err error) {
	if err := json.Unmarshal(body, &q); err != nil {
		return q, s, nil, fmt.Errorf("the request is no JSON as expected: %w", err)
	}
	if len(q.Secret) != secretBytes {
		return q, s, nil, errors.New("the request holds no token's secret")
	}
	copy(s[:], q.Secret)
	if err := model.CheckLabel(q.Node); err != nil {
		return q, s, nil, fmt.Errorf("node name: %w", err)
	}
	if !usable(q.Addr) {
		return q, s, nil, fmt.Errorf("address %s is none that a host can be reached by", q.Addr)
	}
	pub, err = parseCSR(q.CSR)
	return q, s, pub, err
}

// join admits a host. A refused one learns whether its request, or its name,
// was at fault; of its token it learns only that it was refused.
func (s *Server) join(w http.ResponseWriter, r *http.Request) {
	from := connlimit.Remote(r.RemoteAddr)
	if ok, first := s.guesses.allow(from); !ok {
		if first {
			s.log.Warn("too many join requests: refusing more for now", "from", from)
		}
		w.Header().Set("Retry-After", "10")
		respond(w, http.StatusTooManyRequests, refusal{Error: "too many tries from your address; wait a little"})
		return
	}
	body, err := readBody(w, r)
	if err != nil {
		s.refuse(w, r, http.StatusBadRequest, "the request is too long or incomplete", err)
		return
	}
	q, secret, pub, err := decodeJoin(body)
	if err != nil {
		s.refuse(w, r, http.StatusBadRequest, err.Error(), nil)
		return
	}
	log := []any{"node", q.Node, "token", tokenID(secret.hash())}
	// The certificate will say that this address is the host's. That it can be
	// spoken from is the proof, and shows that the hosts reach each other by it.
	if q.Addr != from {
		s.refuse(w, r, http.StatusForbidden, fmt.Sprintf(
			"the request came from %s, and says that the host's address is %s: if %[1]s is right, name it with --advertise", from, q.Addr), nil, log...)
		return
	}
	answer, err := s.admit(w, r, q, secret, pub)
	taken, differ := new(addrTakenError), new(model.SettingsError)
	switch {
	case answer != nil:
		s.guesses.giveBack(from)
		s.log.Info("a host joined", append(log, "addr", q.Addr)...)
		respond(w, http.StatusOK, answer)
	case err == nil: // answered
	case errors.Is(err, errTokenUnknown), errors.Is(err, errTokenExpired), errors.Is(err, errTokenSpent):
		s.refuse(w, r, http.StatusForbidden, "the token was refused: it is wrong, expired or used up; make another with: shoal token create", err, log...)
	case errors.Is(err, ErrNameTaken):
		s.refuse(w, r, http.StatusConflict, fmt.Sprintf(
			"the name %s is another host's; use another with --node, or, if that host is gone for good, run: shoal node rm %[1]s", q.Node), err, log...)
	case errors.As(err, &taken):
		s.refuse(w, r, http.StatusConflict, fmt.Sprintf(
			"the address %s is that of host %s already; join from another with --advertise, or, if that host is gone for good, run: shoal node rm %[2]s",
			taken.addr, taken.node), err, log...)
	case errors.As(err, &differ):
		s.refuse(w, r, http.StatusUnprocessableEntity, differ.Error(), nil, log...)
	case errors.Is(err, errKeyRevoked):
		s.refuse(w, r, http.StatusGone, "the host was removed from the cluster; it needs a new key to come back", err, log...)
	default:
		s.fail(w, r, err)
	}
}

// admit returns neither an answer nor an error if the request was answered.
func (s *Server) admit(w http.ResponseWriter, r *http.Request, q joinRequest, secret secret, pub *ecdsa.PublicKey) (*joinResponse, error) {
	key, err := publicKeyID(pub)
	if err != nil {
		return nil, err
	}
	member := Member{Node: q.Node, Addr: q.Addr, Key: key}
	// Only for one that may join the cluster is opened, and only it is told which
	// hosts there are.
	if _, err := s.o.Registry.examine(r.Context(), secret, member); err != nil {
		return nil, err
	}
	if err := s.id.host.Settings.Agree(q.Settings, s.id.Node(), q.Node); err != nil {
		return nil, err
	}
	if s.o.Open != nil {
		if err := s.o.Open(r.Context()); err != nil {
			return nil, err
		}
	}
	a := s.canIssue(w, r)
	if a == nil {
		return nil, nil
	}
	cert, err := a.issue(q.Node, q.Addr, pub, s.id.now())
	if err != nil {
		return nil, err
	}
	if err := s.o.Registry.admit(r.Context(), secret, member, cert); err != nil {
		return nil, err
	}
	welcome, err := s.newWelcome(r.Context(), q.Node)
	if err != nil {
		return nil, err
	}
	return &joinResponse{Welcome: welcome, Cert: cert.Raw, CA: a.cert.Raw, Gossip: s.id.gossip}, nil
}

// Join makes this host a member of the cluster that a token is for, through the
// server at an address of one of its hosts. The cluster is known by the
// fingerprint in the token, before anything is said to it. If the answer is
// lost, Join can be called again: the key that was admitted is kept. A host
// whose certificate ended, or that was removed, comes back by a new token. Where a setting
// of the host is not the cluster's, the error is [ErrSettings].
func Join(ctx context.Context, h Host, server netip.AddrPort, token string) (*Identity, *Welcome, error) {
	return join(ctx, h, server, token, time.Now)
}

func join(ctx context.Context, h Host, server netip.AddrPort, token string, now func() time.Time) (*Identity, *Welcome, error) {
	fail := func(err error) (*Identity, *Welcome, error) {
		return nil, nil, fmt.Errorf("join the cluster at %s as %s: %w", server, h.Node, err)
	}
	if err := h.check(); err != nil {
		return fail(err)
	}
	ca, secret, err := parseToken(token)
	if err != nil {
		return fail(err)
	}
	if err := sameCluster(h.Dir, ca); err != nil {
		return fail(err)
	}
	key, err := keptKey(h.Dir)
	if err != nil {
		return fail(err)
	}
	answer, err := askToJoin(ctx, h, server, ca, secret, key, now)
	if gone := (*remoteError)(nil); errors.As(err, &gone) && gone.code == http.StatusGone {
		if err := removeFiles(h.Dir, certFile, keyFile, revokedFile); err != nil {
			return fail(err)
		}
		if key, err = keptKey(h.Dir); err != nil {
			return fail(err)
		}
		answer, err = askToJoin(ctx, h, server, ca, secret, key, now)
	}
	if err != nil {
		return fail(err)
	}
	caCert, cert, err := answer.check(ca, key, h.Node)
	if err != nil {
		return fail(err)
	}
	if err := saveIdentity(h.Dir, caCert, cert, key, answer.Gossip); err != nil {
		return fail(err)
	}
	id, err := load(h, now)
	if err != nil {
		return fail(err)
	}
	return id, &answer.Welcome, nil
}

// sameCluster refuses to mix two clusters in one folder.
func sameCluster(dir string, ca fingerprint) error {
	b, err := os.ReadFile(filepath.Join(dir, caFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if cert, err := parseCertPEM(b); err != nil || sum(cert) != ca {
		return fmt.Errorf("this host is in another cluster than the one the token is for; to leave that one, move %s away", dir)
	}
	return nil
}

// keptKey is the host's key, made if there is none.
func keptKey(dir string) (*ecdsa.PrivateKey, error) {
	b, err := os.ReadFile(filepath.Join(dir, keyFile))
	if err == nil {
		return parseKeyPEM(b)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	if b, err = keyPEM(key); err != nil {
		return nil, err
	}
	return key, writeFile(dir, keyFile, b)
}

// askToJoin asks the server, then those it points to.
func askToJoin(ctx context.Context, h Host, server netip.AddrPort, ca fingerprint, s secret, key *ecdsa.PrivateKey, now func() time.Time) (*joinResponse, error) {
	csr, err := newCSR(key)
	if err != nil {
		return nil, err
	}
	body := encode(joinRequest{Node: h.Node, Addr: h.Addr, CSR: csr, Secret: s[:], Settings: h.Settings})
	ask := func(server netip.AddrPort) (*joinResponse, error) {
		transport := &http.Transport{
			DialContext:       dialFrom(h.Addr).DialContext,
			DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{
				MinVersion: tls.VersionTLS13,
				// Not by a CA already known: by the fingerprint.
				InsecureSkipVerify: true,
				VerifyConnection: func(st tls.ConnectionState) error {
					return checkPinned(st.PeerCertificates, ca, server.Addr(), now())
				},
			},
		}
		client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
		answer := new(joinResponse)
		return answer, call(ctx, client, http.MethodPost, server, "/v1/join", body, answer)
	}
	answer, err := ask(server)
	if refused := (*remoteError)(nil); errors.As(err, &refused) {
		for _, other := range refused.try {
			if answer, err = ask(other); err == nil {
				break
			}
		}
	}
	return answer, err
}

// checkPinned checks a server's certificates by the fingerprint of its CA, and
// that its own is for the address that was dialled.
func checkPinned(certs []*x509.Certificate, ca fingerprint, addr netip.Addr, now time.Time) error {
	for _, c := range certs[1:] {
		if sum(c) != ca {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(c)
		_, err := certs[0].Verify(x509.VerifyOptions{
			Roots:       roots,
			DNSName:     addr.String(),
			CurrentTime: now,
			KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
		if wrong := (x509.HostnameError{}); errors.As(err, &wrong) {
			return fmt.Errorf("the host that answers belongs to the cluster, but calls itself %s, not %s: join by its own address",
				certs[0].IPAddresses, addr)
		}
		return err
	}
	return fmt.Errorf("the host at %s is not of the cluster that the token is for (its CA has another fingerprint): "+
		"is the address right, and the token of this cluster? If both are, someone sits in between. Nothing was told to it", addr)
}

// check makes sure that the answer is worth saving.
func (a *joinResponse) check(ca fingerprint, key *ecdsa.PrivateKey, node string) (caCert, cert *x509.Certificate, err error) {
	if caCert, err = x509.ParseCertificate(a.CA); err != nil || sum(caCert) != ca {
		return nil, nil, fmt.Errorf("the answer's CA is not the token's")
	}
	cert, err = x509.ParseCertificate(a.Cert)
	if err == nil {
		err = checkIssued(cert, caCert, key, node)
	}
	if err == nil && len(a.Gossip) != gossipKeyBytes {
		err = fmt.Errorf("the key of gossip has %d bytes, not %d", len(a.Gossip), gossipKeyBytes)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the answer is of no use: %w", err)
	}
	return caCert, cert, nil
}

func checkIssued(cert, ca *x509.Certificate, key *ecdsa.PrivateKey, node string) error {
	if err := cert.CheckSignatureFrom(ca); err != nil {
		return err
	}
	if !key.PublicKey.Equal(cert.PublicKey) || cert.Subject.CommonName != node {
		return errors.New("the certificate is for another host")
	}
	return nil
}

// remoteError is a refusal as the one refused sees it.
type remoteError struct {
	code int
	text string
	try  []netip.AddrPort
}

func (e *remoteError) Error() string { return e.text }

// Is tells whether the refusal was for settings: [ErrSettings].
func (e *remoteError) Is(target error) bool {
	return target == ErrSettings && e.code == http.StatusUnprocessableEntity
}

// ErrSettings says that a host was refused as its settings are not the cluster's.
var ErrSettings = errors.New("settings differ from the cluster's")

// call makes a request of another host's server and decodes its answer.
func call(ctx context.Context, c *http.Client, method string, server netip.AddrPort, path string, body []byte, answer any) error {
	r, err := http.NewRequestWithContext(ctx, method, "https://"+server.String()+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	in := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, 1<<20))
	if resp.StatusCode == http.StatusOK {
		return in.Decode(answer)
	}
	var no refusal
	if err := in.Decode(&no); err != nil || no.Error == "" {
		no.Error = resp.Status
	}
	return &remoteError{resp.StatusCode, no.Error, no.Try}
}
