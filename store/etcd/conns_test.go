package etcd

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
)

// TestNoConnectionIsMadeToAnEtcdThatIsLeft: it would wait for the watches on it before it stops.
func TestNoConnectionIsMadeToAnEtcdThatIsLeft(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "etcd.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	endpoint := "unix://" + socket
	cs := &conns{made: make(chan struct{}, 1)}
	before, err := cs.dial(t.Context(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	comeBack := cs.leave(endpoint)
	if _, err := before.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the connection from before: %v", err)
	}
	if _, err := cs.dial(t.Context(), endpoint); !errors.Is(err, errLeft) {
		t.Errorf("connected while it is left: %v", err)
	}
	if other, err := cs.dial(t.Context(), "unix://"+socket+".other"); errors.Is(err, errLeft) {
		t.Errorf("another one is left too: %v", other)
	}
	comeBack()
	after, err := cs.dial(t.Context(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	after.Close()
	if len(cs.open) != 0 {
		t.Errorf("%d connections are kept", len(cs.open))
	}
}
