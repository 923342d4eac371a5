package socket

import (
	"testing"
	"time"
)

// TestCountingMapsIsBounded: what took long is not done soon again.
func TestCountingMapsIsBounded(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		what string
		c    *counted
		want bool
	}{
		{"nothing was counted yet", &counted{}, false},
		{"that took a moment", &counted{entries: map[string]int{}, at: now.Add(-time.Second), took: time.Millisecond}, false},
		{"that took long", &counted{entries: map[string]int{}, at: now.Add(-time.Second), took: time.Second}, true},
		{"that took long, long ago", &counted{entries: map[string]int{}, at: now.Add(-time.Hour), took: time.Second}, false},
	} {
		if got := tt.c.fresh(now); got != tt.want {
			t.Errorf("%s: fresh is %v", tt.what, got)
		}
	}
}
