package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"shoal/model"
	"shoal/store/etcd"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/raft/v3"
	"google.golang.org/grpc/status"
)

const (
	// memberPause is between attempts at a change of members: a voter that was
	// just added has to be connected to all others for a few seconds before
	// etcd lets the next change happen.
	memberPause = 250 * time.Millisecond
	// maxUnanswered is how often a change of members may remain without an
	// answer: raft drops one that is proposed before the one before it is
	// applied, and tells nobody; see also isUnanswered.
	maxUnanswered = 3
)

// changeMembers makes a change of etcd's members, or of their list, again and again while etcd
// refuses it for a reason that passes. It may have been done, unanswered, when
// it is done again.
func (s *Store) changeMembers(ctx context.Context, f func(ctx context.Context) error) error {
	for unanswered := 0; ; {
		rctx, cancel := context.WithTimeout(ctx, etcd.RequestTimeout)
		err := f(rctx)
		cancel()
		passes := isTransient(err)
		if !passes && isUnanswered(err) {
			passes = true
			unanswered++
		}
		if err == nil || !passes || unanswered == maxUnanswered {
			return etcd.Unreachable(err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w, until %w", etcd.Unreachable(err), ctx.Err())
		case <-time.After(memberPause):
		}
	}
}

// errSameSecond is what "member not found" means of one that is being added:
// etcd makes a member's ID of its address and the time in seconds, and does not
// take an ID again that was removed.
var errSameSecond = errors.New("a member with this address was removed just now")

// isTransient tells whether what a refusal says passes by itself.
func isTransient(err error) bool {
	for _, e := range []error{rpctypes.ErrUnhealthy, rpctypes.ErrMemberNotEnoughStarted, rpctypes.ErrMemberLearnerNotReady,
		rpctypes.ErrTooManyLearners, rpctypes.ErrLeaderChanged, rpctypes.ErrNoLeader, rpctypes.ErrNotLeader, errSameSecond} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// isUnanswered tells whether a request may have been done all the same. An etcd
// that it reached may have stopped before it answered, as one does that is removed.
func isUnanswered(err error) bool {
	stopped := status.Convert(err).Message() == raft.ErrStopped.Error() // which etcd does not translate
	return isTimeout(err) || stopped || errors.Is(etcd.Unreachable(err), model.ErrAway)
}

func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, rpctypes.ErrTimeout)
}

// removeMember removes a member. One that is gone already is no error.
func (s *Store) removeMember(ctx context.Context, id uint64) error {
	err := s.changeMembers(ctx, func(ctx context.Context) error {
		_, err := s.client.MemberRemove(ctx, id)
		return err
	})
	if errors.Is(err, rpctypes.ErrMemberNotFound) {
		return nil
	}
	return err
}

// member is etcd's word for [Member].
type member = etcdserverpb.Member

// members lists etcd's members, as a quorum knows them.
func (s *Store) members(ctx context.Context) ([]*member, error) {
	ctx, cancel := context.WithTimeout(ctx, etcd.RequestTimeout)
	defer cancel()
	r, err := s.client.MemberList(ctx)
	if err != nil {
		return nil, etcd.Unreachable(err)
	}
	return r.Members, nil
}

// endpointOf is where a member takes requests, by where the others reach it; "" where
// that is no address.
func endpointOf(m *member) string {
	for _, peer := range m.PeerURLs {
		if u, err := url.Parse(peer); err == nil {
			if at, err := netip.ParseAddrPort(u.Host); err == nil {
				return Endpoint(at.Addr())
			}
		}
	}
	return ""
}

// HasVote tells whether a host has a vote in the embedded etcd, as a quorum knows.
func (s *Store) HasVote(ctx context.Context, node string) (bool, error) {
	if s.Role() == RoleExternal {
		return false, nil
	}
	members, err := s.members(ctx)
	return hasVote(members, node), err
}

func hasVote(members []*member, node string) bool {
	return slices.ContainsFunc(members, func(m *member) bool { return m.Name == node && !m.IsLearner })
}

// RemoveServer takes the vote of a host that is gone for good, and then its place in the
// list of servers. In that order: where the second is not done, the host is listed
// on, and who looks for lost servers comes back to it. It does nothing for a host that did
// not serve. A member that never told its name is the host's if it is at that address.
func (s *Store) RemoveServer(ctx context.Context, node string, addr netip.Addr) error {
	if s.Role() == RoleExternal {
		return nil
	}
	members, err := s.members(ctx)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.Name == node || m.Name == "" && addr.IsValid() && endpointOf(m) == Endpoint(addr) {
			if err := s.removeMember(ctx, m.ID); err != nil {
				return fmt.Errorf("take its vote in the store: %w", err)
			}
		}
	}
	return s.unlist(ctx, node)
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
func (s *Store) Members(ctx context.Context) ([]Member, error) {
	lctx, cancel := context.WithTimeout(ctx, etcd.RequestTimeout)
	defer cancel()
	r, err := s.client.MemberList(lctx, clientv3.WithSerializable())
	if err != nil {
		return nil, fmt.Errorf("list the hosts that serve the store: %w", etcd.Unreachable(err))
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
			if st, err := s.status(sctx, all[i].Endpoint); err == nil {
				all[i].Leader, all[i].Up = st.Leader == m.ID, st.Leader != 0
			}
		}()
	}
	for range all {
		<-answers
	}
	slices.SortFunc(all, func(a, b Member) int { return strings.Compare(a.Node, b.Node) })
	return all, nil
}
