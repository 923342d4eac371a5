package wait

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// fake is a test that may fail.
type fake struct{ failed string }

func (*fake) Helper() {}

func (f *fake) Fatalf(format string, args ...any) {
	f.failed = fmt.Sprintf(format, args...)
	panic(f) // as a real one, it does not return
}

func TestFor(t *testing.T) {
	asked := 0
	For(t, time.Minute, "the third time", func() bool { asked++; return asked == 3 })
	if asked != 3 {
		t.Errorf("asked %d times", asked)
	}
	f := new(fake)
	func() {
		defer func() { _ = recover() }()
		For(f, 20*time.Millisecond, "never", func() bool { return false })
	}()
	if !strings.Contains(f.failed, "never") {
		t.Errorf("what never comes true fails with %q", f.failed)
	}
}

func TestUntil(t *testing.T) {
	asked := 0
	err := Until(t.Context(), func() error {
		if asked++; asked < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	if asked != 3 || err != nil {
		t.Errorf("asked %d times: %v", asked, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	last := errors.New("still not")
	if err := Until(ctx, func() error { return last }); err != last {
		t.Errorf("given up with %v, not with the last error", err)
	}
}
