package agent

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/crypto/bcrypt"

	"shoal/internal/health"
)

// webConfig writes a file that asks for TLS and a password, and returns it with who trusts its certificate.
func webConfig(t *testing.T, password string) (file string, trust *x509.CertPool) {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	crt := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, content := range map[string][]byte{
		"crt": crt, "key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		"web.yaml": fmt.Appendf(nil, "tls_server_config: {cert_file: crt, key_file: key}\nbasic_auth_users: {prometheus: %q}\n", hash),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trust = x509.NewCertPool()
	trust.AppendCertsFromPEM(crt)
	return filepath.Join(dir, "web.yaml"), trust
}

// serveSomeMetrics serves metrics as a file says, and returns at which address, until the test is over.
func serveSomeMetrics(t *testing.T, file string, metrics http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	ready := func() error { return errors.New("not set up yet: lb") }
	go func() {
		served <- serveMetrics(ctx, l, file, metrics, func() error { return nil }, ready, slog.New(slog.NewTextHandler(t.Output(), nil)))
	}()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
	return l.Addr().String()
}

func TestMetricsAreServedToWhoHasThePassword(t *testing.T) {
	file, trust := webConfig(t, "open sesame")
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "shoal_x 1\n") })
	at := serveSomeMetrics(t, file, metrics)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust}, DisableKeepAlives: true}, Timeout: 20 * time.Second}
	for _, test := range []struct {
		scheme, path, password string
		code                   int
		says                   string
	}{
		{"https", "/metrics", "open sesame", 200, "shoal_x 1"},
		{"https", "/metrics", "wrong", 401, ""},
		{"https", "/metrics", "", 401, ""},
		{"https", "/healthz", "open sesame", 200, "ok"},
		{"https", "/readyz", "open sesame", 503, "not set up yet: lb"},
		{"https", "/readyz", "", 401, ""},
		{"https", "/v1/status", "open sesame", 404, ""},
		{"http", "/metrics", "open sesame", 400, ""},
	} {
		req, err := http.NewRequest(http.MethodGet, test.scheme+"://"+at+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if test.password != "" {
			req.SetBasicAuth("prometheus", test.password)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Errorf("%+v: %v", test, err)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != test.code || !strings.Contains(string(body), test.says) {
			t.Errorf("%+v: %d %s", test, resp.StatusCode, body)
		}
	}
}

// dialFrom connects to a server from an address of the loopback, until the test is over.
func dialFrom(t *testing.T, from, at string) net.Conn {
	t.Helper()
	d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// closedSoon fails unless the other end closes a connection within some seconds.
func closedSoon(t *testing.T, what string, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(3 * time.Second)) // no deadline of a server is as short
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: %v, want it closed", what, err)
	}
}

// answerTo is the code of the answer to a request that is sent as it stands, 0 if none comes for some seconds.
func answerTo(t *testing.T, c net.Conn, request string) int {
	t.Helper()
	c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// TestBodiesThatNeverComeDoNotHoldTheMetrics, of which a few are written at a time.
func TestBodiesThatNeverComeDoNotHoldTheMetrics(t *testing.T) {
	a := &Agent{registry: prometheus.NewRegistry(), log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	a.registry.MustRegister(collectors.NewGoCollector()) // more than net/http keeps before it writes
	at := serveSomeMetrics(t, "", a.metricsHandler())
	const request = "GET /metrics HTTP/1.1\r\nHost: x\r\n"
	for _, body := range []string{"Content-Length: 10\r\n\r\n", "Content-Length: 1000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n", "Content-Length: 10\r\nExpect: 100-continue\r\n\r\n"} {
		for range metricsAtOnce {
			if code := answerTo(t, dialFrom(t, "127.0.0.2", at), request+body); code != 413 {
				t.Errorf("a request with a body that does not come (%q): %d, want 413", body, code)
			}
		}
		if code := answerTo(t, dialFrom(t, "127.0.0.3", at), request+"\r\n"); code != 200 {
			t.Fatalf("meanwhile another: %d, want 200", code)
		}
	}
}

// TestOneAddressDoesNotTakeAllRequestsForMetrics, as by reading none of the answers.
func TestOneAddressDoesNotTakeAllRequestsForMetrics(t *testing.T) {
	const request = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
	begun, answer := make(chan string, metricsAtOnce+1), make(chan struct{})
	at := serveSomeMetrics(t, "", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		begun <- r.RemoteAddr
		if strings.HasPrefix(r.RemoteAddr, "127.0.0.2:") {
			<-answer
		}
	}))
	t.Cleanup(func() { close(answer) }) // before the server is waited for
	for range metricsAtOnceEach {
		if _, err := io.WriteString(dialFrom(t, "127.0.0.2", at), request); err != nil {
			t.Fatal(err)
		}
		<-begun
	}
	if code := answerTo(t, dialFrom(t, "127.0.0.2", at), request); code != 503 {
		t.Errorf("one more of an address: %d, want 503", code)
	}
	if code := answerTo(t, dialFrom(t, "127.0.0.3", at), request); code != 200 {
		t.Errorf("meanwhile another address: %d, want 200", code)
	}
}

func TestOneAddressDoesNotTakeAllConnectionsOfTheMetrics(t *testing.T) {
	at := serveSomeMetrics(t, "", http.NotFoundHandler())
	for range metricsConnsEach {
		dialFrom(t, "127.0.0.2", at)
	}
	closedSoon(t, "one connection more from an address", dialFrom(t, "127.0.0.2", at))
	if code := answerTo(t, dialFrom(t, "127.0.0.3", at), "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); code != 200 {
		t.Errorf("meanwhile another address: %d, want 200", code)
	}
}

func TestTheMetricsFileIsChecked(t *testing.T) {
	good, _ := webConfig(t, "x")
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("tls_server_config: {cert_file: none}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ addr, file, says string }{
		{"127.0.0.1:9180", good, ""},
		{"127.0.0.1:9180", "", ""},
		{"127.0.0.1:9180", bad, "--metrics-web-config"},
		{"127.0.0.1:9180", "/does/not/exist", "--metrics-web-config"},
		{"", good, "needs --metrics-addr"},
	} {
		c := Config{MetricsAddr: test.addr, MetricsWebConfig: test.file}
		err, wrong := c.checkMetrics(), (*ConfigError)(nil)
		if test.says == "" && err != nil || test.says != "" && (!errors.As(err, &wrong) || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

func TestAHostIsReadyOnceItsPartsHavePassed(t *testing.T) {
	h := health.New(readyParts...)
	for _, part := range []string{"vip", "lb", "dnsd", "fabric"} {
		h.Met(part)
	}
	if err := notSetUp(h); err == nil || err.Error() != "not set up yet: ingress" {
		t.Errorf("without one: %v", err)
	}
	h.Met("ingress")
	if err := notSetUp(h); err != nil {
		t.Errorf("with all: %v", err)
	}
	if err := stuck(h); err != nil {
		t.Errorf("with no loop: %v", err)
	}
	h.Watch("lb", -time.Second)
	if err := stuck(h); err == nil || !strings.Contains(err.Error(), "lb") {
		t.Errorf("with a loop that makes no progress: %v", err)
	}
}
