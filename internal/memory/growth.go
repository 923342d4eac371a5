package memory

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Go's heap doubles between two collections, as a rule: a large cluster's state would
// take twice its size. So it grows by growthMost at the most, and by leastPercent at
// the least, which bounds what the collector costs.
const (
	growthMost   = 64 << 20 // bytes
	leastPercent = 30
	growthEvery  = 10 * time.Second
)

// BoundGrowth keeps this process from taking much more memory than it uses, for as
// long as ctx lasts. It does nothing where GOGC is set.
func BoundGrowth(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(growthEvery)
	defer tick.Stop()
	for set := 100; ; {
		metrics.Read(live)
		if percent := percentFor(live[0].Value.Uint64()); percent != set {
			debug.SetGCPercent(percent)
			set = percent
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// percentFor is how much the heap may grow by that much of it that lives, in percent.
// It is a multiple of ten, as each change starts a collection.
func percentFor(live uint64) int {
	if live <= growthMost {
		return 100
	}
	return max(int(growthMost*100/live)/10*10, leastPercent)
}
