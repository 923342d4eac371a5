package cluster

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
)

func TestCertificatesAreRenewedAtTwoThirdsOfTheirLife(t *testing.T) {
	b := newBench(t)
	second := b.mustJoin("b", "127.0.1.2")
	servers := []netip.AddrPort{b.server.Addr()}
	// Made before, as by a server that was started long ago.
	serverTLS, client := b.id.ServerTLS(), second.HTTPClient()

	b.clock.turn(59 * 24 * time.Hour)
	if second.due() || b.id.due() {
		t.Error("renewal is due before 60 of 90 days")
	}
	b.clock.turn(26 * time.Hour)
	for _, id := range []*Identity{second, b.id} {
		if !id.due() {
			t.Errorf("renewal of %s is not due after 60 of 90 days", id.Node())
		}
		before, key := id.Expires(), id.Key()
		if err := id.Renew(t.Context(), b.reg, servers); err != nil {
			t.Fatal(err)
		}
		if got := id.Expires().Sub(before); got < 60*24*time.Hour {
			t.Errorf("the new certificate of %s lasts only %s longer", id.Node(), got)
		}
		if id.Key() != key || id.due() {
			t.Errorf("after renewal: key kept: %t, due: %t", id.Key() == key, id.due())
		}
		again, err := load(id.host, b.clock.now)
		if err != nil || !again.Expires().Equal(id.Expires()) {
			t.Errorf("on disk: %v", err)
		}
	}
	b.clock.turn(80 * 24 * time.Hour) // the old certificates have ended
	client.CloseIdleConnections()
	if got, err := hello(client, b.server.Addr()); got != "200 hello b" {
		t.Errorf("the client goes on: %q, %v", got, err)
	}
	cert, err := serverTLS.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil || !cert.Leaf.NotAfter.Equal(b.id.Expires()) {
		t.Errorf("the server shows a certificate until %v", cert.Leaf.NotAfter)
	}
}

func TestACertificateThatEndedNeedsAToken(t *testing.T) {
	b := newBench(t)
	second := b.mustJoin("b", "127.0.1.2")
	b.clock.turn(80 * 24 * time.Hour)
	if err := b.id.Renew(t.Context(), b.reg, nil); err != nil {
		t.Fatal(err)
	}
	b.clock.turn(11 * 24 * time.Hour)
	if _, err := second.Rejoin(t.Context(), []netip.AddrPort{b.server.Addr()}); err == nil {
		t.Fatal("it came back with a certificate that has ended")
	}
	if err := second.Renew(t.Context(), b.reg, []netip.AddrPort{b.server.Addr()}); err == nil || !strings.Contains(err.Error(), "a new token") {
		t.Errorf("renewed: %v", err)
	}
	again, err := b.join(second.host, b.token(0, 1))
	if err != nil || again.Key() != second.Key() {
		t.Errorf("with a token: %v", err)
	}
}

// TestCertificatesOfAClockThatWasAhead are good once it is right, and are made anew.
func TestCertificatesOfAClockThatWasAhead(t *testing.T) {
	b := newBench(t)
	b.clock.turn(80 * 24 * time.Hour)
	second := b.mustJoin("b", "127.0.1.2")
	b.clock.turn(-80 * 24 * time.Hour)
	if got, err := hello(second.HTTPClient(), b.server.Addr()); got != "200 hello b" {
		t.Errorf("%q, %v", got, err)
	}
	if b.id.due() || !second.due() {
		t.Errorf("renewal is due: %v, and of the one that is of another time: %v", b.id.due(), second.due())
	}
	if err := second.Renew(t.Context(), b.reg, []netip.AddrPort{b.server.Addr()}); err != nil || second.due() {
		t.Errorf("%v, still due: %v", err, second.due())
	}
}

func TestAHostThatMovedGetsACertificateForItsNewAddress(t *testing.T) {
	b := newBench(t)
	h := b.mustJoin("b", "127.0.1.2").host
	h.Addr = netip.MustParseAddr("127.0.1.22")
	moved, err := load(h, b.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	if !moved.due() {
		t.Fatal("renewal is not due")
	}
	b.inBackground(func(ctx context.Context) {
		moved.KeepFresh(ctx, b.reg, func() []netip.AddrPort { return []netip.AddrPort{b.server.Addr()} })
	})
	eventually(t, 10*time.Second, func() bool { return !moved.due() }, func() string { return "not renewed: " + b.log.String() })
	ms, err := b.reg.Members(t.Context())
	if err != nil || ms[1].Addr != h.Addr {
		t.Errorf("members: %+v, %v", ms, err)
	}
	// An address that it neither had nor speaks from is none of its own.
	err = call(t.Context(), moved.HTTPClient(), "POST", b.server.Addr(), "/v1/renew",
		encode(renewRequest{netip.MustParseAddr("127.0.1.1")}), new(renewResponse))
	wantError(t, err, "which it was not before")
}

// TestAHostWhoseRecordIsLostIsAMemberAgain: a store was made anew by a host that knew no members, with the same CA.
func TestAHostWhoseRecordIsLostIsAMemberAgain(t *testing.T) {
	b := newBench(t)
	second := b.mustJoin("b", "127.0.1.2")
	for what, again := range map[string]func() error{
		"as it starts": func() error { return b.reg.Enrol(t.Context(), second) },
		"as it renews its certificate": func() error {
			return second.Renew(t.Context(), b.reg, []netip.AddrPort{b.server.Addr()})
		},
	} {
		if _, err := b.store.Commit(t.Context(), nil, map[string][]byte{membersRoot + "b": nil}); err != nil {
			t.Fatal(err)
		}
		if err := again(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		m, revision, err := b.reg.member(t.Context(), "b")
		if err != nil || revision == 0 || m.Key != second.Key() || len(m.Certs) == 0 {
			t.Errorf("%s: its record is %+v, %v", what, m, err)
		}
	}
}

// TestAHostStaysEnrolled: also where the store loses its record while the agent runs.
func TestAHostStaysEnrolled(t *testing.T) {
	b := newBench(t)
	second := b.mustJoin("b", "127.0.1.2")
	ended := make(chan struct{})
	b.inBackground(func(ctx context.Context) { second.KeepEnrolled(ctx, b.reg); close(ended) })
	for range 2 {
		if _, err := b.store.Commit(t.Context(), nil, map[string][]byte{membersRoot + "b": nil}); err != nil {
			t.Fatal(err)
		}
		eventually(t, 3*time.Second, func() bool {
			m, revision, err := b.reg.member(t.Context(), "b")
			return err == nil && revision != 0 && m.Key == second.Key()
		}, func() string { return "it is no member" })
	}
	if err := b.reg.Remove(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(3 * time.Second):
		t.Error("it goes on although it was removed")
	}
	b.wantLog("not of the cluster any more")
}

func TestARemovedHostIsRefused(t *testing.T) {
	b := newBench(t)
	second := b.mustJoin("b", "127.0.1.2")
	third := b.mustJoin("c", "127.0.1.3")
	for _, id := range []*Identity{b.id, third} {
		b.inBackground(func(ctx context.Context) { id.WatchRemoved(ctx, b.reg) })
	}
	if got, err := hello(second.HTTPClient(), b.server.Addr()); err != nil {
		t.Fatal(got, err)
	}
	if err := b.reg.Remove(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	// Over the connection that is still open, and over new ones.
	eventually(t, 10*time.Second, func() bool {
		got, _ := hello(second.HTTPClient(), b.server.Addr())
		return got != "200 hello b"
	}, func() string { return "it is served on" })
	b.wantLog("node b was removed from the cluster")
	second.HTTPClient().CloseIdleConnections()
	if got, err := hello(second.HTTPClient(), b.server.Addr()); err == nil {
		t.Errorf("a new connection: %q", got)
	}
	if err := second.Renew(t.Context(), b.reg, []netip.AddrPort{b.server.Addr()}); err == nil {
		t.Error("its certificate was renewed")
	}
	if err := b.reg.Enrol(t.Context(), second); !errors.Is(err, ErrRemoved) {
		t.Errorf("it enrolled: %v", err)
	}
	if got, err := hello(third.HTTPClient(), b.server.Addr()); got != "200 hello c" {
		t.Errorf("another host: %q, %v", got, err)
	}
	if err := b.reg.Remove(t.Context(), "b"); !errors.Is(err, ErrRemoved) {
		t.Errorf("removing it again: %v", err)
	}

	t.Run("by a host that cannot ask the store", func(t *testing.T) {
		eventually(t, 10*time.Second, func() bool { return third.CheckRevoked(second.leaf()) != nil }, func() string { return "c has not heard" })
		b.store.setDown(true)
		defer b.store.setDown(false)
		eventually(t, 10*time.Second, func() bool {
			again, err := load(third.host, b.clock.now)
			return err == nil && again.CheckRevoked(second.leaf()) != nil
		}, func() string { return "after a restart it is accepted" })
	})
	t.Run("by a store that was put back to before it was removed", func(t *testing.T) {
		if _, err := b.store.Commit(t.Context(), nil, map[string][]byte{revokedRoot + second.Key(): nil}); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, func() bool {
			all, err := b.reg.revoked(t.Context())
			return err == nil && all[second.Key()].Node == "b"
		}, func() string { return "its revocation is not in the store again" })
		for who, id := range map[string]*Identity{"a": b.id, "c": third} {
			if id.CheckRevoked(second.leaf()) == nil {
				t.Errorf("%s lets it in", who)
			}
		}
	})
	t.Run("by etcd, which reads the CRL file", func(t *testing.T) {
		f := third.Files() // which does not hold the CA's key; it may be promoted any time
		info := transport.TLSInfo{CertFile: f.Cert, KeyFile: f.Key, TrustedCAFile: f.CA, ClientCertAuth: true, CRLFile: f.CRL}
		l, err := transport.NewListener("127.0.1.3:0", "https", &info)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		accepted := make(chan bool, 1)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				accepted <- true
				c.Close()
			}
		}()
		served := func(id *Identity) (got bool) {
			c, err := tls.DialWithDialer(dialFrom(id.host.Addr), "tcp", l.Addr().String(), id.ClientTLS())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetReadDeadline(time.Now().Add(2 * time.Second))
			c.Read(make([]byte, 1)) // closed by the other side, either way
			select {
			case got = <-accepted:
			default:
			}
			return got
		}
		eventually(t, 10*time.Second, func() bool { return !served(second) }, func() string { return "the removed host is served" })
		if !served(b.id) {
			t.Error("another host is not served")
		}
	})
	t.Run("and comes back with a new key and a token", func(t *testing.T) {
		again, err := b.join(second.host, b.token(0, 1))
		if err != nil {
			t.Fatal(err)
		}
		if again.Key() == second.Key() || again.CheckRevoked(again.leaf()) != nil {
			t.Error("it came back with the key that was revoked")
		}
		if got, err := hello(again.HTTPClient(), b.server.Addr()); got != "200 hello b" {
			t.Errorf("asked who it is: %q, %v", got, err)
		}
	})
	t.Run("until its last certificate has ended", func(t *testing.T) {
		b.clock.turn(certLife + 2*skew)
		if err := b.reg.Remove(t.Context(), "c"); err != nil {
			t.Fatal(err)
		}
		revoked, err := b.reg.revoked(t.Context())
		if err != nil || len(revoked) != 1 || revoked[third.Key()].Node != "c" {
			t.Errorf("on the list: %v, %v", revoked, err)
		}
	})
}

func TestEveryCertificateOfARemovedHostIsRevoked(t *testing.T) {
	b := newBench(t)
	second := b.mustJoin("b", "127.0.1.2")
	old := second.leaf().SerialNumber
	b.clock.turn(61 * 24 * time.Hour)
	if err := second.Renew(t.Context(), b.reg, []netip.AddrPort{b.server.Addr()}); err != nil {
		t.Fatal(err)
	}
	if err := b.reg.Remove(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	revoked, err := b.reg.revoked(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, c := range revoked[second.Key()].Certs {
		got[c.Serial] = true
	}
	if len(got) != 2 || !got[hex.EncodeToString(old.Bytes())] || !got[hex.EncodeToString(second.leaf().SerialNumber.Bytes())] {
		t.Errorf("revoked serials: %v", got)
	}
}

func TestIdentityOfAnotherNodeIsNotLoaded(t *testing.T) {
	b := newBench(t)
	h := b.id.host
	h.Node = "z"
	_, err := Load(h)
	wantError(t, err, "joined as node a")
	_, err = Create(b.id.host)
	wantError(t, err, "already holds")
	h = b.host("z", "127.0.1.1")
	if _, err := Load(h); !errors.Is(err, ErrNotJoined) {
		t.Errorf("an empty folder: %v", err)
	}
	other := newBench(t)
	_, err = b.join(other.id.host, b.token(0, 1))
	wantError(t, err, "another cluster")
}

func TestExpiredTokensAreForgottenAfterADay(t *testing.T) {
	b := newBench(t)
	b.token(time.Hour, 1)
	b.clock.turn(20 * time.Hour)
	b.token(time.Hour, 5)
	if ts, err := b.reg.Tokens(t.Context()); err != nil || len(ts) != 2 || ts[0].Uses != 5 {
		t.Errorf("tokens: %+v, %v", ts, err)
	}
	b.clock.turn(6 * time.Hour)
	b.token(time.Hour, 1)
	if ts, err := b.reg.Tokens(t.Context()); err != nil || len(ts) != 2 {
		t.Errorf("tokens: %+v, %v", ts, err)
	}
	for _, bad := range []struct {
		ttl  time.Duration
		uses int
	}{{-1, 1}, {MaxTokenTTL + 1, 1}, {0, -1}, {0, MaxTokenUses + 1}} {
		if _, err := b.reg.CreateToken(t.Context(), b.id, bad.ttl, bad.uses); err == nil {
			t.Errorf("a token for %s and %d uses was made", bad.ttl, bad.uses)
		}
	}
}

// TestHoweverMuchHasExpiredIsForgotten: etcd takes no more than 128 writes in a transaction.
func TestHoweverMuchHasExpiredIsForgotten(t *testing.T) {
	store := etcdStore(t)
	b := newBench(t)
	b.reg.store = store
	if err := b.reg.Enrol(t.Context(), b.id); err != nil {
		t.Fatal(err)
	}
	const many = 300
	ended := b.clock.now().Add(-48 * time.Hour)
	for i := range many {
		id := fmt.Sprintf("%012x", i)
		if _, err := store.Commit(t.Context(), nil, map[string][]byte{
			tokensRoot + id:  encode(tokenRecord{Token: Token{ID: id, Expires: ended}}),
			revokedRoot + id: encode(revocation{Node: "gone-" + id, Certs: []issued{{id, ended}}}),
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.reg.CreateToken(t.Context(), b.id, 0, 0); err != nil {
		t.Error(err)
	}
	if ts, err := b.reg.Tokens(t.Context()); err != nil || len(ts) != 1 {
		t.Errorf("%d tokens are left, %v; want the new one", len(ts), err)
	}
	if err := b.reg.Remove(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if left, err := b.reg.revoked(t.Context()); err != nil || len(left) != 1 || left[b.id.Key()].Node != "a" {
		t.Errorf("%d revocations are left, %v; want the one of a", len(left), err)
	}
}
