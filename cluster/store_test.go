package cluster

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/catalog"
	"shoal/lab/wait"
	"shoal/model"
	"shoal/store"
)

// memStore is a Store in memory.
type memStore struct {
	mu       sync.Mutex
	revision int64
	values   map[string][]byte
	written  map[string]int64
	watchers []chan struct{}
	down     bool             // answers nothing but errors
	read     func(key string) // called after each Get; nil: nothing
}

func newMemStore() *memStore {
	return &memStore{values: map[string][]byte{}, written: map[string]int64{}}
}

var errDown = errors.New("the store is down")

func (s *memStore) Get(_ context.Context, key string) ([]byte, int64, error) {
	s.mu.Lock()
	value, revision, down, read := s.values[key], s.written[key], s.down, s.read
	s.mu.Unlock()
	if down {
		return nil, 0, errDown
	}
	if read != nil {
		read(key)
	}
	return value, revision, nil
}

func (s *memStore) List(_ context.Context, prefix string) (map[string][]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, errDown
	}
	all := maps.Clone(s.values)
	maps.DeleteFunc(all, func(k string, _ []byte) bool { return !strings.HasPrefix(k, prefix) })
	return all, nil
}

func (s *memStore) Commit(_ context.Context, unchanged map[string]int64, write map[string][]byte) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return false, errDown
	}
	for key, rev := range unchanged {
		if s.written[key] != rev {
			return false, nil
		}
	}
	s.revision++
	for key, value := range write {
		if value == nil {
			delete(s.values, key)
			delete(s.written, key)
			continue
		}
		s.values[key], s.written[key] = value, s.revision
	}
	for _, w := range s.watchers {
		select {
		case w <- struct{}{}:
		default:
		}
	}
	return true, nil
}

func (s *memStore) Watch(ctx context.Context, _ string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := make(chan struct{}, 1)
	s.watchers = append(s.watchers, w)
	return w
}

func (s *memStore) setDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// etcdStore is a Store in an etcd of its own.
func etcdStore(t *testing.T) Store {
	t.Helper()
	dir, err := os.MkdirTemp("", "shoal") // a short path: there is a socket in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := store.Open(t.Context(), store.Options{Node: "etcd", StateDir: dir, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	c, err := catalog.Open(t.Context(), catalog.Options{Self: model.Node{Name: "etcd"}, StateDir: dir, Client: s.Client(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.KV()
}

// clock is a time that tests turn.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) turn(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// logBuffer holds what was logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// bench is a cluster of one host, "a" on 127.0.1.1, whose server listens.
type bench struct {
	t      *testing.T
	clock  *clock
	store  *memStore
	reg    *Registry
	id     *Identity
	server *Server
	log    *logBuffer
	port   uint16
}

func newBench(t *testing.T, change ...func(*ServerOptions)) *bench {
	t.Helper()
	b := &bench{t: t, clock: &clock{t: time.Now()}, store: newMemStore(), log: new(logBuffer), port: freePort(t)}
	b.reg = &Registry{b.store, b.clock.now}
	id, err := create(b.host("a", "127.0.1.1"), b.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	b.id = id
	if err := b.reg.Enrol(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	b.server = b.serve(id, change...)
	return b
}

func (b *bench) serve(id *Identity, change ...func(*ServerOptions)) *Server {
	b.t.Helper()
	o := ServerOptions{Identity: id, Registry: b.reg, Port: b.port}
	for _, f := range change {
		f(&o)
	}
	s := NewServer(o)
	s.Handle("GET /hello", helloHandler)
	if err := s.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { s.Close() })
	return s
}

func (b *bench) host(node, addr string) Host {
	return Host{
		Dir: filepath.Join(b.t.TempDir(), "cluster"), Node: node, Addr: netip.MustParseAddr(addr),
		Log: slog.New(slog.NewTextHandler(b.log, nil)),
	}
}

func (b *bench) token(ttl time.Duration, uses int) string {
	b.t.Helper()
	token, err := b.reg.CreateToken(b.t.Context(), b.id, ttl, uses)
	if err != nil {
		b.t.Fatal(err)
	}
	return token
}

func (b *bench) join(h Host, token string) (*Identity, error) {
	id, _, err := join(b.t.Context(), h, b.server.Addr(), token, b.clock.now)
	return id, err
}

func (b *bench) mustJoin(node, addr string) *Identity {
	b.t.Helper()
	id, err := b.join(b.host(node, addr), b.token(0, 0))
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

// inBackground runs f until the test is over.
func (b *bench) inBackground(f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	b.t.Cleanup(func() {
		cancel()
		<-done
	})
}

// wantLog fails unless the log holds all of these.
func (b *bench) wantLog(parts ...string) {
	b.t.Helper()
	eventually(b.t, 10*time.Second, func() bool {
		for line := range strings.Lines(b.log.String()) {
			all := true
			for _, p := range parts {
				all = all && strings.Contains(line, p)
			}
			if all {
				return true
			}
		}
		return false
	}, func() string {
		return "no line with " + strings.Join(parts, " and ") + " in the log:\n" + b.log.String()
	})
}

func wantError(t *testing.T, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Fatalf("error %v, want one with %q", err, part)
	}
}

func eventually(t *testing.T, within time.Duration, ok func() bool, what func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := wait.Until(ctx, func() error {
		if !ok() {
			return errors.New(what())
		}
		return nil
	}); err != nil {
		t.Fatalf("after %s: %v", within, err)
	}
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.1.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}
