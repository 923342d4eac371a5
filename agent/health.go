package agent

import (
	"errors"
	"fmt"
	"strings"

	"shoal/internal/health"
)

// ready is why this host is not set up as the cluster says; nil: it is. It stays
// so when the engine or the store are unreachable later: what is known goes on.
func (a *Agent) ready() error {
	if a.catalog.Snapshot() == nil {
		return fmt.Errorf("the agent waits for %s", a.catalog.Status().Waiting)
	}
	return notSetUp(a.health)
}

// alive is why the agent does not work, though its process is there; nil: it
// does.
func (a *Agent) alive() error { return stuck(a.health) }

func notSetUp(h *health.State) error {
	if missing := h.Missing(); len(missing) > 0 {
		return errors.New("not set up yet: " + strings.Join(missing, ", "))
	}
	return nil
}

func stuck(h *health.State) error {
	if stale := h.Stale(); len(stale) > 0 {
		return fmt.Errorf("stuck: %v", stale)
	}
	return nil
}
