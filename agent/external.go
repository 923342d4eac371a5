package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"time"

	"shoal/cluster"
	"shoal/store"
)

// identifyByStore finds out who this host is where the store is an etcd of the
// user's: whoever may write there is trusted with everything already, so hosts
// that share one need no token. It waits for that etcd in a host's first run,
// and only then.
func identifyByStore(ctx context.Context, c Config, store cluster.Store, etcdTLS *tls.Config, log *slog.Logger) (*cluster.Identity, error) {
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
		if why := reach(ctx, c.Etcd, etcdTLS); why != nil {
			err = why // the client says no more than that nothing answered in time
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
func (m *membership) external() bool { return m.store.Role() == store.RoleExternal }

// reach connects to endpoints of an etcd as its client does, and tells what is
// in the way where none of them can be spoken to.
func reach(ctx context.Context, endpoints []string, t *tls.Config) error {
	var errs []error
	for _, e := range endpoints {
		u, err := url.Parse(e)
		if err == nil && u.Scheme == "unix" {
			return nil
		}
		if err == nil {
			err = greet(ctx, u, t)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("etcd at %s: %w", e, err))
	}
	return errors.Join(errs...)
}

func greet(ctx context.Context, u *url.URL, t *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	dial := new(net.Dialer).DialContext
	if u.Scheme == "https" {
		if t == nil {
			t = new(tls.Config)
		}
		t = t.Clone()
		t.NextProtos = []string{"h2"}
		dial = (&tls.Dialer{Config: t}).DialContext
	}
	conn, err := dial(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	defer conn.Close()
	if u.Scheme != "https" {
		return nil
	}
	// In TLS 1.3 a server refuses a client's certificate after the client is done
	// (RFC 8446 section 4.4.2.4). One that does not says something or nothing.
	_ = conn.SetReadDeadline(time.Now().Add(time.Second))
	_, err = conn.Read(make([]byte, 1))
	if refused := (*net.OpError)(nil); errors.As(err, &refused) && refused.Op == "remote error" {
		return err
	}
	return nil
}
