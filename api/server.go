package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// DefaultRunDir is the folder of the socket where no other is set.
const DefaultRunDir = "/run/shoal"

// Socket is the path of the API's unix socket in a run directory.
func Socket(runDir string) string { return filepath.Join(runDir, "shoal.sock") }

// Listen makes the API's unix socket, for root only.
// A socket left by an agent that was killed is replaced, one that answers is
// a second agent.
func Listen(runDir string) (net.Listener, error) {
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the API socket: %w", err)
	}
	path := Socket(runDir)
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("an agent already runs on this host and answers on %s", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the API socket of a former agent: %w", err)
	}
	// Bound under another name first, so that the socket never stands under
	// its own with a wider mode than it should have.
	tmp := filepath.Join(runDir, ".shoal.sock")
	os.Remove(tmp)
	l, err := net.Listen("unix", tmp)
	if err != nil {
		return nil, fmt.Errorf("listen on the API socket: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(tmp, 0o600); err != nil {
		return nil, fmt.Errorf("restrict the API socket: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return nil, fmt.Errorf("name the API socket: %w", err)
	}
	return l, nil
}

// Serve runs an HTTP server until ctx ends.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	stop := context.AfterFunc(ctx, func() {
		bounded, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = srv.Shutdown(bounded)
	})
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
