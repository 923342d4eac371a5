package agent

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"shoal/catalog"
	"shoal/cluster"
)

// identifyByStore finds out who this host is where the store is an etcd of the
// user's: whoever may write there is trusted with everything already, so hosts
// that share one need no token. It waits for that etcd in a host's first run,
// and only then.
func identifyByStore(ctx context.Context, c Config, store cluster.Store, log *slog.Logger) (*cluster.Identity, error) {
	id, err := cluster.Load(c.host(log))
	if !errors.Is(err, cluster.ErrNotJoined) {
		return id, err
	}
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		bounded, cancel := context.WithTimeout(ctx, 10*time.Second)
		id, err := cluster.JoinByStore(bounded, c.host(log), store)
		cancel()
		if err == nil {
			return id, nil
		}
		log.Warn("this host has no identity yet; trying again", "error", err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// external tells whether the store is an etcd of the user's.
func (m *membership) external() bool { return m.store.Role() == catalog.RoleExternal }
