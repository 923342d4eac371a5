package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/exporter-toolkit/web"

	"shoal/api"
	"shoal/internal/connlimit"
)

// Bounds of the server of the metrics: who has no password costs no more than that.
const (
	metricsAtOnce     = 4 // requests for metrics
	metricsAtOnceEach = 3 // from one address, which may read the answers slowly
	metricsConns      = 256
	metricsConnsEach  = 16               // from one address
	metricsReadTime   = 10 * time.Second // for a request, with a body that is refused
)

// checkMetrics checks the address of the metrics, and the file that says who may
// read them there.
func (c *Config) checkMetrics() error {
	if c.MetricsAddr != "" {
		if _, _, err := net.SplitHostPort(c.MetricsAddr); err != nil {
			return badSetting("--metrics-addr: %w; write it as ADDR:PORT", err)
		}
	}
	if c.MetricsWebConfig == "" {
		return nil
	}
	if c.MetricsAddr == "" {
		return badSetting("--metrics-web-config needs --metrics-addr: the socket is root's alone")
	}
	if err := web.Validate(c.MetricsWebConfig); err != nil {
		return badSetting("--metrics-web-config: %w", err)
	}
	return nil
}

func (a *Agent) metricsHandler() http.Handler {
	return promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.ContinueOnError, // what can be told is
		ErrorLog:            slog.NewLogLogger(a.log.With("part", "metrics").Handler(), slog.LevelWarn),
		MaxRequestsInFlight: metricsAtOnce,
	})
}

// serveMetrics serves the metrics, and how the agent is, on an address of the
// host, to whom a file of the Prometheus exporter toolkit says ("": to all who
// reach the address), until ctx ends. The file is read anew with each connection.
func serveMetrics(ctx context.Context, l net.Listener, file string, metrics http.Handler, alive, ready func() error, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", connlimit.Requests(metrics, connlimit.NewPlaces(metricsAtOnce, metricsAtOnceEach)))
	api.HandleHealth(mux, alive, ready)
	srv := &http.Server{
		Handler:           connlimit.NoBody(mux),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       metricsReadTime,
		WriteTimeout:      time.Minute,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // strangers' broken handshakes
	}
	stop := context.AfterFunc(ctx, func() {
		bounded, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = srv.Shutdown(bounded)
	})
	defer stop()
	l = connlimit.Listener(l, connlimit.NewPlaces(metricsConns, metricsConnsEach))
	if err := web.Serve(l, srv, &web.FlagConfig{WebConfigFile: &file}, log); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
