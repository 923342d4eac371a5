// Package wait waits in tests for what is to come true.
package wait

import (
	"context"
	"time"
)

// T is of a test what waiting needs.
type T interface {
	Helper()
	Fatalf(format string, args ...any)
}

// For waits until cond is true, which is asked every 5 ms. It fails the test
// where that takes longer than limit.
func For(t T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline:
			t.Fatalf("not within %v: %s", limit, what)
		case <-tick.C:
		}
	}
}

// Until calls check until it returns nil, less and less often, up to five times
// a second. If that has not happened when ctx ends, it returns check's last
// error.
func Until(ctx context.Context, check func() error) error {
	pause := 10 * time.Millisecond
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
			pause = min(2*pause, 200*time.Millisecond)
		}
	}
}
