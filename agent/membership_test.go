package agent

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"shoal/catalog"
	"shoal/lab/wait"
	"shoal/model"
	"shoal/store"
)

// member is a host on a loopback address, as far as it takes part in a cluster.
type member struct {
	t       *testing.T
	c       Config
	log     *slog.Logger
	store   *store.Store
	catalog *catalog.Catalog
	m       *membership
	end     func()
}

// newMember is host number n. The ports are fixed: another run of these tests at
// the same time has other addresses.
func newMember(t *testing.T, n byte) *member {
	t.Helper()
	dir, err := os.MkdirTemp("", "shoal") // short, for the socket in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	name := fmt.Sprintf("m%d", n)
	h := &member{t: t, c: Config{Node: name, StateDir: dir, Advertise: loopback(n)}}
	h.log = slog.New(slog.NewTextHandler(io.Writer(t.Output()), nil)).With("node", name)
	t.Cleanup(func() { h.stop() })
	return h
}

func loopback(n byte) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 253, byte(os.Getpid()), n})
}

// tryStart starts the host's part in the cluster.
func (h *member) tryStart() error {
	ctx, cancel := context.WithCancel(context.Background())
	h.end = cancel
	a := &Agent{config: h.c, log: h.log, registry: prometheus.NewRegistry()}
	if err := a.openCatalog(ctx, nil, func(string, ...any) {}); err != nil {
		return err
	}
	h.store, h.catalog, h.m = a.store, a.catalog, a.member
	h.catalog.SetLocal(model.Local{})
	h.eventually("it has a Snapshot", func() bool { return h.catalog.Snapshot() != nil })
	g := new(errgroup.Group)
	err := h.m.start(ctx, g)
	h.end = func() {
		cancel()
		if err := g.Wait(); err != nil {
			h.t.Error(err)
		}
		h.m.stop()
		if err := a.closeStore(); err != nil {
			h.t.Error(err)
		}
	}
	return err
}

func (h *member) start() {
	h.t.Helper()
	if err := h.tryStart(); err != nil {
		h.t.Fatal(err)
	}
}

func (h *member) stop() {
	if h.end != nil {
		h.end()
		h.end = nil
	}
}

// invite puts what it takes to join the host's cluster in the settings of another.
func (h *member) invite(other *member) {
	h.t.Helper()
	token, err := h.m.createToken(h.t.Context(), time.Hour, 1)
	if err != nil {
		h.t.Fatal(err)
	}
	other.c.Join, other.c.Token = []string{h.c.Advertise.String()}, token.Token
}

func (h *member) eventually(what string, ok func() bool) {
	h.t.Helper()
	wait.For(h.t, 30*time.Second, h.c.Node+": "+what, ok)
}

// knows waits until the host has it of the store that another has that address.
func (h *member) knows(other *member) {
	h.t.Helper()
	h.eventually(fmt.Sprintf("%s is at %s", other.c.Node, other.c.Advertise), func() bool {
		s := h.catalog.Snapshot()
		return s != nil && slices.ContainsFunc(s.Nodes, func(n model.Node) bool {
			return n.Name == other.c.Node && n.Addr == other.c.Advertise
		})
	})
}

func TestAHostThatDiedWhileItJoinedJoinsByTheSameCommand(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2)
	a.start()
	a.invite(b)
	first, _, _, err := identify(t.Context(), b.c, b.log) // and no more
	if err != nil {
		t.Fatal(err)
	}
	join := b.c.Join
	b.c.Join = nil
	if err, bad := b.tryStart(), (*ConfigError)(nil); !errors.As(err, &bad) || !strings.Contains(err.Error(), "--join") {
		t.Errorf("without --join: %v", err)
	}
	b.c.Join = join
	b.start()
	if got := b.store.Role(); got != store.RoleClient {
		t.Errorf("it is %s", got)
	}
	if b.m.id.Key() != first.Key() {
		t.Error("it has another key")
	}
	a.knows(b)
}

// TestAHostThatWasAwayForTooLongJoinsAgain: as the same host, by a new token.
func TestAHostThatWasAwayForTooLongJoinsAgain(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2)
	a.start()
	a.invite(b)
	b.start()
	key := b.m.id.Key()
	b.stop()
	b.expire(a)

	b.c.Token = ""
	if err, bad := b.tryStart(), (*ConfigError)(nil); !errors.As(err, &bad) || !strings.Contains(err.Error(), "token") {
		t.Errorf("without a token: %v", err)
	}
	join := b.c.Join
	b.c.Join = nil
	if err, bad := b.tryStart(), (*ConfigError)(nil); !errors.As(err, &bad) || !strings.Contains(err.Error(), "certificate ended on 2001-02-03") {
		t.Errorf("without --join: %v", err)
	}
	b.c.Join, b.c.Advertise = join, loopback(3) // to be told by the store
	a.invite(b)
	b.start()
	if b.m.id.Key() != key || b.m.id.Ended() {
		t.Errorf("it has the key %s, had %s; its certificate is good until %s", b.m.id.Key(), key, b.m.id.Expires())
	}
	a.knows(b)
}

// expire gives the host, which does not run, a certificate that ended long ago, by the CA of another.
func (h *member) expire(by *member) {
	h.t.Helper()
	file := func(m *member, name string) string { return filepath.Join(m.c.StateDir, "cluster", name) }
	decode := func(path string) []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			h.t.Fatal(err)
		}
		block, _ := pem.Decode(b)
		return block.Bytes
	}
	cert, err := x509.ParseCertificate(decode(file(h, "node.crt")))
	if err != nil {
		h.t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(decode(file(by, "ca.crt")))
	if err != nil {
		h.t.Fatal(err)
	}
	key, err := x509.ParsePKCS8PrivateKey(decode(file(by, "ca.key")))
	if err != nil {
		h.t.Fatal(err)
	}
	cert.NotBefore, cert.NotAfter = time.Date(2001, 1, 3, 0, 0, 0, 0, time.UTC), time.Date(2001, 2, 3, 0, 0, 0, 0, time.UTC)
	der, err := x509.CreateCertificate(rand.Reader, cert, ca, cert.PublicKey, key)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(file(h, "node.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// TestTheOnlyServerMoves: its clients know where it was and no more.
func TestTheOnlyServerMoves(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2)
	a.start()
	a.invite(b)
	b.start()
	b.c.Join, b.c.Token = nil, ""
	a.knows(b)
	b.knows(a)
	moveTo := func(h *member, n byte) {
		t.Helper()
		h.stop()
		h.c.Advertise = loopback(n)
	}

	moveTo(a, 3)
	a.start()
	b.knows(a)

	// And while one that knew it does not run.
	b.stop()
	moveTo(a, 4)
	a.start()
	b.start()
	b.knows(a)

	// Where neither knows where the other is, somebody has to say.
	moveTo(b, 5)
	moveTo(a, 6)
	a.start()
	b.c.Join = []string{a.c.Advertise.String()}
	b.start()
	b.knows(a)
	a.knows(b)
}

// TestALoneHostThatMovedAdmitsOthers: it has to have a certificate for its new address by then.
func TestALoneHostThatMovedAdmitsOthers(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2)
	a.start()
	a.stop()
	a.c.Advertise = loopback(3)
	a.start()
	a.invite(b)
	b.eventually("it joins", func() bool {
		err := b.tryStart()
		if err != nil {
			t.Log(err)
		}
		return err == nil
	})
	a.knows(b)
}
