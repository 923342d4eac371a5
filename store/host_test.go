package store

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/catalog"
	"shoal/lab/wait"
	"shoal/model"
	"shoal/store/etcd"
)

// Stores mostly wait: more tests at once than there are cores.
func TestMain(m *testing.M) {
	if IsChild() {
		os.Exit(RunChild(revokedBy))
	}
	flag.Parse()
	flag.Set("test.parallel", "8")
	os.Exit(m.Run())
}

// revokedBy takes the certificate in a file for revoked.
func revokedBy(file string) func(*x509.Certificate) error {
	return func(c *x509.Certificate) error {
		if der, err := os.ReadFile(file); err == nil && bytes.Equal(der, c.Raw) {
			return errors.New("node b was removed")
		}
		return nil
	}
}

// shortDir is a folder whose path is short enough for a socket in it (unix(7)).
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// logBuffer is a log that a test reads.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	wait.For(t, 30*time.Second, what, cond)
}

// host is a host's store and the catalog in it.
type host struct {
	*Store
	*catalog.Catalog
}

func (h *host) Close() error {
	h.Catalog.Close()
	return h.Store.Close()
}

func (h *host) SetAlive(alive map[string]bool) {
	h.Store.SetAlive(alive)
	h.Catalog.SetAlive(alive)
}

// open opens the store of a host, and closes it with the test.
func open(t *testing.T, node, dir string, change ...func(*Options)) *host {
	t.Helper()
	o := Options{Node: node, StateDir: dir, unsynced: true, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, f := range change {
		f(&o)
	}
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	self := model.Node{Name: node, Addr: netip.MustParseAddr("192.0.2.1"), Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, node[0] - 'a', 0}), 24)}
	if o.Peers != nil {
		self.Addr = o.Peers.Addr
	}
	c, err := catalog.Open(t.Context(), catalog.Options{Self: self, StateDir: dir, Client: s.Client(), RemoveServer: s.RemoveServer, Log: o.Log})
	if err != nil {
		t.Fatal(err, s.Close())
	}
	h := &host{s, c}
	t.Cleanup(func() { h.Close() })
	return h
}

// at has a host use an etcd of the user's.
func at(endpoint string) func(*Options) {
	return func(o *Options) { o.Etcd = []string{endpoint} }
}

// etcdServer starts an etcd that is no host's.
func etcdServer(t *testing.T, dir string, peers *Peers) *server {
	t.Helper()
	s, err := startServer(t.Context(), serverConfig{Dir: dir, Name: "etcd", Peers: peers, Unsynced: true}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// isSettled tells whether the host's records in etcd are as they should be.
func (h *host) isSettled() bool {
	st := h.Status()
	h.mu.Lock()
	defer h.mu.Unlock()
	return st.Snapshot > 0 && st.Lease != "" && st.LastError == "" && st.Unsaved == 0 && h.servers[h.o.Node].value == h.record()
}

func settled(t *testing.T, h *host) {
	t.Helper()
	eventually(t, h.o.Node+" is settled", h.isSettled)
}

// ctr makes a container of the host with a task of the service web.
func ctr(node, id, addr string) model.Container {
	web := model.ServiceID{Stack: model.DefaultStack, Name: "web"}
	c := model.Container{ID: id, Name: "c-" + id, Node: node, Stack: model.DefaultStack, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
	c.Tasks = []model.Task{{Service: web, Node: node, Container: id, Name: c.Name, Addr: c.Addrs[0],
		State: model.Running, Weight: 1, Spec: &model.Spec{Mode: model.ModeVIP, Scheduler: "rr"}}}
	return c
}

func local(c ...model.Container) model.Local { return model.Local{Containers: c} }

// tasks are the tasks of the service web in the newest Snapshot, as "node/container".
func tasks(h *host) string {
	s := h.Snapshot()
	if s == nil {
		return "no snapshot"
	}
	svc, _ := s.Service(model.ServiceID{Stack: model.DefaultStack, Name: "web"})
	if svc == nil {
		return "no service"
	}
	var names []string
	for _, t := range svc.Tasks {
		names = append(names, t.Node+"/"+t.Container)
	}
	return strings.Join(names, " ")
}

// follows checks that a change on one host is seen on others, and how fast.
func follows(t *testing.T, on *host, by ...*host) {
	t.Helper()
	node := on.o.Node
	id := fmt.Sprint(time.Now().UnixNano())
	start := time.Now()
	on.SetLocal(local(ctr(node, id, fmt.Sprintf("10.0.%d.1", node[0]-'a'))))
	for _, h := range by {
		eventually(t, h.o.Node+" sees a change on "+node, func() bool { return strings.Contains(tasks(h), node+"/"+id) })
	}
	t.Logf("a change on %s was seen after %v", node, time.Since(start))
}

// same tells whether two Snapshots are equal but for their revision.
func same(a, b *model.Snapshot) bool {
	x, y := reflect.ValueOf(*a), reflect.ValueOf(*b)
	for i := range x.NumField() {
		if f := x.Type().Field(i); f.IsExported() && f.Name != "Revision" && !reflect.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
			return false
		}
	}
	return true
}

// revision is etcd's.
func revision(t *testing.T, c *etcd.Client) int64 {
	t.Helper()
	r, err := c.Get(t.Context(), serversRoot)
	if err != nil {
		t.Fatal(err)
	}
	return r.Header.Revision
}

// lastError is what is wrong with a host's store, or its catalog.
func lastError(h *host) string { return cmp.Or(h.Status().LastError, h.Health().Error) }

// closeAll closes several at once.
func closeAll(all ...*host) {
	var done sync.WaitGroup
	for _, h := range all {
		done.Go(func() { h.Close() })
	}
	done.Wait()
}
