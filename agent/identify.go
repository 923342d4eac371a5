package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"shoal/cluster"
	"shoal/store"
)

// welcome is what a host that joins has to know of the store.
type welcome struct {
	Endpoints []string `json:"endpoints"`
}

// identityFolder is where in the state folder this host's identity is.
const identityFolder = "cluster"

func (c *Config) host(log *slog.Logger) cluster.Host {
	return cluster.Host{Dir: filepath.Join(c.StateDir, identityFolder), Node: c.Node, Addr: c.Advertise, Log: log, Settings: c.Shared()}
}

// identify finds out who this host is: who it was in its last run, or who it
// becomes by joining, or the first of a cluster of its own, which it founds. The
// endpoints are those of the store it joined; none if it has its own, or has
// been told before.
func identify(ctx context.Context, c Config, log *slog.Logger) (id *cluster.Identity, endpoints []string, founded bool, err error) {
	id, err = cluster.Load(c.host(log))
	switch {
	case err == nil && id.Ended():
		id, endpoints, err = joinAgain(ctx, c, id, log)
	case err == nil:
		endpoints, err = comeBack(ctx, c, id, log)
	case !errors.Is(err, cluster.ErrNotJoined):
	case len(c.Join) > 0:
		id, endpoints, err = join(ctx, c, log)
	default:
		id, err = cluster.Create(c.host(log))
		founded = err == nil
	}
	return id, endpoints, founded, err
}

// joinAgain has a host that was away for longer than its certificate was good join
// once more, as the same host: nobody renews one that has ended.
func joinAgain(ctx context.Context, c Config, old *cluster.Identity, log *slog.Logger) (*cluster.Identity, []string, error) {
	if len(c.Join) == 0 {
		return nil, nil, badSetting("this host's certificate ended on %s, while its agent did not run: start it once with --join, the address of a host of the cluster, and a new token, which sudo shoal token create prints there",
			old.Expires().Format(time.DateOnly))
	}
	return join(ctx, c, log)
}

// comeBack ends what a host began that died while it joined: it has an identity,
// by which it is let in again, and does not know yet where the store is.
func comeBack(ctx context.Context, c Config, id *cluster.Identity, log *slog.Logger) (endpoints []string, err error) {
	if has, err := store.HasPlace(c.StateDir); has || err != nil || id.HoldsCA() {
		return nil, err
	}
	if len(c.Join) == 0 {
		return nil, badSetting("this host has joined a cluster and does not know yet where its store is: start it with --join ADDR once, the address of a host of that cluster")
	}
	hosts, err := c.joinHosts()
	if err != nil {
		return nil, err
	}
	if endpoints, err = askForStore(ctx, id, hosts); err != nil {
		return nil, err
	}
	log.Info("joined the cluster, after an attempt that broke off")
	return endpoints, nil
}

// askForStore asks hosts of the cluster where its store is.
func askForStore(ctx context.Context, id *cluster.Identity, hosts []netip.AddrPort) (endpoints []string, err error) {
	w, err := id.Rejoin(ctx, hosts)
	if err != nil {
		return nil, err
	}
	return storeOf(w)
}

func storeOf(w *cluster.Welcome) ([]string, error) {
	var at welcome
	if err := json.Unmarshal(w.Cluster, &at); err != nil || len(at.Endpoints) == 0 {
		return nil, errors.New("the cluster did not say where its store is")
	}
	return at.Endpoints, nil
}

// joinHosts are the hosts that --join names.
func (c *Config) joinHosts() (hosts []netip.AddrPort, err error) {
	for _, j := range c.Join {
		server, err := parseServer(j)
		if err != nil {
			return nil, badSetting("--join: %w", err)
		}
		hosts = append(hosts, server)
	}
	return hosts, nil
}

// join makes this host one of the cluster of others.
func join(ctx context.Context, c Config, log *slog.Logger) (*cluster.Identity, []string, error) {
	hosts, err := c.joinHosts()
	if err != nil {
		return nil, nil, err
	}
	token, err := c.readToken(os.Stdin)
	if err != nil {
		return nil, nil, err
	}
	if err := checkTokenMode(c.TokenFile); err != nil {
		log.Warn("others may have the token", "error", err)
	}
	var errs []error
	for _, server := range hosts {
		id, w, err := cluster.Join(ctx, c.host(log), server, token)
		switch {
		case errors.Is(err, cluster.ErrSettings): // another host would say the same
			return nil, nil, &ConfigError{err}
		case err != nil:
			errs = append(errs, err)
			continue
		}
		endpoints, err := storeOf(w)
		if err != nil {
			return nil, nil, fmt.Errorf("join the cluster at %s: %w", server, err)
		}
		log.Info("joined the cluster", "by", server, "hosts", len(w.Peers))
		return id, endpoints, nil
	}
	return nil, nil, errors.Join(errs...)
}

// parseServer reads ADDR or ADDR:PORT of a host's join port.
func parseServer(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, cluster.DefaultPort), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("host %q: write it as ADDR or ADDR:PORT", s)
	}
	return ap, nil
}
