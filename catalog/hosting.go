package catalog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// settlePause is between attempts at what fails while the cluster settles: a
// voter that was just added has to be connected to all others for a few
// seconds before etcd lets the next change happen.
const settlePause = 250 * time.Millisecond

// change makes a change of this host's role, one at a time.
func (c *Catalog) change(ctx context.Context, what string, f func(ctx context.Context) error) error {
	select {
	case c.hosting <- struct{}{}:
		defer func() { <-c.hosting }()
	case <-ctx.Done():
		return fmt.Errorf("%s: another change of this host's role is under way: %w", what, ctx.Err())
	case <-c.run.Done():
		return fmt.Errorf("%s: the catalog is closed", what)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.run, cancel)()
	if err := f(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// role is the host's, and its etcd, if one runs. Only [Catalog.change] changes
// them.
func (c *Catalog) role() (Role, *server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.place.Role, c.server
}

// use makes s this host's etcd, or nil: none. One that is apart is not asked
// anything yet, or any more.
func (c *Catalog) use(s *server, apart bool, change func(*place)) error {
	c.mu.Lock()
	c.server = s
	if s != nil {
		s.apart = apart
	}
	c.mu.Unlock()
	return c.rewire(change)
}

var errExternal = errors.New("the store is an etcd of yours, which shoal does not run; change its members by its own means")

// Serve opens the embedded etcd of a lone host to the others of the cluster, for
// good: it starts again on [ClientPort] and [PeerPort]. Changes of the store
// wait for it meanwhile, a second or two. On a host that serves already it does
// nothing.
func (c *Catalog) Serve(ctx context.Context) error {
	return c.change(ctx, "open the store to other hosts", c.serve)
}

func (c *Catalog) serve(ctx context.Context) error {
	r, s := c.role()
	switch {
	case r == RoleServer:
		return nil
	case r == RoleClient:
		return errors.New("this host uses the stores of others; run: shoal server promote " + c.o.Self.Name)
	case r == RoleExternal:
		return errExternal
	}
	p := c.o.Peers
	if err := p.check(); err != nil {
		return err
	}
	peer := p.peerURL()
	rctx, cancel := context.WithTimeout(ctx, requestTimeout)
	_, err := c.client.MemberUpdate(rctx, uint64(s.etcd.Server.MemberID()), []string{peer.String()})
	cancel()
	if err != nil {
		return err
	}
	if err := c.use(nil, false, func(pl *place) { pl.Role, pl.Addr = RoleServer, p.Addr }); err != nil {
		return errors.Join(err, c.use(s, false, func(pl *place) { pl.Role = RoleAlone }))
	}
	c.end(s)
	s, err = c.startServer(RoleServer, nil)
	if err != nil {
		// As it was; the address its peers would use is of no use, and no harm.
		again, startErr := c.startServer(RoleAlone, nil)
		if startErr == nil {
			c.guard(again)
		}
		return errors.Join(err, startErr, c.use(again, false, func(pl *place) { pl.Role = RoleAlone }))
	}
	c.guard(s)
	if err := c.use(s, false, nil); err != nil {
		return err
	}
	return s.ready(ctx)
}

func (s *server) stopped() bool {
	select {
	case <-s.etcd.Server.StopNotify():
		return true
	default:
		return s.closing.Load()
	}
}

// ready waits until an etcd has a leader and answers.
func (s *server) ready(ctx context.Context) error {
	select {
	case <-s.etcd.Server.ReadyNotify():
		return nil
	case <-s.etcd.Server.StopNotify():
		return errors.New("the embedded etcd stopped; see the log")
	case <-ctx.Done():
		return fmt.Errorf("the embedded etcd finds no leader: %w", ctx.Err())
	}
}

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

// settled does what etcd refuses while the cluster settles, until it does not.
// It may have been done, unanswered, when it is done again.
func (c *Catalog) settled(ctx context.Context, f func(ctx context.Context) error) error {
	for unanswered := 0; ; {
		rctx, cancel := context.WithTimeout(ctx, requestTimeout)
		err := f(rctx)
		cancel()
		if isTimeout(err) {
			unanswered++
		}
		if err == nil || !settles(err) && !isTimeout(err) || unanswered == patience {
			return away(err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w, until %w", away(err), ctx.Err())
		case <-time.After(settlePause):
		}
	}
}

// errSameSecond is what "member not found" means of one that is being added:
// etcd makes a member's ID of its address and the time in seconds, and does not
// take an ID again that was removed.
var errSameSecond = errors.New("a member with this address was removed just now")

// settles tells whether an error passes by itself.
func settles(err error) bool {
	for _, e := range []error{rpctypes.ErrUnhealthy, rpctypes.ErrMemberNotEnoughStarted, rpctypes.ErrMemberLearnerNotReady,
		rpctypes.ErrTooManyLearners, rpctypes.ErrLeaderChanged, rpctypes.ErrNoLeader, rpctypes.ErrNotLeader, errSameSecond} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, rpctypes.ErrTimeout)
}

// member is etcd's word for [Member].
type member = etcdserverpb.Member

// members lists etcd's members, as a quorum knows them.
func (c *Catalog) members(ctx context.Context) ([]*member, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := c.client.MemberList(ctx)
	if err != nil {
		return nil, away(err)
	}
	return r.Members, nil
}

// removeMember takes a dead host's vote.
func (c *Catalog) removeMember(ctx context.Context, node string) error {
	if r, _ := c.role(); r == RoleExternal {
		return nil
	}
	members, err := c.members(ctx)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.Name != node {
			continue
		}
		err := c.settled(ctx, func(ctx context.Context) error {
			_, err := c.client.MemberRemove(ctx, m.ID)
			return err
		})
		if err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
			return fmt.Errorf("take its vote in the store: %w", err)
		}
	}
	return nil
}

// Member is a host that serves the store.
type Member struct {
	Node     string `json:"node"`
	Endpoint string `json:"endpoint"`
	Voter    bool   `json:"voter"`  // else a learner, which is to become one
	Leader   bool   `json:"leader"` // as it says itself
	Up       bool   `json:"up"`     // it answers, and knows a leader
}

// Members are the hosts that serve the store, by name, as the nearest of them
// knows; each is asked how it is, for a second at the most.
func (c *Catalog) Members(ctx context.Context) ([]Member, error) {
	lctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := c.client.MemberList(lctx, clientv3.WithSerializable())
	if err != nil {
		return nil, fmt.Errorf("list the hosts that serve the store: %w", away(err))
	}
	sctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	all := make([]Member, len(r.Members))
	answers := make(chan struct{})
	for i, m := range r.Members {
		all[i] = Member{Node: m.Name, Voter: !m.IsLearner}
		if len(m.ClientURLs) > 0 {
			all[i].Endpoint = m.ClientURLs[0]
		}
		go func() {
			defer func() { answers <- struct{}{} }()
			if all[i].Endpoint == "" {
				return
			}
			if s, err := c.ask(sctx, all[i].Endpoint); err == nil {
				all[i].Leader, all[i].Up = s.Leader == m.ID, s.Leader != 0
			}
		}()
	}
	for range all {
		<-answers
	}
	slices.SortFunc(all, func(a, b Member) int { return strings.Compare(a.Node, b.Node) })
	return all, nil
}

// guard starts an etcd again that stopped by itself; or, if it stopped because
// another host removed its member, makes this host a client. It also tells the
// other members when this one's address is a new one.
func (c *Catalog) guard(s *server) {
	c.done.Go(func() {
		if c.o.Peers != nil && !c.announce(s) {
			return
		}
		select {
		case <-c.run.Done():
			return
		case <-s.etcd.Server.StopNotify():
		}
		if s.closing.Load() {
			return
		}
		for retry := (retrier{}); c.run.Err() == nil; retry.wait(c.run) {
			err := c.change(c.run, "start the embedded etcd again", func(ctx context.Context) error { return c.restart(ctx, s) })
			if err == nil {
				return
			}
			c.log.Error("the store of this host is down; the last state stays in use", "err", err)
		}
	})
}

func (c *Catalog) restart(ctx context.Context, old *server) error {
	r, s := c.role()
	if r == RoleClient || s != old && s != nil {
		return nil // Demote was first
	}
	if s == old {
		c.log.Error("the embedded etcd stopped")
	}
	if err := c.use(nil, false, nil); err != nil {
		return err
	}
	old.close()
	if r == RoleServer {
		members, err := c.members(ctx)
		id := uint64(old.etcd.Server.MemberID())
		if err == nil && !slices.ContainsFunc(members, func(m *member) bool { return m.ID == id }) {
			c.log.Warn("another host took this one's vote; the store is asked there from now on")
			return c.leave(old)
		}
	}
	s, err := c.startServer(r, nil)
	if err != nil {
		return err
	}
	c.guard(s)
	return c.use(s, false, nil)
}

// announce tells etcd's members this one's address, if it is a new one. It
// returns false when there is no more need to: the catalog is closed.
func (c *Catalog) announce(s *server) bool {
	p := c.o.Peers
	u := p.peerURL()
	for retry := (retrier{}); c.run.Err() == nil; retry.wait(c.run) {
		c.mu.Lock()
		known := c.place.Role != RoleServer || c.place.Addr == p.Addr
		c.mu.Unlock()
		if known || s.stopped() {
			return true
		}
		ctx, cancel := context.WithTimeout(c.run, requestTimeout)
		_, err := c.client.MemberUpdate(ctx, uint64(s.etcd.Server.MemberID()), []string{u.String()})
		cancel()
		if err == nil {
			err = c.rewire(func(pl *place) { pl.Addr = p.Addr })
		}
		if err != nil {
			c.log.Warn("the other servers of the store do not know this host's new address yet", "addr", p.Addr, "err", err)
		}
	}
	return false
}
