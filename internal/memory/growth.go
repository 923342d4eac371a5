package memory

import (
	"context"
	"os"
	"runtime"
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
	growthEvery  = time.Second
)

// What a burst of changes took is given back once the process rests: else it is kept
// until the next collection, two minutes later, and most of it after that.
const (
	restFor   = 10 * time.Second
	restMost  = 32 << 20 // bytes that a process allocates within restFor while it rests
	spareMost = 32 << 20 // bytes that are worth a collection
)

// BoundGrowth keeps this process from taking much more memory than it uses, for as
// long as ctx lasts. It does nothing where GOGC is set.
func BoundGrowth(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	tick := time.NewTicker(growthEvery)
	defer tick.Stop()
	var r rest
	for set := 100; ; {
		h := readHeap()
		if percent := percentFor(h.live); percent != set {
			debug.SetGCPercent(percent)
			set = percent
		}
		if r.over(h, time.Now()) {
			runtime.GC() // what sync.Pool holds goes with the second collection
			debug.FreeOSMemory()
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

// heap is what Go's runtime tells of it, in bytes.
type heap struct {
	live      uint64 // at the last collection
	held      uint64 // from the system: objects, dead ones too, and free memory
	allocated uint64 // since the process began
}

func readHeap() heap {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/heap/allocs:bytes"},
	}
	metrics.Read(samples)
	n := func(i int) uint64 { return samples[i].Value.Uint64() }
	return heap{live: n(0), held: n(1) + n(2) + n(3), allocated: n(4)}
}

// rest tells when a process has come to rest with memory to spare.
type rest struct {
	since time.Time // when allocated was from; zero: not known
	from  uint64    // bytes allocated until then
	freed uint64    // likewise, when memory was given back last
}

// over tells whether memory is to be given back now: the process has been at rest for
// restFor, holds much that does not live, and has allocated as much since the last time.
func (r *rest) over(h heap, now time.Time) bool {
	if r.since.IsZero() || h.allocated-r.from > restMost {
		r.since, r.from = now, h.allocated
		return false
	}
	if now.Sub(r.since) < restFor {
		return false
	}
	r.since, r.from = now, h.allocated
	if h.held < h.live+spareMost || h.allocated-r.freed < spareMost {
		return false
	}
	r.freed = h.allocated
	return true
}
