package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"shoal/api"
	"shoal/model"
	"shoal/ui"
)

// authority is a CA of the test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key}
	a.cert = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, &key.PublicKey)
	return a
}

func (a *authority) sign(c *x509.Certificate, public any) *x509.Certificate {
	a.t.Helper()
	var err error
	if c.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		a.t.Fatal(err)
	}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent := a.cert
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, public, a.key)
	if err == nil {
		c, err = x509.ParseCertificate(der)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// issue makes a certificate of 127.0.0.1, and of a client.
func (a *authority) issue(name string) *tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, &key.PublicKey)
	return &tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}
}

// write writes a certificate, and its key where there is one, as PEM files.
func write(t *testing.T, certFile, keyFile string, c *tls.Certificate) {
	t.Helper()
	err := os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), 0o600)
	if key, ok := c.PrivateKey.(*ecdsa.PrivateKey); ok {
		der, bad := x509.MarshalECPrivateKey(key)
		err = errors.Join(err, bad, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// served is a page that is served on a port of 127.0.0.1, and of all other addresses where it is not at loopback.
type served struct {
	t    *testing.T
	port int
	*page
}

// servePage serves a page with these settings, and an address that is set by what it is for.
func servePage(t *testing.T, at string, own *tls.Certificate, set func(*Config)) *served {
	t.Helper()
	l, err := net.Listen("tcp", at+":0")
	if err != nil {
		t.Fatal(err)
	}
	c := Config{UIAddr: l.Addr().String(), StateDir: t.TempDir()}
	if a := netip.MustParseAddrPort(c.UIAddr); a.Addr().Is6() { // all addresses
		c.UIAddr = netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port()).String()
	}
	if set != nil {
		set(&c)
	}
	if err := c.checkUI(); err != nil {
		t.Fatal(err)
	}
	p, err := newPage(&c, func() *tls.Certificate { return own })
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- p.serve(ctx, l, ui.Source{
			Snapshot: func() *model.Snapshot { return nil },
			Explain: func(context.Context, string) (*api.Explanation, error) {
				return &api.Explanation{What: "the secret"}, nil
			},
		}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &served{t, l.Addr().(*net.TCPAddr).Port, p}
}

// get asks for data, by http or https. Client is the certificate that is shown, nil: none.
func (s *served) get(scheme, token string, server *authority, client *tls.Certificate) (status int, body string, err error) {
	s.t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(server.cert)
	conf := &tls.Config{RootCAs: roots}
	if client != nil { // whoever's it is: a client would not show one of another CA by itself
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return client, nil }
	}
	c := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, fmt.Sprintf("%s://127.0.0.1:%d/v1/explain?what=x", scheme, s.port), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// TestOffLoopbackThePageIsServedByTLSAlone, with this host's own certificate, to who shows the token.
func TestOffLoopbackThePageIsServedByTLSAlone(t *testing.T) {
	ca := newAuthority(t, "cluster")
	own := ca.issue("a.node.shoal")
	s := servePage(t, "0.0.0.0", own, nil)
	for _, test := range []struct {
		what, scheme, token string
		want                int
	}{
		{"the token", "https", s.token, 200},
		{"no token", "https", "", 401},
		{"another token", "https", strings.Repeat("A", len(s.token)), 401},
		{"plain HTTP", "http", s.token, 400},
	} {
		status, body, err := s.get(test.scheme, test.token, ca, nil)
		if err != nil || status != test.want || strings.Contains(body, "the secret") != (test.want == 200) {
			t.Errorf("%s: %d, %v, %q; want %d", test.what, status, err, body, test.want)
		}
	}
	if _, _, err := s.get("https", s.token, newAuthority(t, "another"), nil); err == nil {
		t.Error("whoever trusts another CA alone takes the page for this host's")
	}
	old := tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11}
	if c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port), &old); err == nil {
		c.Close()
		t.Error("it speaks TLS 1.1")
	}
	if !s.named("127.0.0.1") || s.named("evil.example") {
		t.Error("the names of the certificate are not this host's")
	}
}

// TestAtLoopbackThePageNeedsTheTokenToo: every user of the host connects to it.
func TestAtLoopbackThePageNeedsTheTokenToo(t *testing.T) {
	ca := newAuthority(t, "cluster")
	s := servePage(t, "127.0.0.1", nil, nil)
	for token, want := range map[string]int{s.token: 200, "": 401} {
		if status, body, err := s.get("http", token, ca, nil); err != nil || status != want {
			t.Errorf("token %q: %d, %v, %q; want %d", token, status, err, body, want)
		}
	}
}

// TestClientsShowACertificateInsteadOfTheToken where --ui-client-ca is set: at loopback too, and to no others.
func TestClientsShowACertificateInsteadOfTheToken(t *testing.T) {
	cluster, users := newAuthority(t, "cluster"), newAuthority(t, "users")
	for _, at := range []string{"0.0.0.0", "127.0.0.1"} {
		t.Run(at, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "users.pem")
			write(t, file, "", &tls.Certificate{Certificate: [][]byte{users.cert.Raw}})
			s := servePage(t, at, cluster.issue("a.node.shoal"), func(c *Config) { c.UIClientCA = file })
			if s.token != "" {
				t.Errorf("there is a token too: %q", s.token)
			}
			if status, body, err := s.get("https", "", cluster, users.issue("somebody")); err != nil || status != 200 || !strings.Contains(body, "the secret") {
				t.Errorf("a certificate of that CA: %d, %v, %q", status, err, body)
			}
			for what, client := range map[string]*tls.Certificate{
				"no certificate": nil, "one of the cluster's CA": cluster.issue("b.node.shoal"), "one of itself": newAuthority(t, "users").issue("somebody"),
			} {
				if status, body, err := s.get("https", "", cluster, client); err == nil {
					t.Errorf("%s: %d, %q; want the handshake to fail", what, status, body)
				}
			}
			if status, body, err := s.get("http", "", cluster, nil); err != nil || status != 400 || strings.Contains(body, "the secret") {
				t.Errorf("plain HTTP: %d, %v, %q", status, err, body)
			}
		})
	}
}

// TestThePagesCertificateIsReadAgain: one that was renewed is shown from the next connection on, by the same agent.
func TestThePagesCertificateIsReadAgain(t *testing.T) {
	first, second := newAuthority(t, "first"), newAuthority(t, "second")
	cert, key := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	write(t, cert, key, first.issue("page"))
	s := servePage(t, "127.0.0.1", nil, func(c *Config) { c.UICert, c.UIKey = cert, key })
	if status, _, err := s.get("https", s.token, first, nil); err != nil || status != 200 {
		t.Errorf("with the first certificate: %d, %v", status, err)
	}
	write(t, cert, key, second.issue("page"))
	if status, _, err := s.get("https", s.token, second, nil); err != nil || status != 200 {
		t.Errorf("with the second: %d, %v", status, err)
	}
}

// TestBodiesThatNeverComeDoNotHoldThePage: such requests are refused at once, with a token or without, and their connections closed.
func TestBodiesThatNeverComeDoNotHoldThePage(t *testing.T) {
	s := servePage(t, "127.0.0.1", nil, nil)
	at := fmt.Sprintf("127.0.0.1:%d", s.port)
	for _, request := range []string{
		"GET / HTTP/1.1\r\nContent-Length: 10\r\n",
		"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n",
		"GET /v1/stream HTTP/1.1\r\nTransfer-Encoding: chunked\r\n",
		"GET /v1/explain?what=x HTTP/1.1\r\nContent-Length: 10\r\nAuthorization: Bearer " + s.token + "\r\n",
	} {
		c := dialFrom(t, "127.0.0.2", at)
		if code := answerTo(t, c, request+"Host: 127.0.0.1\r\n\r\n"); code != 413 {
			t.Errorf("%q: %d, want 413", request, code)
		}
		closedSoon(t, request, c)
	}
}

func TestOneAddressDoesNotTakeAllConnectionsOfThePage(t *testing.T) {
	s := servePage(t, "127.0.0.1", nil, nil)
	at := fmt.Sprintf("127.0.0.1:%d", s.port)
	for range uiConnsEach {
		dialFrom(t, "127.0.0.2", at)
	}
	closedSoon(t, "one connection more from an address", dialFrom(t, "127.0.0.2", at))
	if code := answerTo(t, dialFrom(t, "127.0.0.3", at), "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); code != 200 {
		t.Errorf("meanwhile another address: %d, want 200", code)
	}
}
