package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"shoal/catalog"
	"shoal/cluster"
)

// Hosts that share an etcd of the user's need no token of hands: whoever may
// write there is trusted with everything already. The first one leaves an
// invitation in it, the others join by that.

// invitationKey holds an invitation, beside cluster's own keys.
const invitationKey = "invitation"

// invitation is how to join.
type invitation struct {
	Addr  netip.Addr `json:"addr"`  // of a host that holds the CA's key
	Token string     `json:"token"` // good for many hosts
	Until time.Time  `json:"until"`
}

// What an invitation is good for. It is renewed halfway.
const (
	invitationTTL  = 30 * 24 * time.Hour
	invitationUses = 1000
)

// identifyByStore finds out who this host is where the store is an etcd of the
// user's. It waits for that etcd in a host's first run, and only then.
func identifyByStore(ctx context.Context, c Config, store *catalog.Catalog, log *slog.Logger) (*cluster.Identity, error) {
	id, err := cluster.Load(c.host(log))
	if !errors.Is(err, cluster.ErrNotJoined) {
		return id, err
	}
	kv := store.KV()
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		id, err := admit(ctx, c, kv, log)
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

// admit joins by the invitation, or makes the cluster and leaves one.
func admit(ctx context.Context, c Config, kv catalog.KV, log *slog.Logger) (*cluster.Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	value, _, err := kv.Get(ctx, invitationKey)
	if err != nil {
		return nil, err
	}
	if value != nil {
		var inv invitation
		if err := json.Unmarshal(value, &inv); err != nil {
			return nil, fmt.Errorf("read the invitation in etcd: %w", err)
		}
		if !inv.Addr.IsValid() {
			return nil, errors.New("another host is making the cluster")
		}
		id, _, err := cluster.Join(ctx, c.host(log), netip.AddrPortFrom(inv.Addr, cluster.DefaultPort), inv.Token)
		return id, err
	}
	// The place is taken first: of two hosts one makes the cluster.
	empty, err := json.Marshal(invitation{})
	if err != nil {
		return nil, err
	}
	done, err := kv.Commit(ctx, map[string]int64{invitationKey: 0}, map[string][]byte{invitationKey: empty})
	if err != nil {
		return nil, err
	}
	if !done {
		return nil, errors.New("another host is making the cluster")
	}
	return cluster.Create(c.host(log))
}

// invite keeps a good invitation in the store, on a host that holds the CA's key.
func (m *membership) invite(ctx context.Context) {
	if !m.id.HoldsCA() || m.store.Role() != catalog.RoleExternal {
		return
	}
	for pause := time.Second; ; {
		wait := invitationTTL / 2
		if err := m.renewInvitation(ctx); err != nil {
			m.log.Warn("other hosts cannot join yet", "error", err)
			pause = min(2*pause, time.Minute)
			wait = pause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (m *membership) renewInvitation(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	kv := m.store.KV()
	value, revision, err := kv.Get(ctx, invitationKey)
	if err != nil {
		return err
	}
	var inv invitation
	if value != nil && json.Unmarshal(value, &inv) == nil &&
		inv.Addr == m.config.Advertise && time.Until(inv.Until) > invitationTTL/2 {
		return nil
	}
	token, err := m.reg.CreateToken(ctx, m.id, invitationTTL, invitationUses)
	if err != nil {
		return err
	}
	value, err = json.Marshal(invitation{m.config.Advertise, token, time.Now().Add(invitationTTL)})
	if err != nil {
		return err
	}
	_, err = kv.Commit(ctx, map[string]int64{invitationKey: revision}, map[string][]byte{invitationKey: value})
	return err
}
