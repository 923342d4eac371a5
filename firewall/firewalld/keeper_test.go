package firewalld

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// TestABusThatSaysNothingHoldsNobodyUp: a D-Bus that hangs takes connections all the same.
func TestABusThatSaysNothingHoldsNobodyUp(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+socket)
	k := New(t.TempDir(), slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	kept := make(chan error, 1)
	go func() { kept <- k.Keep(ctx, []string{"shoal0"}) }()
	if c, err := l.Accept(); err != nil {
		t.Fatal(err)
	} else {
		defer c.Close()
	}
	free := make(chan struct{})
	go func() {
		k.Changed()
		k.Close()
		close(free)
	}()
	deadline := time.After(15 * time.Second)
	select {
	case <-free:
	case <-deadline:
		t.Fatal("it waits for D-Bus to be asked for what changes")
	}
	if ctx.Err() != nil {
		t.Error("it was free only once Keep had ended")
	}
	select {
	case err := <-kept:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("kept: %v", err)
		}
	case <-deadline:
		t.Fatal("its context ended, and it waits for D-Bus on")
	}
}
