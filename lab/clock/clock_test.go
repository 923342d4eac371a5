package clock

import (
	"encoding/binary"
	"os"
	"testing"
	"time"
)

func TestASkewedClockSaysBySecondsHowWrongItIs(t *testing.T) {
	c, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range []time.Duration{0, time.Hour, -90 * time.Second} {
		if err := c.Skew(by); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(c.file)
		if err != nil || len(b) != 8 || int64(binary.NativeEndian.Uint64(b)) != int64(by/time.Second) {
			t.Errorf("skewed by %v, the file has % x, %v", by, b, err)
		}
	}
}
