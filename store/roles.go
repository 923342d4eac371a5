package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"shoal/store/etcd"
)

// changeRole runs a change of this host's role, one at a time.
func (s *Store) changeRole(ctx context.Context, what string, f func(ctx context.Context) error) error {
	select {
	case s.roleLock <- struct{}{}:
		defer func() { <-s.roleLock }()
	case <-ctx.Done():
		return fmt.Errorf("%s: another change of this host's role is under way: %w", what, ctx.Err())
	case <-s.run.Done():
		return fmt.Errorf("%s: the store is closed", what)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.run, cancel)()
	if err := f(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// role is the host's, and its etcd, if one runs. Only [Store.changeRole] changes
// them.
func (s *Store) role() (Role, *server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.place.Role, s.server
}

// setServer makes srv this host's etcd, or nil: none. Clients are not sent to an
// unlisted one yet, or any more.
func (s *Store) setServer(srv *server, unlisted bool, change func(*place)) error {
	s.mu.Lock()
	s.server = srv
	if srv != nil {
		s.down = nil
		srv.unlisted = unlisted
	}
	s.mu.Unlock()
	return s.setEndpoints(change)
}

func (s *Store) startServer(ctx context.Context, r Role, join map[string]string) (*server, error) {
	sc := serverConfig{Dir: s.o.StateDir, Name: s.o.Node, Join: join, Unchecked: s.o.unchecked, Unsynced: s.o.unsynced, Quota: s.o.quota,
		MaintainEvery: s.o.maintainEvery}
	if r == RoleServer {
		sc.Peers = s.o.Peers
		if join == nil && !hasData(s.o.StateDir) {
			s.mu.Lock()
			alone := len(s.place.Servers) == 0
			s.mu.Unlock()
			return nil, errDataGone(s.o.StateDir, alone)
		}
	}
	return startServer(ctx, sc, s.log)
}

var errExternal = errors.New("the store is an etcd of yours, which shoal does not run; change its members by its own means")

// Serve opens the embedded etcd of a lone host to the others of the cluster, for
// good: it starts again on [ClientPort] and [PeerPort]. Changes of the store
// wait for it meanwhile, a second or two. On a host that serves already it does
// nothing.
func (s *Store) Serve(ctx context.Context) error {
	return s.changeRole(ctx, "open the store to other hosts", s.serve)
}

func (s *Store) serve(ctx context.Context) error {
	r, srv := s.role()
	switch {
	case r == RoleServer:
		return nil
	case r == RoleClient:
		return errors.New("this host uses the stores of others; run: shoal server promote " + s.o.Node)
	case r == RoleExternal:
		return errExternal
	case srv == nil:
		return errStarting
	}
	p := s.o.Peers
	if err := p.check(); err != nil {
		return err
	}
	if err := s.setPeerURL(ctx, srv); err != nil {
		return err
	}
	if err := s.setServer(nil, false, func(pl *place) { pl.Role, pl.Addr = RoleServer, p.Addr }); err != nil {
		return errors.Join(err, s.setServer(srv, false, func(pl *place) { pl.Role = RoleAlone }))
	}
	old := srv
	s.stopServer(old)
	srv, err := s.startServer(s.run, RoleServer, nil)
	if err != nil {
		// As it was; the address its peers would use is of no use, and no harm.
		again, startErr := s.startServer(s.run, RoleAlone, nil)
		if startErr == nil {
			s.supervise(again)
		} else {
			s.setDown(startErr)
			s.done.Go(func() { s.startAgain(old) })
		}
		return errors.Join(err, startErr, s.setServer(again, false, func(pl *place) { pl.Role = RoleAlone }))
	}
	s.supervise(srv)
	if err := s.setServer(srv, false, nil); err != nil {
		return err
	}
	return srv.ready(ctx)
}

// setPeerURL tells etcd's members at which address this one is.
func (s *Store) setPeerURL(ctx context.Context, srv *server) error {
	ctx, cancel := context.WithTimeout(ctx, etcd.RequestTimeout)
	defer cancel()
	u := s.o.Peers.peerURL()
	_, err := s.client.MemberUpdate(ctx, srv.id(), []string{u.String()})
	return err
}

// stopServer stops an etcd after the client has left it: else it would wait for
// this host's own watches, for some seconds.
func (s *Store) stopServer(srv *server) {
	defer s.client.Leave(srv.endpoint)()
	srv.close()
}

// supervise starts an etcd again that stopped by itself; or, if it stopped
// because another host removed its member, makes this host a client. It also
// tells the other members when this one's address is a new one.
func (s *Store) supervise(srv *server) {
	s.done.Go(func() {
		if s.o.Peers != nil && !s.updatePeerURL(srv) {
			return
		}
		select {
		case <-s.run.Done():
			return
		case <-srv.exited:
		}
		if srv.closing.Load() {
			return
		}
		s.startAgain(srv)
	})
}

// steady is how long an etcd has to have run to be started again at once.
const steady = time.Minute

// startAgain starts an etcd again that has stopped, or did not start, and tries
// until it runs.
func (s *Store) startAgain(old *server) {
	if old != nil && time.Since(old.started) >= steady {
		s.restarts.Reset()
	} else {
		s.restarts.Wait(s.run) // longer each time that one does not last
	}
	for ; s.run.Err() == nil; s.restarts.Wait(s.run) {
		err := s.changeRole(s.run, "start the embedded etcd again", func(ctx context.Context) error { return s.restart(ctx, old) })
		if err == nil {
			return
		}
		if s.run.Err() == nil {
			s.logDown(err)
			s.setDown(err)
		}
	}
}

func (s *Store) setDown(err error) {
	s.mu.Lock()
	s.down = err
	s.mu.Unlock()
}

// logDown says that the store of this host is down, each reason once in a row.
func (s *Store) logDown(err error) {
	if text := err.Error(); s.said != text {
		s.said = text
		s.log.Error("the store of this host is down; the last state stays in use", "error", err)
	}
}

func (s *Store) restart(ctx context.Context, old *server) error {
	r, srv := s.role()
	if r == RoleClient || srv != old && srv != nil {
		return nil // Demote was first
	}
	if old != nil && srv == old {
		s.log.Error("the embedded etcd stopped", "error", old.why)
		s.setDown(errors.New(old.why))
		if err := s.setServer(nil, false, nil); err != nil {
			s.logUnsaved(err)
		}
		old.close()
	}
	if old != nil && r == RoleServer {
		members, err := s.members(ctx)
		if err == nil && !slices.ContainsFunc(members, func(m *member) bool { return m.ID == old.id() }) {
			s.log.Warn("another host took this one's vote; the store is asked there from now on")
			return s.becomeClient(old)
		}
	}
	srv, err := s.startServer(s.run, r, nil)
	if err != nil {
		return err
	}
	s.supervise(srv)
	return s.setServer(srv, s.Promoting(), nil)
}

// updatePeerURL tells etcd's members this one's address, if it is a new one. It
// returns false when there is no more need to: the store is closed.
func (s *Store) updatePeerURL(srv *server) bool {
	p := s.o.Peers
	for retry := (etcd.Backoff{}); s.run.Err() == nil; retry.Wait(s.run) {
		s.mu.Lock()
		known := s.place.Role != RoleServer || s.place.Addr == p.Addr
		s.mu.Unlock()
		if known || srv.stopped() {
			return true
		}
		err := s.setPeerURL(s.run, srv)
		if err == nil {
			err = s.setEndpoints(func(pl *place) { pl.Addr = p.Addr })
		}
		if err != nil {
			s.log.Warn("the other servers of the store do not know this host's new address yet", "addr", p.Addr, "error", err)
		}
	}
	return false
}
