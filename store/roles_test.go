package store

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/model"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
)

func TestALoneStoreOpensToOthers(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	a := cl.start("a")
	if _, err := os.Stat(filepath.Join(a.o.StateDir, "etcd.sock")); err != nil {
		t.Error(err)
	}
	web := model.ServiceID{Stack: model.DefaultStack, Name: "web"}
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
	if s := a.Health(); s.Role != RoleAlone || !s.Connected {
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
	for _, c := range []*host{a, b} {
		eventually(t, "both tasks", func() bool { return tasks(c) == "a/1 b/1" })
	}
	settled(t, b)
	if s := b.Health(); s.Role != RoleClient || s.Embedded || !slices.Equal(s.Endpoints, []string{cl.endpoint("a")}) {
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
	if s := a.Health(); s.Role != RoleServer || a.Serve(t.Context()) != nil {
		t.Errorf("status %+v", s)
	}
}

// A host that is removed keeps its connections, and etcd never asks for its
// certificate again.
func TestARemovedHostHearsNothingMoreOnOpenConnections(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	removed := filepath.Join(t.TempDir(), "removed")
	a := cl.start("a", func(o *Options) { o.Peers.RevokedFile = removed })
	if err := a.Serve(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, c := cl.start("b", cl.join("a")), cl.start("c", cl.join("a"))
	for _, host := range []*host{b, c} {
		settled(t, host)
	}
	follows(t, a, b, c)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	heard := b.client.Watch(ctx, "secret", clientv3.WithCreatedNotify())
	<-heard // it is there
	if err := os.WriteFile(removed, b.o.Peers.TLS.Certificates[0].Certificate[0], 0o600); err != nil {
		t.Fatal(err)
	}
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
		var leader *host
		eventually(t, "there is a leader", func() bool {
			for _, x := range []*host{a, b, c} {
				if strings.Contains(voters(d), x.o.Node+"*") {
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
		t.Logf("%s was demoted in %v: %s", leader.o.Node, time.Since(start), advice)
		if _, err := os.Stat(dataDir(leader.o.StateDir)); err == nil {
			t.Error("its data are still there")
		}
		follows(t, leader, a, b, c, d)
		follows(t, d, a, b, c)
		if s := leader.Health(); s.Role != RoleClient || s.Embedded || slices.Contains(s.Endpoints, cl.endpoint(leader.o.Node)) {
			t.Errorf("status %+v", s)
		}
	}
	var last *host
	eventually(t, "one is left", func() bool {
		last = map[string]*host{"a": a, "b": b, "c": c}[leaderless(voters(d))]
		return last != nil
	})
	if _, err := last.Demote(t.Context()); err == nil || !strings.Contains(err.Error(), "only vote") {
		t.Errorf("the last one: %v", err)
	}
	eventually(t, "d asks the last one only", func() bool {
		return slices.Equal(d.client.Endpoints(), []string{cl.endpoint(last.o.Node)})
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

// TestADemotedHostAsksTheOtherVoters, also those that it has not read of yet.
func TestADemotedHostAsksTheOtherVoters(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	a := cl.serving("a")
	b := cl.start("b", cl.join("a"))
	settled(t, b)
	if _, err := b.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b has read of both", func() bool { return len(b.Servers()) == 2 })
	b.mu.Lock()
	delete(b.servers, "a")
	b.place.Servers = nil
	b.mu.Unlock()
	if _, err := b.Demote(t.Context()); err != nil {
		t.Fatal(err)
	}
	follows(t, b, a)
}

// TestALostServerIsListedForAsLongAsItHasItsVote: where its removal breaks off, nobody would come back to it otherwise.
func TestALostServerIsListedForAsLongAsItHasItsVote(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	h := cl.three()
	a, c := h[0], h[2]
	c.Close()
	unlisted := a.client.Watch(t.Context(), serverKey("c"), clientv3.WithCreatedNotify())
	if r := <-unlisted; !r.Created {
		t.Fatalf("watch: %v", r.Err())
	}
	removed := make(chan error, 1)
	go func() { removed <- a.RemoveServer(t.Context(), "c", netip.Addr{}) }()
	if r := <-unlisted; r.Err() != nil || len(r.Events) != 1 || r.Events[0].Type != clientv3.EventTypeDelete {
		t.Fatalf("watch: %v %v", r.Events, r.Err())
	}
	if has, err := a.HasVote(t.Context(), "c"); has || err != nil {
		t.Errorf("it is listed no more, and has a vote: %t, %v", has, err)
	}
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
}

// TestAHostWhosePromotionItDidNotLiveToSeeIsRemoved: its member never told its name, and etcd takes no other one without a vote.
func TestAHostWhosePromotionItDidNotLiveToSeeIsRemoved(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	a := cl.serving("a")
	settled(t, a)
	peer := (&Peers{Addr: cl.addr("d")}).peerURL()
	if _, err := a.client.MemberAddAsLearner(t.Context(), []string{peer.String()}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		node string
		left int
	}{{"e", 2}, {"d", 1}} {
		if err := a.RemoveServer(t.Context(), step.node, cl.addr(step.node)); err != nil {
			t.Fatal(err)
		}
		if members, err := a.members(t.Context()); len(members) != step.left || err != nil {
			t.Errorf("%s is removed: %d members, want %d; %v", step.node, len(members), step.left, err)
		}
	}
}

// TestARemovedServerIsAskedHowItIs: its etcd serves on for up to a second, and panics when it is asked then.
func TestARemovedServerIsAskedHowItIs(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	h := cl.three()
	a, c := h[0], h[2]
	endpoint := c.server.endpoint
	removed := make(chan error, 1)
	go func() { removed <- a.RemoveServer(t.Context(), "c", netip.Addr{}) }()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := c.status(ctx, endpoint)
		cancel()
		if err != nil {
			t.Logf("it says %v", err) // or nothing: on a busy machine it has ended by now
			break
		}
	}
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	eventually(t, "c is a client, and misses nothing", func() bool { return c.Role() == RoleClient && c.Down() == nil })
}

func TestAPanicOfEtcdIsAnErrorForStatusOnly(t *testing.T) {
	panics := func(context.Context, any) (any, error) { panic("no such member") }
	_, err := recoverStatus(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: etcdserverpb.Maintenance_Status_FullMethodName}, panics)
	if grpcstatus.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "it was removed") {
		t.Errorf("status: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("the panic of another request was hidden")
		}
	}()
	recoverStatus(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: etcdserverpb.KV_Range_FullMethodName}, panics)
}

func TestAPromotionThatBrokeOffCanBeRepeated(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	cl.checked = true
	a := cl.serving("a")
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
	if s := c.Health(); s.Role != RoleClient || s.Embedded {
		t.Errorf("status %+v, after %v", s, err)
	}
	follows(t, c, a, b)
	if _, err := c.Promote(t.Context()); err != nil {
		t.Error(err)
	}
	hasVoters(t, a, "a b c")
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
	a := open(t, "a", shortDir(t), at(etcdServer(t, shortDir(t), nil).endpoint))
	a.SetLocal(local())
	settled(t, a)
	_, perr := a.Promote(t.Context())
	_, derr := a.Demote(t.Context())
	for _, err := range []error{a.Serve(t.Context()), perr, derr} {
		if err == nil || !strings.Contains(err.Error(), "an etcd of yours") {
			t.Errorf("got %v", err)
		}
	}
	if got := a.Role(); got != RoleExternal {
		t.Errorf("role %s", got)
	}
}
