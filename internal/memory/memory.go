// Package memory keeps a process within the memory that its control group may
// have: near the limit Go's garbage collector works harder, before the kernel ends
// the process.
package memory

import (
	"log/slog"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// The shares of a host's agent, and of the process of its store: they are in one
// control group. The rest is for what is not Go's heap.
const (
	AgentShare = 0.6
	StoreShare = 0.25
)

// Limit sets this process' GOMEMLIMIT to a share of the control group's limit, if
// there is one and the variable is not set.
func Limit(share float64, log *slog.Logger) { limit(share, log, memlimit.FromCgroup) }

func limit(share float64, log *slog.Logger, provider memlimit.Provider) {
	if _, err := memlimit.Set(memlimit.WithRatio(share), memlimit.WithProvider(provider)); err != nil {
		log.Warn("the memory limit of the control group is not known", "error", err)
	}
}
