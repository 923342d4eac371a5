package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/lab/wait"
	"shoal/model"
)

func TestAnyOneOfThreeServersMayStop(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	h := cl.three()
	d := cl.start("d", cl.join("a"))
	settled(t, d)
	eventually(t, "d knows all servers", func() bool { return len(d.client.Endpoints()) == 3 })
	for i, name := range []string{"a", "b"} {
		start := time.Now()
		h[i].Close()
		t.Logf("%s closed in %v", name, time.Since(start))
		follows(t, d, h[2])
		follows(t, h[2], d)
		h[i] = cl.start(name)
		settled(t, h[i])
		follows(t, d, h[i])
	}
	// A dead one is not asked.
	d.SetAlive(map[string]bool{"a": false})
	eventually(t, "a is not asked", func() bool { return !slices.Contains(d.client.Endpoints(), cl.endpoint("a")) })
	d.SetAlive(nil)
	eventually(t, "a is asked", func() bool { return slices.Contains(d.client.Endpoints(), cl.endpoint("a")) })
}

func TestAServerWithoutAQuorumCloses(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	h := cl.three()
	closeAll(h[:]...)
	a := cl.open("a")
	closed := make(chan error, 1)
	go func() { closed <- a.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a server that has no leader does not close")
	}
}

func TestWithoutAQuorumTheLastStateServes(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	h := cl.three()
	a, d := h[0], cl.start("d", cl.join("a"))
	for _, x := range h {
		follows(t, x, h[0], h[1], h[2], d)
	}
	follows(t, d, h[:]...)
	before := a.Snapshot()
	closeAll(h[1], h[2])
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := a.ClaimVIP(ctx, model.ServiceID{Stack: model.DefaultStack, Name: "web"}, netip.MustParseAddr("10.96.0.1")); !errors.Is(err, model.ErrAway) {
		t.Errorf("a claim without a quorum: %v", err)
	}
	a.SetAlive(map[string]bool{"b": false})
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := a.RemoveNode(ctx, "b", false); !errors.Is(err, model.ErrAway) {
		t.Errorf("remove a node without a quorum: %v", err)
	}
	a.SetAlive(nil)
	eventually(t, "the last state serves", func() bool { return same(before, a.Snapshot()) })

	// One that serves the store and one that does not, both after a restart.
	closeAll(a, d)
	var restarted []*host
	for _, node := range []string{"a", "d"} {
		x := cl.open(node)
		restarted = append(restarted, x)
		if !x.RestoreLocal() {
			t.Errorf("%s has nothing to restore", node)
		}
		eventually(t, "a Snapshot", func() bool { return x.Snapshot() != nil })
		if got := *x.Snapshot(); !slices.EqualFunc(got.Services, before.Services, (*model.Service).Equal) ||
			!slices.Equal(got.Nodes, before.Nodes) {
			t.Errorf("before %+v, after, on %s, %+v", before, node, got)
		}
		if s, up := x.Status(), x.Health(); up.Connected || up.Error == "" || !s.FromCache {
			t.Errorf("%s: health %+v, status %+v", node, up, s)
		}
		x.SetLocal(local(ctr(node, "new", fmt.Sprintf("10.0.%d.9", node[0]-'a'))))
		eventually(t, "its own come and go", func() bool { return strings.Contains(tasks(x), node+"/new") })
	}

	b := cl.start("b")
	start := time.Now()
	eventually(t, "b sees the new ones", func() bool {
		got := tasks(b)
		return strings.HasPrefix(got, "a/new b/1 c/") && strings.HasSuffix(got, "d/new")
	})
	t.Logf("reconciled in %v", time.Since(start))
	for _, x := range restarted {
		settled(t, x)
		if s := x.Status(); s.FromCache || s.LastError != "" {
			t.Errorf("status %+v", s)
		}
	}
}

func TestARemovedServerLosesItsVote(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	h := cl.three()
	a, b := h[0], h[1]
	h[2].Close()
	a.SetAlive(map[string]bool{"c": false})
	if err := a.RemoveNode(t.Context(), "c", false); err != nil {
		t.Fatal(err)
	}
	hasVoters(t, a, "a b")
	for _, x := range []*host{a, b} {
		eventually(t, "c is forgotten", func() bool {
			return !strings.Contains(tasks(x), "c/") && len(x.Snapshot().Nodes) == 2 && len(x.client.Endpoints()) == 2
		})
	}
	// One that comes back nevertheless, its certificate still good, finds out.
	c := cl.start("c")
	eventually(t, "c is a client", func() bool { return c.Role() == RoleClient })
	settled(t, c)
	follows(t, c, a)
	hasVoters(t, a, "a b")
	if _, err := c.Promote(t.Context()); err != nil {
		t.Error(err)
	}
	follows(t, a, c)
}

func TestADeadServerIsLeftAtOnce(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	a := cl.start("a", func(o *Options) { o.Peers = cl.peers("a", o.StateDir, cl.addr("z")) })
	if err := a.Serve(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.SetAlive(map[string]bool{"z": false}) // its own etcd will do
	frozen := newFreezer(t, netip.AddrPortFrom(cl.addr("z"), ClientPort), netip.AddrPortFrom(cl.addr("a"), ClientPort))
	if _, err := a.client.Put(t.Context(), serverKey("z"), encode(serverRecord{cl.endpoint("z")})); err != nil {
		t.Fatal(err)
	}
	d := cl.start("d", cl.join("a"))
	settled(t, d)
	asks := func(names ...string) func() bool {
		var want []string
		for _, n := range names {
			want = append(want, cl.endpoint(n))
		}
		return func() bool { return slices.Equal(d.client.Endpoints(), want) }
	}
	eventually(t, "d knows of both", asks("a", "z"))
	d.SetAlive(map[string]bool{"a": false})
	eventually(t, "z alone is asked", asks("z"))
	follows(t, a, d)
	follows(t, d, a)
	d.SetAlive(nil)
	eventually(t, "both are asked", asks("a", "z"))
	frozen.Store(true)
	a.SetLocal(local(ctr("a", "news", "10.0.9.1")))
	settled(t, a)
	if got := tasks(d); strings.Contains(got, "news") {
		t.Fatalf("the watch is not frozen: %s", got)
	}
	start := time.Now()
	d.SetAlive(map[string]bool{"z": false})
	// The keepalives of the connection fail after 10 s at the soonest.
	wait.For(t, 6*time.Second, "d is told by a", func() bool { return strings.Contains(tasks(d), "a/news") })
	t.Logf("told after %v", time.Since(start))
	follows(t, d, a)
}
