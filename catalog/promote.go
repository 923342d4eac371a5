package catalog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Promote makes this host, a client, a server of the store with a vote. It takes
// its etcd in as a learner first, so that the others need not wait for it, and
// gives it the vote once it has caught up. The advice is not empty if a number
// of voters is the result that is not a good one.
func (c *Catalog) Promote(ctx context.Context) (advice string, err error) {
	err = c.change(ctx, "promote node "+c.o.Self.Name, func(ctx context.Context) error {
		r, s := c.role()
		switch {
		case r == RoleExternal:
			return errExternal
		case r == RoleAlone:
			return errors.New("this host is alone, so it has the only vote already")
		case r == RoleServer && s == nil:
			return errors.New("its embedded etcd is being started again; see the log, and try again")
		case r == RoleClient:
			if s, err = c.startLearner(ctx); err != nil {
				return err
			}
		}
		voters, err := c.giveVote(ctx, s)
		if err != nil {
			if r == RoleClient {
				err = errors.Join(err, c.giveUp(s))
			}
			return err
		}
		advice = adviseVoters(voters)
		return c.use(s, false, nil)
	})
	return advice, err
}

// startLearner starts an etcd that is one of the members, without a vote.
func (c *Catalog) startLearner(ctx context.Context) (*server, error) {
	p := c.o.Peers
	if err := p.check(); err != nil {
		return nil, err
	}
	u := p.peerURL()
	if err := c.removeLeftovers(ctx, u.String()); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(dataDir(c.o.StateDir)); err != nil {
		return nil, err
	}
	id, join, err := c.addLearner(ctx, u.String())
	if err != nil {
		return nil, err
	}
	s, err := c.startServer(RoleServer, join)
	if err != nil {
		rctx, cancel := context.WithTimeout(c.run, requestTimeout)
		defer cancel()
		_, rerr := c.client.MemberRemove(rctx, id)
		return nil, errors.Join(err, rerr, os.RemoveAll(dataDir(c.o.StateDir)))
	}
	// From here on a restart has to start it: once it has a vote, the others may
	// not be able to do without.
	if err := c.use(s, true, func(pl *place) { pl.Role, pl.Addr = RoleServer, p.Addr }); err != nil {
		return nil, errors.Join(err, c.giveUp(s))
	}
	c.guard(s)
	return s, nil
}

// removeLeftovers removes what an attempt that broke off may have left behind: a
// member which has no data any more.
func (c *Catalog) removeLeftovers(ctx context.Context, peer string) error {
	members, err := c.members(ctx)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.Name != c.o.Self.Name && !slices.Contains(m.PeerURLs, peer) {
			continue
		}
		if m.Name != c.o.Self.Name && m.Name != "" {
			return fmt.Errorf("node %s serves the store at %s, this host's address; run there: shoal server demote", m.Name, peer)
		}
		if err := c.settled(ctx, func(ctx context.Context) error {
			_, err := c.client.MemberRemove(ctx, m.ID)
			return err
		}); err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
			return err
		}
	}
	return nil
}

// addLearner makes this host a member, and returns its ID and the peer URLs of
// all, by name.
func (c *Catalog) addLearner(ctx context.Context, peer string) (id uint64, join map[string]string, err error) {
	if err := c.settled(ctx, func(ctx context.Context) error {
		_, err := c.client.MemberAddAsLearner(ctx, []string{peer})
		switch {
		case errors.Is(err, rpctypes.ErrPeerURLExist):
			return nil // an attempt whose answer was lost
		case errors.Is(err, rpctypes.ErrMemberNotFound):
			return errSameSecond
		}
		return err
	}); err != nil {
		return 0, nil, err
	}
	members, err := c.members(ctx)
	if err != nil {
		return 0, nil, err
	}
	join = map[string]string{}
	for _, m := range members {
		if slices.Contains(m.PeerURLs, peer) {
			id, m.Name = m.ID, c.o.Self.Name
		}
		if m.Name != "" {
			join[m.Name] = m.PeerURLs[0]
		}
	}
	return id, join, nil
}

// giveVote gives this host's etcd its vote as soon as it has caught up, and
// tells how many there are then.
func (c *Catalog) giveVote(ctx context.Context, s *server) (voters int, err error) {
	id := uint64(s.etcd.Server.MemberID())
	for {
		members, err := c.members(ctx)
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
				return voters, s.ready(ctx)
			}
			err = c.settled(ctx, func(ctx context.Context) error {
				_, err := c.client.MemberPromote(ctx, id)
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

// giveUp takes back a member that did not get its vote.
func (c *Catalog) giveUp(s *server) error {
	ctx, cancel := context.WithTimeout(c.run, 3*requestTimeout)
	defer cancel()
	s.quiet.Store(true)
	err := c.settled(ctx, func(ctx context.Context) error {
		_, err := c.client.MemberRemove(ctx, uint64(s.etcd.Server.MemberID()))
		return err
	})
	if err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
		s.quiet.Store(false)
		return fmt.Errorf("its member could not be removed, promote it again: %w", err)
	}
	return c.leave(s)
}

// end stops an etcd that is not asked any more. It would wait for this host's
// own watch, for some seconds.
func (c *Catalog) end(s *server) {
	c.conns.drop(s.endpoint)
	s.close()
}

// leave makes this host, whose member is removed, a client.
func (c *Catalog) leave(s *server) error {
	err := c.use(nil, false, func(pl *place) { pl.Role = RoleClient })
	c.end(s)
	return errors.Join(err, os.RemoveAll(dataDir(c.o.StateDir)))
}

// Demote takes the vote from this host and makes it a client. It is refused for
// the last voter. The advice is not empty if a number of voters is left that
// is not a good one.
func (c *Catalog) Demote(ctx context.Context) (advice string, err error) {
	err = c.change(ctx, "demote node "+c.o.Self.Name, func(ctx context.Context) error {
		r, s := c.role()
		switch {
		case r == RoleExternal:
			return errExternal
		case r == RoleClient:
			return errors.New("this host does not serve the store")
		case r == RoleAlone:
			return errors.New("this host has the only vote; promote another host first")
		case s == nil:
			return errors.New("its embedded etcd is being started again; see the log, and try again")
		}
		members, err := c.members(ctx)
		if err != nil {
			return err
		}
		id := uint64(s.etcd.Server.MemberID())
		var others []uint64 // voters
		for _, m := range members {
			if !m.IsLearner && m.ID != id {
				others = append(others, m.ID)
			}
		}
		if len(others) == 0 {
			return errors.New("this host has the only vote; promote another host first")
		}
		if err := s.moveLeader(ctx, others); err != nil {
			return err
		}
		if err := c.use(s, true, nil); err != nil {
			return errors.Join(err, c.use(s, false, nil))
		}
		s.quiet.Store(true)
		err = c.settled(ctx, func(ctx context.Context) error {
			_, err := c.client.MemberRemove(ctx, id)
			return err
		})
		if err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
			s.quiet.Store(false)
			return errors.Join(err, c.use(s, false, nil))
		}
		advice = adviseVoters(len(others))
		return c.leave(s)
	})
	return advice, err
}

// moveLeader hands leadership to one of the voters, if this one has it.
func (s *server) moveLeader(ctx context.Context, voters []uint64) (err error) {
	srv := s.etcd.Server
	for _, id := range voters {
		if srv.Leader() != srv.MemberID() {
			return nil
		}
		rctx, cancel := context.WithTimeout(ctx, requestTimeout)
		err = srv.MoveLeader(rctx, uint64(srv.MemberID()), id)
		cancel()
	}
	if err != nil {
		return fmt.Errorf("no other voter takes the lead: %w", err)
	}
	return nil
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

// patience is how often a change of members may remain without an answer: raft
// drops one that is proposed before the one before it is applied, and tells
// nobody.
const patience = 3
