package memory

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"shoal/lab/wait"
)

func TestALargeHeapGrowsByLess(t *testing.T) {
	for live, want := range map[uint64]int{0: 100, 1 << 20: 100, 64 << 20: 100, 65 << 20: 90, 128 << 20: 50, 160 << 20: 40, 1 << 30: 30} {
		if got := percentFor(live); got != want {
			t.Errorf("of %d MiB the heap may grow by %d%%, want %d", live>>20, got, want)
		}
	}
	t.Setenv("GOGC", "")
	held := make([]byte, 150<<20)
	debug.FreeOSMemory()
	go BoundGrowth(t.Context())
	wait.For(t, 30*time.Second, "the collector is set", func() bool {
		now := debug.SetGCPercent(100)
		debug.SetGCPercent(now)
		return now == 40
	})
	debug.SetGCPercent(100)
	runtime.KeepAlive(held)
}
