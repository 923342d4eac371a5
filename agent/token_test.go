package agent

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"testing"
	"time"

	"shoal/catalog"
	"shoal/cluster"
	"shoal/model"
	"shoal/store"
)

// stateDir is a folder for a host's state. Its path is short: there is a socket in it.
func stateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "shoal")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func testLog(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

// openStore opens the store of a host, and the catalog in it.
func openStore(t *testing.T, c Config) (*store.Store, *catalog.Catalog) {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{Node: c.Node, StateDir: c.StateDir, Etcd: c.Etcd, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	cat, err := catalog.Open(t.Context(), catalog.Options{
		Self: model.Node{Name: c.Node, Addr: c.Advertise}, StateDir: c.StateDir, Client: s.Client(), Log: testLog(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cat.Close)
	return s, cat
}

func TestATokenThatNobodyCanUseIsNotLeftBehind(t *testing.T) {
	c := Config{Node: "a", Advertise: netip.MustParseAddr("127.0.77.1"), StateDir: stateDir(t)}
	id, err := cluster.Create(c.host(testLog(t)))
	if err != nil {
		t.Fatal(err)
	}
	s, cat := openStore(t, c)
	m := newMembership(c, id, s, cat, testLog(t))
	taken, err := net.Listen("tcp", netip.AddrPortFrom(c.Advertise, cluster.DefaultPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if token, err := m.createToken(t.Context(), time.Hour, 1); err == nil {
		t.Errorf("nobody can join, but there is %+v", token)
	}
	if left, err := m.reg.Tokens(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}

	taken.Close()
	defer m.server.Close()
	token, err := m.createToken(t.Context(), time.Hour, 1)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := m.reg.Tokens(t.Context()); err != nil || len(all) != 1 || all[0].ID != cluster.TokenID(token.Token) {
		t.Errorf("the tokens are %v, %v", all, err)
	}
}

// TestATokensPortIsNotClosedOnIt: a token is made while the last one's port is about to be closed.
func TestATokensPortIsNotClosedOnIt(t *testing.T) {
	h := newMember(t, 9)
	h.start()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // whoever answers will do
	}}
	for i := range 100 {
		token, err := h.m.createToken(t.Context(), time.Hour, 1)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			r, err := client.Get("https://" + netip.AddrPortFrom(h.c.Advertise, cluster.DefaultPort).String() + "/")
			if err != nil {
				t.Fatalf("token %d is there, and its port closed: %v", i+1, err)
			}
			r.Body.Close()
		}
		if err := h.m.reg.RemoveToken(t.Context(), cluster.TokenID(token.Token)); err != nil {
			t.Fatal(err)
		}
	}
}
