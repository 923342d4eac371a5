package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"shoal/catalog"
	"shoal/cluster"
	"shoal/internal/statefile"
	"shoal/model"
	"shoal/store"
	"shoal/store/etcd"
)

// A cluster whose store is lost, with every copy of it, goes on with a new one that
// one of its hosts makes of what it knows. The others follow that host by
// themselves: it shows them the certificate that it had before.

// recovered is kept on the host that made the new store until all have followed.
type recovered struct {
	Since time.Time `json:"since"`
}

func recoveredPath(stateDir string) string { return filepath.Join(stateDir, "recovered.json") }

const (
	followEvery   = 3 * time.Second  // between two rounds in which the others are told
	followTime    = 40 * time.Second // for another host to follow
	followAtOnce  = 16               // hosts that are told at a time
	followToken   = time.Hour        // how long the token is good that they are given
	awayTime      = 10 * time.Second // for which a host's own store has to be away before it follows: an agent that starts has none at first
	serverAnswers = 5 * time.Second  // for a server of the former store to answer
)

// Recover makes this host, whose agent does not run, the one that serves a new store,
// with what it knew of the cluster when its agent last ran. It refuses where a
// server of the former store answers. Where this host does not hold the CA's key,
// the cluster gets a new CA.
func Recover(ctx context.Context, c Config, log *slog.Logger) (s catalog.Seeded, err error) {
	if err := c.Check(); err != nil {
		return s, err
	}
	if !c.Advertise.IsValid() {
		if c.Advertise, err = cluster.LastAddr(c.host(log)); err != nil {
			return s, err
		}
	}
	host := c.host(log)
	id, err := cluster.Load(host)
	if err != nil {
		return s, err
	}
	r, err := store.BeginRecovery(c.StateDir, c.Node)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := noneAnswers(ctx, r.Servers(), id.ClientTLS()); err != nil {
		return s, err
	}
	if err := r.Make(ctx, func(ctx context.Context, client *etcd.Client) error {
		s, err = catalog.Seed(ctx, client, c.StateDir, c.Node)
		return err
	}, log); err != nil {
		return s, err
	}
	if !id.HoldsCA() {
		if err := errors.Join(cluster.CreateBeside(host), cluster.Change(host)); err != nil {
			return s, fmt.Errorf("make a new CA: %w", err)
		}
	}
	if err := statefile.Save(recoveredPath(c.StateDir), recovered{time.Now().UTC()}); err != nil {
		return s, err
	}
	return s, r.Finish()
}

// noneAnswers makes sure that no server of a store takes writes.
func noneAnswers(ctx context.Context, endpoints []string, t *tls.Config) error {
	if len(endpoints) == 0 {
		return nil
	}
	client, err := etcd.Dial(endpoints, t)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, serverAnswers)
	defer cancel()
	if _, err := client.Get(ctx, "health"); err == nil {
		return fmt.Errorf("the store answers, at one of %v: there is nothing to recover; see shoal status, and shoal nodes", endpoints)
	}
	return nil
}

// leadBack tells the other hosts of the new store that this one made, for as long as
// there are some that have not followed.
func (m *membership) leadBack(ctx context.Context) {
	path := recoveredPath(m.config.StateDir)
	var since recovered
	if found, err := statefile.Load(path, &since); err != nil || !found {
		if err != nil {
			m.log.Warn("it is not known whether other hosts have to be told of a new store", "error", err)
		}
		return
	}
	host := m.config.host(m.log)
	as, err := cluster.Former(host)
	if errors.Is(err, cluster.ErrNotJoined) {
		as, err = m.id, nil // the CA is the same
	}
	if err != nil {
		m.log.Error("other hosts cannot be told of the new store: move the folder cluster away there, and join by a token", "error", err)
		return
	}
	var token string
	var until time.Time
	for {
		left, err := m.notFollowed(ctx)
		if err == nil {
			m.report("recovery", recoveryProblems(slices.Collect(maps.Keys(left))))
			if len(left) == 0 {
				break
			}
		}
		if err == nil && !time.Now().Before(until) {
			token, err = m.reg.CreateToken(ctx, m.id, followToken, max(len(left), 1))
			until = time.Now().Add(followToken / 2)
		}
		if err == nil {
			m.tellRecovered(ctx, as, left, cluster.Recovered{CA: m.id.CAFingerprint(), Token: token})
		} else {
			m.log.Debug("tell other hosts of the new store", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(followEvery):
		}
	}
	if token != "" {
		if err := m.reg.RemoveToken(ctx, token); err != nil {
			m.log.Debug("remove the token that hosts followed by", "error", err)
		}
	}
	if err := errors.Join(cluster.ForgetFormer(host), os.Remove(path)); err != nil {
		m.log.Warn("what the recovery of the store left cannot be removed", "error", err)
		return
	}
	m.log.Info("all hosts use the new store")
}

// notFollowed are the other hosts, by what the new store says of the former one's, that
// are no members of the cluster yet.
func (m *membership) notFollowed(ctx context.Context) (map[string]netip.Addr, error) {
	members, err := m.reg.Members(ctx)
	if err != nil {
		return nil, err
	}
	left := m.peers()
	for _, member := range members {
		delete(left, member.Node)
	}
	return left, nil
}

// tellRecovered tells some hosts once. Those that are lost do not answer; those that have
// another store refuse.
func (m *membership) tellRecovered(ctx context.Context, as *cluster.Identity, to map[string]netip.Addr, r cluster.Recovered) {
	ctx, cancel := context.WithTimeout(ctx, followTime)
	defer cancel()
	var all errgroup.Group
	all.SetLimit(followAtOnce)
	for node, addr := range to {
		all.Go(func() error {
			if err := as.TellRecovered(ctx, netip.AddrPortFrom(addr, cluster.DefaultPort), r); err != nil {
				m.log.Debug("a host does not follow to the new store yet", "node", node, "error", err)
			} else {
				m.log.Info("a host follows to the new store", "node", node)
			}
			return nil
		})
	}
	_ = all.Wait()
}

// followError ends a run of the agent on a host that follows another to a new store.
type followError struct {
	endpoints []string
	change    bool // to the identity that it has there
}

func (e *followError) Error() string { return "this host follows another to a new store" }

// follow takes in that another host has made a new store. One whose own store answers
// has no need of it.
func (m *membership) follow(ctx context.Context, node string, addr netip.Addr, r cluster.Recovered) error {
	for until := time.Now().Add(awayTime); ; {
		if m.external() || !m.catalog.Away() {
			return fmt.Errorf("the store that %s uses answers", m.config.Node)
		}
		if time.Now().After(until) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	e := &followError{endpoints: []string{store.Endpoint(addr)}}
	if r.CA != m.id.CAFingerprint() {
		w, err := cluster.JoinBeside(ctx, m.config.host(m.log), netip.AddrPortFrom(addr, cluster.DefaultPort), r.Token)
		if err != nil {
			return err
		}
		if e.endpoints, err = storeOf(w); err != nil {
			return err
		}
		e.change = true
	}
	m.log.Warn("another host made a new store of the cluster, and this one follows", "node", node, "addr", addr, "new CA", e.change)
	select {
	case m.following <- e:
	default:
	}
	return nil
}

// takeOver makes the state folder that of a host which has followed.
func (e *followError) takeOver(c Config, log *slog.Logger) error {
	if err := store.Follow(c.StateDir, e.endpoints); err != nil {
		return err
	}
	if !e.change {
		return nil
	}
	return cluster.Change(c.host(log))
}

// recoveryProblems tells of hosts that have not followed to the new store.
func recoveryProblems(left []string) (ps []model.Problem) {
	slices.Sort(left)
	for _, node := range left {
		ps = append(ps, model.Problem{Code: model.HostNotFollowed, Kind: "node", Object: node,
			Reason: "it does not use the new store yet; it does so by itself while its agent runs and its old store does not answer. " +
				"If it is lost, run: shoal node rm " + node})
	}
	return ps
}
