package catalog

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestALoneStoreOpensToOthers(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	a := cl.start("a")
	web := ServiceID{DefaultStack, "web"}
	if _, err := a.ClaimVIP(t.Context(), web, netip.MustParseAddr("10.96.0.1")); err != nil {
		t.Fatal(err)
	}
	settled(t, a)
	eventually(t, "the VIP", func() bool { svc, ok := a.Snapshot().Service(web); return ok && svc.VIP.IsValid() })
	before := a.Snapshot()
	if _, err := a.Demote(t.Context()); err == nil || !strings.Contains(err.Error(), "only vote") {
		t.Errorf("demote: %v", err)
	}
	if _, err := a.Promote(t.Context()); err == nil {
		t.Error("a host alone was promoted")
	}

	// With its port taken, it stays as it was.
	l, err := net.Listen("tcp", netip.AddrPortFrom(cl.addr("a"), PeerPort).String())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Serve(t.Context()); err == nil || !strings.Contains(err.Error(), "--etcd") {
		t.Errorf("serve: %v", err)
	}
	l.Close()
	if s := a.Status(); s.Role != RoleAlone || !s.Connected {
		t.Errorf("status %+v", s)
	}

	start := time.Now()
	if err := a.Serve(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the store takes changes", func() bool {
		_, err := a.KV().Commit(t.Context(), nil, map[string][]byte{"x": []byte("y")})
		return err == nil
	})
	took := time.Since(start)
	t.Logf("the store paused for %v", took)
	if took > 5*time.Second {
		t.Error("that is too long")
	}
	settled(t, a)
	if !same(before, a.Snapshot()) || a.Snapshot().Revision != before.Revision {
		t.Errorf("before %+v, after %+v", before, a.Snapshot())
	}
	if err := a.Serve(t.Context()); err != nil {
		t.Errorf("serve again: %v", err)
	}
	eventually(t, "a leads", func() bool { return voters(a) == "a*" })

	b := cl.start("b", cl.join("a"))
	for _, c := range []*Catalog{a, b} {
		eventually(t, "both tasks", func() bool { return tasks(c, "web") == "a/1 b/1" })
	}
	settled(t, b)
	if s := b.Status(); s.Role != RoleClient || s.Embedded || !slices.Equal(s.Endpoints, []string{cl.endpoint("a")}) {
		t.Errorf("status %+v", s)
	}
	for name, conf := range map[string]*tls.Config{
		"no certificate":      {RootCAs: cl.pool},
		"one of another CA":   {RootCAs: cl.pool, Certificates: newCluster(t).peers("b", t.TempDir()).TLS.Certificates},
		"one that is revoked": nil,
	} {
		if conf == nil {
			conf = cl.revoke(a, b)
		}
		for _, port := range []uint16{ClientPort, PeerPort} {
			conn, err := tls.Dial("tcp", netip.AddrPortFrom(cl.addr("a"), port).String(), conf)
			if err == nil {
				conn.SetReadDeadline(time.Now().Add(5 * time.Second))
				conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
				_, err = conn.Read(make([]byte, 1))
			}
			if err == nil || os.IsTimeout(err) {
				t.Errorf("port %d serves a client with %s: %v", port, name, err)
			}
		}
	}

	for _, port := range []string{"client", "peer"} {
		eventually(t, "it is logged", func() bool { return strings.Contains(cl.log.String(), "rejected connection on "+port+" endpoint") })
	}

	// Both find their roles again.
	closeAll(a, b)
	a = cl.start("a")
	b = cl.start("b")
	settled(t, a)
	settled(t, b)
	follows(t, b, a)
	if s := a.Status(); s.Role != RoleServer || a.Serve(t.Context()) != nil {
		t.Errorf("status %+v", s)
	}
}

// A host that is removed keeps its connections, and etcd never asks for its
// certificate again.
func TestARemovedHostHearsNothingMoreOnOpenConnections(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	var removed atomic.Pointer[x509.Certificate]
	check := func(c *x509.Certificate) error {
		if r := removed.Load(); r != nil && r.Equal(c) {
			return errors.New("node b was removed")
		}
		return nil
	}
	a := cl.start("a", func(o *Options) { o.Peers.Revoked = check })
	if err := a.Serve(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, c := cl.start("b", cl.join("a")), cl.start("c", cl.join("a"))
	for _, host := range []*Catalog{b, c} {
		settled(t, host)
	}
	follows(t, a, b, c)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	heard := b.client.Watch(ctx, "secret", clientv3.WithCreatedNotify())
	<-heard // it is there
	leaf, err := x509.ParseCertificate(b.o.Peers.TLS.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	removed.Store(leaf)
	if _, err := a.client.Put(t.Context(), "secret", "x"); err != nil {
		t.Fatal(err)
	}
	for r := range heard { // until it is closed
		if len(r.Events) > 0 {
			t.Errorf("it heard %v", r.Events)
		}
		if r.Err() != nil && !strings.Contains(r.Err().Error(), "node b was removed") && !strings.Contains(r.Err().Error(), "canceled") {
			t.Errorf("it was told %v", r.Err())
		}
	}
	for what, f := range map[string]func() error{
		"read":  func() error { _, err := b.client.Get(t.Context(), "secret"); return err },
		"write": func() error { _, err := b.client.Put(t.Context(), "secret", "y"); return err },
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), "node b was removed") {
			t.Errorf("%s: %v", what, err)
		}
	}
	follows(t, a, c)
	if v, err := a.client.Get(t.Context(), "secret"); err != nil || string(v.Kvs[0].Value) != "x" {
		t.Errorf("it wrote %v, %v", v, err)
	}
}

func TestALearnerHasNoVote(t *testing.T) {
	members := []*member{{Name: "a"}, {Name: "b", IsLearner: true}, {}}
	for node, want := range map[string]bool{"a": true, "b": false, "c": false} {
		if got := hasVote(members, node); got != want {
			t.Errorf("%s has a vote: %t", node, got)
		}
	}
}

func TestPromoteAndDemote(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	cl.checked = true
	h := cl.three()
	a, b, c := h[0], h[1], h[2]
	d := cl.start("d", cl.join("a"))
	settled(t, d)
	eventually(t, "d knows all servers", func() bool { return len(d.client.Endpoints()) == 3 })
	hasVoters(t, d, "a b c")
	if _, err := b.Promote(t.Context()); err != nil {
		t.Errorf("promoted again: %v", err)
	}
	for node, want := range map[string]bool{"a": true, "b": true, "d": false} {
		if got, err := d.HasVote(t.Context(), node); got != want || err != nil {
			t.Errorf("%s has a vote: %t, %v", node, got, err)
		}
	}
	if _, err := d.Demote(t.Context()); err == nil {
		t.Error("a client was demoted")
	}

	// The leader, then another, give up their vote.
	for n := 3; n > 1; n-- {
		var leader *Catalog
		eventually(t, "there is a leader", func() bool {
			for _, x := range []*Catalog{a, b, c} {
				if strings.Contains(voters(d), x.o.Self.Name+"*") {
					leader = x
					return true
				}
			}
			return false
		})
		start := time.Now()
		advice, err := leader.Demote(t.Context())
		if err != nil || (advice != "") != (n == 3) {
			t.Fatalf("demote: %q, %v", advice, err)
		}
		t.Logf("%s was demoted in %v: %s", leader.o.Self.Name, time.Since(start), advice)
		if _, err := os.Stat(dataDir(leader.o.StateDir)); err == nil {
			t.Error("its data are still there")
		}
		follows(t, leader, a, b, c, d)
		follows(t, d, a, b, c)
		if s := leader.Status(); s.Role != RoleClient || s.Embedded || slices.Contains(s.Endpoints, cl.endpoint(leader.o.Self.Name)) {
			t.Errorf("status %+v", s)
		}
	}
	var last *Catalog
	eventually(t, "one is left", func() bool {
		last = map[string]*Catalog{"a": a, "b": b, "c": c}[leaderless(voters(d))]
		return last != nil
	})
	if _, err := last.Demote(t.Context()); err == nil || !strings.Contains(err.Error(), "only vote") {
		t.Errorf("the last one: %v", err)
	}
	eventually(t, "d asks the last one only", func() bool {
		return slices.Equal(d.client.Endpoints(), []string{cl.endpoint(last.o.Self.Name)})
	})

	// A client that knows of servers by their own word finds the last after a
	// restart, though it joined by another.
	d.Close()
	d = cl.start("d", cl.join("a"))
	settled(t, d)
	if _, err := d.Promote(t.Context()); err != nil {
		t.Errorf("promote d: %v", err)
	}
}

// TestARemovedServerIsAsked: its etcd serves on for a second, in which others may ask how it is.
func TestARemovedServerIsAsked(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	h := cl.three()
	a, c := h[0], h[2]
	endpoint := c.server.endpoint
	removed := make(chan error, 1)
	go func() { removed <- a.removeMember(t.Context(), "c") }()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := c.ask(ctx, endpoint)
		cancel()
		if err != nil {
			if err := <-removed; err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(err.Error(), "it was removed") {
				t.Errorf("it says %v", err)
			}
			return
		}
	}
}

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
	if _, err := a.ClaimVIP(ctx, ServiceID{DefaultStack, "web"}, netip.MustParseAddr("10.96.0.1")); !errors.Is(err, ErrAway) {
		t.Errorf("a claim without a quorum: %v", err)
	}
	a.SetAlive(map[string]bool{"b": false})
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := a.RemoveNode(ctx, "b", false); !errors.Is(err, ErrAway) {
		t.Errorf("remove a node without a quorum: %v", err)
	}
	a.SetAlive(nil)
	eventually(t, "the last state serves", func() bool { return same(before, a.Snapshot()) })

	// One that serves the store and one that does not, both after a restart.
	closeAll(a, d)
	var restarted []*Catalog
	for _, node := range []string{"a", "d"} {
		x := cl.open(node, inAHurry)
		restarted = append(restarted, x)
		if !x.RestoreLocal() {
			t.Errorf("%s has nothing to restore", node)
		}
		eventually(t, "a Snapshot", func() bool { return x.Snapshot() != nil })
		if got := *x.Snapshot(); !slices.EqualFunc(got.Services, before.Services, func(a, b Service) bool { return a.equal(&b) }) ||
			!slices.Equal(got.Nodes, before.Nodes) {
			t.Errorf("before %+v, after, on %s, %+v", before, node, got)
		}
		if s := x.Status(); s.Connected || !s.FromCache {
			t.Errorf("status of %s: %+v", node, s)
		}
		x.SetLocal(local(ctr(node, "new", fmt.Sprintf("10.0.%d.9", node[0]-'a'), "web")))
		eventually(t, "its own come and go", func() bool { return strings.Contains(tasks(x, "web"), node+"/new") })
	}

	b := cl.start("b")
	start := time.Now()
	eventually(t, "b sees the new ones", func() bool {
		got := tasks(b, "web")
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
	for _, x := range []*Catalog{a, b} {
		eventually(t, "c is forgotten", func() bool {
			return !strings.Contains(tasks(x, "web"), "c/") && len(x.Snapshot().Nodes) == 2 && len(x.client.Endpoints()) == 2
		})
	}
	// One that comes back nevertheless, its certificate still good, finds out.
	c := cl.start("c")
	eventually(t, "c is a client", func() bool { return c.Status().Role == RoleClient })
	settled(t, c)
	follows(t, c, a)
	hasVoters(t, a, "a b")
	if _, err := c.Promote(t.Context()); err != nil {
		t.Error(err)
	}
	follows(t, a, c)
}

func TestAPromotionThatBrokeOffCanBeRepeated(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	cl.checked = true
	a := cl.start("a")
	if err := a.Serve(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := cl.start("b", cl.join("a"))
	settled(t, b)
	peer := b.o.Peers.peerURL()
	if _, err := a.client.MemberAddAsLearner(t.Context(), []string{peer.String()}); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dataDir(b.o.StateDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	hasVoters(t, a, "a b")

	// One that breaks off while it waits leaves nothing behind.
	c := cl.start("c", cl.join("a"))
	settled(t, c)
	eventually(t, "c knows b", func() bool { return len(c.client.Endpoints()) == 2 })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := c.Promote(ctx)
	if err == nil {
		t.Error("promoted before the cluster settled")
	}
	if s := c.Status(); s.Role != RoleClient || s.Embedded {
		t.Errorf("status %+v, after %v", s, err)
	}
	follows(t, c, a, b)
	if _, err := c.Promote(t.Context()); err != nil {
		t.Error(err)
	}
	hasVoters(t, a, "a b c")
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
	a.SetLocal(local(ctr("a", "news", "10.0.9.1", "web")))
	settled(t, a)
	if got := tasks(d, "web"); strings.Contains(got, "news") {
		t.Fatalf("the watch is not frozen: %s", got)
	}
	start := time.Now()
	d.SetAlive(map[string]bool{"z": false})
	// The keepalives of the connection fail after 10 s at the soonest.
	eventuallyWithin(t, 6*time.Second, "d is told by a", func() bool { return strings.Contains(tasks(d, "web"), "a/news") })
	t.Logf("told after %v", time.Since(start))
	follows(t, d, a)
}

func TestAServerMoves(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	h := cl.three()
	h[2].Close()
	dir := cl.dirs["c"]
	moved := cl.open("c", func(o *Options) { o.Self.Addr, o.Peers = cl.addr("f"), cl.peers("f", dir) })
	moved.SetLocal(local())
	settled(t, moved)
	for _, x := range h[:2] {
		eventually(t, "the others ask it there", func() bool { return slices.Contains(x.client.Endpoints(), cl.endpoint("f")) })
	}
	members, err := h[0].members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "its peers know", func() bool {
		members, err = h[0].members(t.Context())
		return err == nil && slices.ContainsFunc(members, func(m *member) bool { return strings.Contains(m.PeerURLs[0], cl.addr("f").String()) })
	})
	h[1].Close()
	follows(t, moved, h[0])
}

func TestTwoOfThreeServersMoveAtOnce(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	h := cl.three()
	closeAll(h[1], h[2])
	var moved [2]*Catalog
	for i, to := range map[int]string{0: "f", 1: "g"} {
		node := h[i+1].o.Self.Name
		dir := cl.dirs[node]
		moved[i] = cl.start(node, func(o *Options) { o.Self.Addr, o.Peers = cl.addr(to), cl.peers(to, dir) })
	}
	for _, x := range moved {
		settled(t, x)
	}
	follows(t, moved[0], moved[1], h[0])
	h[0].Close() // each has to know where the other is by now, or soon
	follows(t, moved[0], moved[1])
}

func TestTheOnlyServerMoves(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	a := cl.start("a")
	if err := a.Serve(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := cl.start("b", cl.join("a"))
	settled(t, b)
	a.Close()
	dir := cl.dirs["a"]
	moved := cl.start("a", func(o *Options) { o.Self.Addr, o.Peers = cl.addr("f"), cl.peers("f", dir) })
	settled(t, moved)
	if err := b.Found([]string{"f:2379"}); err == nil {
		t.Error("an endpoint without an address was taken")
	}
	if err := b.Found([]string{cl.endpoint("f")}); err != nil {
		t.Fatal(err)
	}
	follows(t, moved, b)
	follows(t, b, moved)
	eventually(t, "b asks it there only", func() bool { return slices.Equal(b.client.Endpoints(), []string{cl.endpoint("f")}) })
	eventually(t, "b remembers it there", func() bool {
		p, err := readPlace(cl.dirs["b"])
		return err == nil && slices.Equal(p.Servers, []string{cl.endpoint("f")})
	})
}

func TestWhoHasAPlace(t *testing.T) {
	for text, want := range map[string]bool{"": false, `{"role":"alone"}`: false, `{"role":"client"}`: true, `{"role":"server"}`: true} {
		dir := t.TempDir()
		if text != "" {
			if err := os.WriteFile(placePath(dir), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := HasPlace(dir); got != want || err != nil {
			t.Errorf("%q: %t, %v", text, got, err)
		}
	}
}

func TestJoinIsRefusedWithAStoreOfOnesOwn(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	a := cl.start("a")
	settled(t, a)
	a.Close()
	o := a.o
	o.Join = []string{cl.endpoint("b")}
	if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "has a store of its own") {
		t.Errorf("got %v", err)
	}
	o.StateDir, o.Join = shortDir(t), []string{"b:2379"}
	if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "https://ADDR:PORT") {
		t.Errorf("got %v", err)
	}
}

func TestAnExternalStoreIsNotOursToChange(t *testing.T) {
	t.Parallel()
	etcd := etcdServer(t, shortDir(t))
	a := open(t, "a", shortDir(t), at(etcd.endpoint))
	a.SetLocal(local())
	settled(t, a)
	_, perr := a.Promote(t.Context())
	_, derr := a.Demote(t.Context())
	for _, err := range []error{a.Serve(t.Context()), perr, derr} {
		if err == nil || !strings.Contains(err.Error(), "an etcd of yours") {
			t.Errorf("got %v", err)
		}
	}
	if got := a.Status().Role; got != RoleExternal {
		t.Errorf("role %s", got)
	}
}
