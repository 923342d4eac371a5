package memory

import (
	"log/slog"
	"math"
	"runtime/debug"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

func TestTheLimitIsAShareOfTheControlGroups(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	limit(AgentShare, log, func() (uint64, error) { return 1 << 30, nil })
	if got, want := debug.SetMemoryLimit(-1), int64(math.Floor(AgentShare*(1<<30))); got != want {
		t.Errorf("it is %d, want %d", got, want)
	}
	limit(AgentShare, log, func() (uint64, error) { return 0, memlimit.ErrNoLimit })
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("without a limit it is %d", got)
	}
}
