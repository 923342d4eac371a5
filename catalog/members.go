package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

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

// HasVote tells whether a host has a vote in the embedded etcd, as a quorum knows.
func (c *Catalog) HasVote(ctx context.Context, node string) (bool, error) {
	if r, _ := c.role(); r == RoleExternal {
		return false, nil
	}
	members, err := c.members(ctx)
	return hasVote(members, node), err
}

func hasVote(members []*member, node string) bool {
	return slices.ContainsFunc(members, func(m *member) bool { return m.Name == node && !m.IsLearner })
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
