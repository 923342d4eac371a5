package agent

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal/internal/health"
)

// TestSystemdIsToldHowTheAgentIs: by a clock that is not the machine's, what is
// sent at which second.
func TestSystemdIsToldHowTheAgentIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var sent []string
		s := &supervisor{every: 10 * time.Second, log: slog.New(slog.DiscardHandler), send: func(state string) {
			sent = append(sent, time.Since(began).String()+" "+strings.ReplaceAll(state, "\n", ", "))
		}}
		h := health.New("dnsd", "lb")
		ctx, cancel := context.WithCancel(t.Context())
		s.waitsFor("the store:\nits etcd")
		go s.follow(ctx, h, func() string { return "serves" })
		h.Met("dnsd")
		time.Sleep(15 * time.Second)
		h.Met("lb")
		heart := h.Watch("lb", 10*time.Second)
		time.Sleep(12 * time.Second) // 27 s: within its limit at 20 s, beyond it at 30 s
		time.Sleep(8 * time.Second)
		heart.Beat()
		time.Sleep(6 * time.Second)
		cancel()
		synctest.Wait()
		want := []string{
			"0s STATUS=starts, and waits for the store: its etcd",
			"10s WATCHDOG=1",
			"15s READY=1, STATUS=serves",
			"15s WATCHDOG=1, STATUS=serves",
			"20s WATCHDOG=1, STATUS=serves",
			"30s STATUS=stuck: [lb for 15s]",
			"40s WATCHDOG=1, STATUS=serves",
		}
		if d := cmp.Diff(want, sent); d != "" {
			t.Errorf("sent: %s", d)
		}
	})
}

// TestTheWatchdogIsFedThriceAsOftenAsItAsks: over a real socket.
func TestTheWatchdogIsFedThriceAsOftenAsItAsks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "6000000")
	s := newSupervisor(slog.New(slog.DiscardHandler))
	if s.every != 2*time.Second {
		t.Errorf("every %v", s.every)
	}
	s.startsAnew("another address")
	s.stops()
	var got []string
	buffer := make([]byte, 1024)
	for range 2 {
		n, err := l.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(buffer[:n]))
	}
	if !strings.HasPrefix(got[0], "RELOADING=1\nMONOTONIC_USEC=") || !strings.HasSuffix(got[0], "\nSTATUS=starts anew: another address") {
		t.Errorf("when it starts anew: %q", got[0])
	}
	if got[1] != "STOPPING=1\nSTATUS=stops" {
		t.Errorf("when it stops: %q", got[1])
	}
}
