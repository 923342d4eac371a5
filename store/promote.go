package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"shoal/store/etcd"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

var (
	errStarting = errors.New("its embedded etcd is being started again; see the log, and try again")
	errOnlyVote = errors.New("this host has the only vote; promote another host first")
)

// Promote makes this host, a client, a server of the store with a vote. It adds
// its etcd as a learner first, so that the others need not wait for it, and
// gives it the vote once it has caught up. The advice is not empty if a number
// of voters is the result that is not a good one.
func (s *Store) Promote(ctx context.Context) (advice string, err error) { return s.promote(ctx, false) }

// EndPromotion is [Store.Promote] on a host whose promotion broke off. On any other it does nothing.
func (s *Store) EndPromotion(ctx context.Context) error {
	_, err := s.promote(ctx, true)
	return err
}

func (s *Store) promote(ctx context.Context, begun bool) (advice string, err error) {
	err = s.changeRole(ctx, "promote node "+s.o.Node, func(ctx context.Context) error {
		r, srv := s.role()
		switch {
		case begun && (!s.Promoting() || srv == nil):
			return nil
		case r == RoleExternal:
			return errExternal
		case r == RoleAlone:
			return errors.New("this host is alone, so it has the only vote already")
		case r == RoleServer && srv == nil:
			return errStarting
		case r == RoleClient:
			if srv, err = s.startLearner(ctx); err != nil {
				return err
			}
		}
		voters, err := s.giveVote(ctx, srv)
		if err != nil {
			if r == RoleClient {
				err = errors.Join(err, s.cancelPromotion(srv))
			}
			return err
		}
		advice = adviseVoters(voters)
		return s.setServer(srv, false, func(pl *place) { pl.Promoting = false })
	})
	return advice, err
}

// Promoting tells whether this host's promotion broke off: its etcd is started with the
// agent, and has no vote, for all that is known. [Store.EndPromotion] ends it.
func (s *Store) Promoting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.place.Role == RoleServer && s.place.Promoting
}

// startLearner starts an etcd that is one of the members, without a vote.
func (s *Store) startLearner(ctx context.Context) (*server, error) {
	p := s.o.Peers
	if err := p.check(); err != nil {
		return nil, err
	}
	u := p.peerURL()
	if err := s.removeLeftovers(ctx, u.String()); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(dataDir(s.o.StateDir)); err != nil {
		return nil, err
	}
	var srv *server
	join, err := s.addLearner(ctx, u.String())
	if err == nil {
		srv, err = s.startServer(ctx, RoleServer, join)
	}
	if err != nil { // it may have been added all the same, and no other host can be promoted beside one without a vote
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), etcd.RequestTimeout)
		defer cancel()
		if rerr := s.removeLeftovers(rctx, u.String()); rerr != nil {
			err = errors.Join(err, fmt.Errorf("its member may be left, promote it again: %w", rerr))
		}
		return nil, errors.Join(err, os.RemoveAll(dataDir(s.o.StateDir)))
	}
	// From here on a restart has to start it: once it has a vote, the others may
	// not be able to do without.
	if err := s.setServer(srv, true, func(pl *place) { pl.Role, pl.Addr, pl.Promoting = RoleServer, p.Addr, true }); err != nil {
		return nil, errors.Join(err, s.cancelPromotion(srv))
	}
	s.supervise(srv)
	return srv, nil
}

// removeLeftovers removes what an attempt that broke off may have left behind: a
// member which has no data any more.
func (s *Store) removeLeftovers(ctx context.Context, peer string) error {
	members, err := s.members(ctx)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.Name != s.o.Node && !slices.Contains(m.PeerURLs, peer) {
			continue
		}
		if m.Name != s.o.Node && m.Name != "" {
			return fmt.Errorf("node %s serves the store at %s, this host's address; run there: shoal server demote", m.Name, peer)
		}
		if err := s.removeMember(ctx, m.ID); err != nil {
			return err
		}
	}
	return nil
}

// addLearner makes this host a member, and returns the peer URLs of all, by name.
func (s *Store) addLearner(ctx context.Context, peer string) (join map[string]string, err error) {
	if err := s.changeMembers(ctx, func(ctx context.Context) error {
		_, err := s.client.MemberAddAsLearner(ctx, []string{peer})
		switch {
		case errors.Is(err, rpctypes.ErrPeerURLExist), errors.Is(err, rpctypes.ErrMemberExist): // the latter within a second
			return nil // an attempt whose answer was lost
		case errors.Is(err, rpctypes.ErrMemberNotFound):
			return errSameSecond
		}
		return err
	}); err != nil {
		return nil, err
	}
	members, err := s.members(ctx)
	if err != nil {
		return nil, err
	}
	join = map[string]string{}
	for _, m := range members {
		if slices.Contains(m.PeerURLs, peer) {
			m.Name = s.o.Node
		}
		if m.Name != "" {
			join[m.Name] = m.PeerURLs[0]
		}
	}
	return join, nil
}

// giveVote gives this host's etcd its vote as soon as it has caught up, and
// tells how many there are then.
func (s *Store) giveVote(ctx context.Context, srv *server) (voters int, err error) {
	id := srv.id()
	for {
		members, err := s.members(ctx)
		if err == nil {
			voters, learner := 0, true
			for _, m := range members {
				if !m.IsLearner {
					voters++
				}
				if m.ID == id {
					learner = m.IsLearner
				}
			}
			if !learner {
				return voters, srv.ready(ctx)
			}
			err = s.changeMembers(ctx, func(ctx context.Context) error {
				_, err := s.client.MemberPromote(ctx, id)
				return err
			})
		}
		// Whether it has the vote is told by the list: the answer may have been lost.
		if err != nil && !errors.Is(err, rpctypes.ErrMemberNotLearner) && !isTimeout(err) {
			return 0, err
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
}

// cancelPromotion removes a member that did not get its vote.
func (s *Store) cancelPromotion(srv *server) error {
	ctx, cancel := context.WithTimeout(s.run, 3*etcd.RequestTimeout)
	defer cancel()
	srv.quiet.Store(true)
	if err := s.removeMember(ctx, srv.id()); err != nil {
		srv.quiet.Store(false)
		return fmt.Errorf("its member could not be removed, promote it again: %w", err)
	}
	return s.becomeClient(srv)
}

// becomeClient makes this host, whose member is removed, a client.
func (s *Store) becomeClient(srv *server) error {
	err := s.setServer(nil, false, func(pl *place) { pl.Role, pl.Promoting = RoleClient, false })
	s.stopServer(srv)
	return errors.Join(err, os.RemoveAll(dataDir(s.o.StateDir)))
}

// Demote takes the vote from this host and makes it a client. It is refused for
// the last voter. The advice is not empty if a number of voters is left that
// is not a good one.
func (s *Store) Demote(ctx context.Context) (advice string, err error) {
	err = s.changeRole(ctx, "demote node "+s.o.Node, func(ctx context.Context) error {
		r, srv := s.role()
		switch {
		case r == RoleExternal:
			return errExternal
		case r == RoleClient:
			return errors.New("this host does not serve the store")
		case r == RoleAlone:
			return errOnlyVote
		case srv == nil:
			return errStarting
		}
		members, err := s.members(ctx)
		if err != nil {
			return err
		}
		var others []uint64 // voters
		var endpoints []string
		for _, m := range members {
			if m.IsLearner || m.ID == srv.id() {
				continue
			}
			others = append(others, m.ID)
			if endpoint := endpointOf(m); endpoint != "" {
				endpoints = append(endpoints, endpoint)
			}
		}
		if len(others) == 0 {
			return errOnlyVote
		}
		if err := srv.moveLeader(ctx, others); err != nil {
			return err
		}
		// The list of servers may not have all of them yet, and this host's own is no help from here on.
		if err := errors.Join(s.Found(endpoints), s.setServer(srv, true, nil)); err != nil {
			return errors.Join(err, s.setServer(srv, false, nil))
		}
		srv.quiet.Store(true)
		if err := s.removeMember(ctx, srv.id()); err != nil {
			srv.quiet.Store(false)
			return errors.Join(err, s.setServer(srv, false, nil))
		}
		advice = adviseVoters(len(others))
		return s.becomeClient(srv)
	})
	return advice, err
}

// adviseVoters tells what is not good about a number of voters.
func adviseVoters(n int) string {
	switch {
	case n%2 != 0:
		return ""
	case n == 2:
		return "2 hosts have a vote: if either fails, the store takes no changes until it is back; promote a third, or demote one"
	}
	return fmt.Sprintf("%d hosts have a vote: no more of them may fail than of %d; promote another, or demote one", n, n-1)
}
