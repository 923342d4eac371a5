package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// sharers are hosts that share a store.
type sharers struct {
	*bench // without its host, which is of another cluster
}

func newSharers(t *testing.T, store Store) sharers {
	b := &bench{t: t, clock: &clock{t: time.Now()}, log: new(logBuffer)}
	b.reg = &Registry{store, b.clock.now}
	return sharers{b}
}

func (s sharers) mustJoinByStore(node, addr string) *Identity {
	s.t.Helper()
	id, err := joinByStore(s.t.Context(), s.host(node, addr), s.reg)
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

// known waits until the members are those, with their keys.
func (s sharers) known(ids ...*Identity) {
	s.t.Helper()
	eventually(s.t, 10*time.Second, func() bool {
		all, err := s.reg.Members(s.t.Context())
		if err != nil || len(all) != len(ids) {
			return false
		}
		for i, m := range all {
			if m.Node != ids[i].Node() || m.Key != ids[i].Key() || !m.CA {
				return false
			}
		}
		return true
	}, func() string {
		all, err := s.reg.Members(s.t.Context())
		return fmt.Sprintf("the members are %+v, %v", all, err)
	})
}

func TestHostsThatShareAStoreAreOneClusterWhoeverIsFirst(t *testing.T) {
	s := newSharers(t, etcdStore(t))
	ids := make([]*Identity, 3)
	var all sync.WaitGroup
	for i, node := range []string{"a", "b", "c"} {
		all.Go(func() {
			id, err := joinByStore(t.Context(), s.host(node, "127.0.1."+string(rune('1'+i))), s.reg)
			if err != nil {
				t.Error(err)
			}
			ids[i] = id
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	s.known(ids...)
	for _, id := range ids {
		if id.CAFingerprint() != ids[0].CAFingerprint() || string(id.GossipKey()) != string(ids[0].GossipKey()) || !id.HoldsCA() {
			t.Errorf("%s: CA %s, holds its key: %v", id.Node(), id.CAFingerprint(), id.HoldsCA())
		}
	}
	// Whichever are lost, the one that remains renews its certificate, and others come.
	for _, gone := range []string{"a", "b"} {
		if err := s.reg.Remove(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
	}
	s.clock.turn(61 * 24 * time.Hour)
	if err := ids[2].Renew(t.Context(), s.reg, nil); err != nil {
		t.Error(err)
	}
	s.known(ids[2], s.mustJoinByStore("d", "127.0.1.4"))
	if err := s.reg.Enrol(t.Context(), ids[0]); !errors.Is(err, ErrRemoved) {
		t.Errorf("one that was removed comes back: %v", err)
	}
}

// breaking is a store that breaks off after so many commits, as if the host was killed.
type breaking struct {
	Store
	left int
}

var errKilled = errors.New("killed")

func (s *breaking) Commit(ctx context.Context, unchanged map[string]int64, write map[string][]byte) (bool, error) {
	if s.left--; s.left < 0 {
		return false, errKilled
	}
	return s.Store.Commit(ctx, unchanged, write)
}

func TestAHostThatIsKilledAsItJoinsStandsInNobodysWay(t *testing.T) {
	for commits := range 3 {
		store := newMemStore()
		s := newSharers(t, store)
		h := s.host("a", "127.0.1.1")
		id, err := joinByStore(t.Context(), h, &Registry{&breaking{store, commits}, s.clock.now})
		if done := commits == 2; done != (err == nil) || !done && !errors.Is(err, errKilled) {
			t.Fatalf("after %d commits: %v", commits, err)
		}
		if id != nil { // it has written all, but for its certificate, which is last
			if err := os.Remove(filepath.Join(h.Dir, certFile)); err != nil {
				t.Fatal(err)
			}
		}
		b := s.mustJoinByStore("b", "127.0.1.2")
		a, err := joinByStore(t.Context(), h, s.reg)
		if err != nil {
			t.Fatalf("after %d commits: %v", commits, err)
		}
		s.known(a, b)
	}
}

func TestANameIsTakenOverByItsOwnHostOnly(t *testing.T) {
	s := newSharers(t, newMemStore())
	old := s.mustJoinByStore("a", "127.0.1.1")
	_, err := joinByStore(t.Context(), s.host("a", "127.0.1.2"), s.reg)
	if !errors.Is(err, ErrNameTaken) {
		t.Errorf("a host of another address: %v", err)
	}
	wantError(t, err, "shoal node rm a")
	s.known(old)
	s.known(s.mustJoinByStore("a", "127.0.1.1"))
	revoked, err := s.reg.revoked(t.Context())
	if _, ok := revoked[old.Key()]; err != nil || !ok || len(revoked) != 1 {
		t.Errorf("revoked: %v, %v", revoked, err)
	}
}

func TestTheCAIsSharedAgainWhereItWasLost(t *testing.T) {
	store := newMemStore()
	s := newSharers(t, store)
	a, b := s.mustJoinByStore("a", "127.0.1.1"), s.mustJoinByStore("b", "127.0.1.2")
	if err := b.DropCA(); err != nil { // one that joined another way
		t.Fatal(err)
	}
	for _, id := range []*Identity{a, b} {
		s.inBackground(func(ctx context.Context) { id.ShareCA(ctx, s.reg) })
	}
	eventually(t, 10*time.Second, b.HoldsCA, func() string { return "b has no key of the CA" })
	if again, err := load(b.host, s.clock.now); err != nil || !again.HoldsCA() {
		t.Errorf("b has not kept it: %v", err)
	}
	all, err := store.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for key := range all {
		all[key] = nil
	}
	if _, err := store.Commit(t.Context(), nil, all); err != nil { // the etcd lost its data
		t.Fatal(err)
	}
	s.known(a, b)
	if c := s.mustJoinByStore("c", "127.0.1.3"); c.CAFingerprint() != a.CAFingerprint() {
		t.Error("c is of another cluster")
	}
}

func TestAHostOfAnotherClusterLeavesTheStoreAlone(t *testing.T) {
	store := newMemStore()
	s := newSharers(t, store)
	a := s.mustJoinByStore("a", "127.0.1.1")
	stranger, err := create(s.host("b", "127.0.1.2"), s.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if stranger.ShareCA(ctx, s.reg); ctx.Err() != nil {
		t.Error("it goes on trying")
	}
	s.wantLog("not of the cluster", ErrOtherCluster.Error())
	s.known(a)

	// Of what cannot be read, what to do is said.
	if _, err := store.Commit(t.Context(), nil, map[string][]byte{authorityKey: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	_, err = joinByStore(t.Context(), Host{Dir: t.TempDir(), Node: "c", Addr: netip.MustParseAddr("127.0.1.3")}, s.reg)
	wantError(t, err, "the CA in the store cannot be read")
}
