package agent

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"shoal/api"
	"shoal/internal/connlimit"
	"shoal/model"
	"shoal/ui"
)

// Bounds of the page's server: who has no token costs no more than that.
const (
	uiConns      = 256
	uiConnsEach  = 64       // from one address
	uiHeader     = 16 << 10 // octets
	uiHeaderTime = 5 * time.Second
	uiAnswerTime = time.Minute // the stream sets its own, for each event
	uiIdleTime   = time.Minute
)

// checkUI reports bad settings of the page.
func (c *Config) checkUI() error {
	if c.UIAddr == "" {
		if c.UICert != "" || c.UIKey != "" || c.UIClientCA != "" {
			return badSetting("--ui-cert, --ui-key and --ui-client-ca need --ui-addr: where the page is served")
		}
		return nil
	}
	if a, err := netip.ParseAddrPort(c.UIAddr); err != nil || a.Port() == 0 {
		return badSetting("--ui-addr %q: write it as ADDRESS:PORT, 127.0.0.1:7480 for this host alone", c.UIAddr)
	}
	if (c.UICert == "") != (c.UIKey == "") {
		return badSetting("--ui-cert and --ui-key go together")
	}
	return nil
}

// uiAtLoopback tells whether the page is for this host alone.
func (c *Config) uiAtLoopback() bool {
	a, err := netip.ParseAddrPort(c.UIAddr)
	return err == nil && a.Addr().Unmap().IsLoopback()
}

// page is the page of the cluster, on this host.
type page struct {
	addr  netip.AddrPort
	tls   *tls.Config // nil: it is served without, at a loopback address
	token string      // "": clients show certificates
}

// newPage reads what the page needs; nil: it is not asked for. Own is this host's
// certificate in the cluster.
func newPage(c *Config, own func() *tls.Certificate) (*page, error) {
	if c.UIAddr == "" {
		return nil, nil
	}
	p := &page{addr: netip.MustParseAddrPort(c.UIAddr)}
	var err error
	if !c.uiAtLoopback() || c.UICert != "" || c.UIClientCA != "" {
		if p.tls, err = c.uiTLS(own); err != nil {
			return nil, err
		}
	}
	if c.UIClientCA == "" {
		p.token, err = ui.Token(c.StateDir)
	}
	return p, err
}

// uiTLS is how the page is served off loopback: with the certificate that is set, or
// this host's own in the cluster.
func (c *Config) uiTLS(own func() *tls.Certificate) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own(), nil }}
	if c.UICert != "" {
		if _, err := tls.LoadX509KeyPair(c.UICert, c.UIKey); err != nil {
			return nil, badSetting("--ui-cert, --ui-key: %w", err)
		}
		t.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { // read each time: it may have been renewed
			pair, err := tls.LoadX509KeyPair(c.UICert, c.UIKey)
			return &pair, err
		}
	}
	if c.UIClientCA != "" {
		pem, err := os.ReadFile(c.UIClientCA)
		if err != nil {
			return nil, badSetting("--ui-client-ca: %w", err)
		}
		t.ClientAuth, t.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		if !t.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, badSetting("--ui-client-ca %s: holds no certificate in PEM form", c.UIClientCA)
		}
	}
	return t, nil
}

// named tells whether a name is one of the certificate's.
func (p *page) named(name string) bool {
	leaf, err := p.leaf()
	return err == nil && leaf.VerifyHostname(name) == nil
}

func (p *page) leaf() (*x509.Certificate, error) {
	if p.tls == nil {
		return nil, errors.New("the page is served without TLS")
	}
	pair, err := p.tls.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		return nil, err
	}
	if pair.Leaf != nil {
		return pair.Leaf, nil
	}
	return x509.ParseCertificate(pair.Certificate[0])
}

// serveUI serves the page for as long as ctx lasts.
func (a *Agent) serveUI(ctx context.Context, l net.Listener) error {
	return a.page.serve(ctx, l, ui.Source{
		Snapshot: func() *model.Snapshot { return a.catalog.Snapshot() },
		Status:   a.status, Services: a.services, Tasks: a.tasks, Problems: a.clusterProblems,
		Nodes: a.member.nodes, Traffic: a.traffic, Explain: a.inspect.Explain,
	}, a.log.With("part", "ui"))
}

// serve serves the page of a source for as long as ctx lasts: with TLS, unless it is for
// this host alone.
func (p *page) serve(ctx context.Context, l net.Listener, source ui.Source, log *slog.Logger) error {
	l = connlimit.Listener(l, connlimit.NewPlaces(uiConns, uiConnsEach))
	if p.tls != nil {
		l = tls.NewListener(l, p.tls)
	}
	srv := &http.Server{
		// There is no ReadTimeout, as it would end the stream. So no body may be waited for.
		Handler:           connlimit.NoBody(ui.Handler(source, ui.Options{Token: p.token, Named: p.named, Log: log})),
		ReadHeaderTimeout: uiHeaderTime, WriteTimeout: uiAnswerTime, IdleTimeout: uiIdleTime, MaxHeaderBytes: uiHeader,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug), // who has no token shall not fill the log
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	log.Info("the page of the cluster is served; sudo shoal ui prints its address", "at", p.addr)
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// errNoPage is for who asks where the page is.
var errNoPage = errors.New("this agent serves no page; start it with --ui-addr 127.0.0.1:7480")

// ui is where the page is, with its token.
func (a *Agent) ui() (*api.UI, error) {
	p := a.page
	if p == nil {
		return nil, errNoPage
	}
	at := p.addr
	if at.Addr().IsUnspecified() {
		at = netip.AddrPortFrom(a.config.Advertise, at.Port())
	}
	v := &api.UI{URL: "http://" + at.String() + "/"}
	if p.tls != nil {
		v.URL = "https://" + at.String() + "/"
		leaf, err := p.leaf()
		if err != nil {
			return nil, fmt.Errorf("read the page's certificate: %w", err)
		}
		v.Fingerprint = strings.ToUpper(strings.Join(hexPairs(sha256.Sum256(leaf.Raw)), ":"))
	}
	if p.token != "" {
		v.URL += "#token=" + p.token
	}
	v.Local = at.Addr().IsLoopback()
	return v, nil
}

func hexPairs(b [32]byte) (pairs []string) {
	for _, one := range b {
		pairs = append(pairs, fmt.Sprintf("%02x", one))
	}
	return pairs
}
