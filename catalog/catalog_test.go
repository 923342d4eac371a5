package catalog

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"shoal/lab/wait"
	"shoal/model"
	"shoal/store/etcd"
)

// shortDir is a folder whose path is short enough for a socket in it (unix(7)).
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cat")
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

// Catalogs mostly wait: more tests at once than there are cores.
func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "8")
	os.Exit(m.Run())
}

// inAHurry waits for etcd no longer than a test wants to.
func inAHurry(o *Options) { o.cacheAfter = 500 * time.Millisecond }

// open opens the catalog of a host, and closes it with the test.
func open(t *testing.T, node, dir string, change ...func(*Options)) *Catalog {
	t.Helper()
	o := Options{Self: model.Node{Name: node, Addr: netip.MustParseAddr("192.0.2.1"), Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, node[0] - 'a', 0}), 24)}, StateDir: dir,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, f := range change {
		f(&o)
	}
	if o.Client == nil {
		at(t, etcdServer(t, shortDir(t)).endpoint)(&o)
	}
	c, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// at has a catalog kept in the etcd at that endpoint.
func at(t *testing.T, endpoint string) func(*Options) {
	t.Helper()
	c := client(t, endpoint)
	return func(o *Options) { o.Client = c }
}

// beside has a catalog kept where another one is.
func beside(t *testing.T, c *Catalog) func(*Options) {
	t.Helper()
	return at(t, c.client.Endpoints()[0])
}

// client makes a client of an etcd.
func client(t *testing.T, endpoint string) *etcd.Client {
	t.Helper()
	c, err := etcd.Dial([]string{endpoint}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	eventuallyWithin(t, 30*time.Second, what, cond)
}

func eventuallyWithin(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	wait.For(t, limit, what, cond)
}

// settled waits until the host's records in etcd are as they should be.
func settled(t *testing.T, c *Catalog) {
	t.Helper()
	eventually(t, "catalog of "+c.o.Self.Name+" is settled", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.snapshot.Load().Revision > 0 && isClosed(c.listed) && c.lastErr == nil && c.lease != 0 && len(c.drift(c.lease)) == 0
	})
}

// tasks are the tasks of a service in the newest Snapshot, as "node/container".
func tasks(c *Catalog, name string) string {
	s := c.Snapshot()
	if s == nil {
		return "no snapshot"
	}
	svc, _ := s.Service(model.ServiceID{Stack: model.DefaultStack, Name: name})
	if svc == nil {
		return "no service"
	}
	var names []string
	for _, t := range svc.Tasks {
		names = append(names, t.Node+"/"+t.Container)
	}
	return strings.Join(names, " ")
}

func local(c ...model.Container) model.Local { return model.Local{Containers: c} }

func revision(t *testing.T, c *etcd.Client) int64 {
	t.Helper()
	r, err := c.Get(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	return r.Header.Revision
}

func TestHostsSeeEachOthersTasks(t *testing.T) {
	t.Parallel()
	a := open(t, "a", shortDir(t))
	b := open(t, "b", shortDir(t), beside(t, a))
	a.SetLocal(local(ctr("a", "1", "10.0.0.1", "web"), ctr("a", "plain", "10.0.0.9")))
	b.SetLocal(local(ctr("b", "2", "10.0.1.1", "web")))
	for _, c := range []*Catalog{a, b} {
		eventually(t, "both tasks", func() bool { return tasks(c, "web") == "a/1 b/2" })
		eventually(t, "both hosts", func() bool { return len(c.Snapshot().Nodes) == 2 })
	}
	if n := b.Snapshot().Containers.Len(); n != 2 {
		t.Errorf("host b knows %d containers; one of a without labels is not worth a record", n)
	}
	a.SetLocal(local())
	eventually(t, "one task is left", func() bool { return tasks(b, "web") == "b/2" })
}

func TestNoSnapshotBeforeEngineAndEtcdAreKnown(t *testing.T) {
	t.Parallel()
	c := open(t, "a", shortDir(t))
	eventually(t, "etcd is known", func() bool { return isClosed(c.listed) })
	if c.Snapshot() != nil || !strings.Contains(c.Status().Waiting, "engine") {
		t.Errorf("snapshot %v, waiting for %q", c.Snapshot(), c.Status().Waiting)
	}
	c.SetLocal(local())
	eventually(t, "a snapshot", func() bool { return c.Snapshot() != nil })

	c = open(t, "a", shortDir(t), at(t, "unix:///nonexistent/etcd.sock"), inAHurry)
	c.SetLocal(local(ctr("a", "1", "10.0.0.1", "web")))
	if c.RestoreLocal(); c.Snapshot() != nil || !strings.Contains(c.Status().Waiting, "etcd") {
		t.Errorf("snapshot %v, waiting for %q", c.Snapshot(), c.Status().Waiting)
	}
}

func TestWatchIsAMailbox(t *testing.T) {
	t.Parallel()
	c := open(t, "a", shortDir(t))
	ctx, cancel := context.WithCancel(t.Context())
	slow := c.Watch(ctx)
	for i := range 50 {
		c.SetLocal(local(ctr("a", fmt.Sprint(i), "10.0.0.1", "web")))
		eventually(t, "each is published", func() bool { return tasks(c, "web") == fmt.Sprintf("a/%d", i) })
	}
	if s := <-slow; s.Services[0].Tasks[0].Container != "49" {
		t.Errorf("a slow reader got revision %d, the newest is %d", s.Revision, c.Snapshot().Revision)
	}
	if s := <-c.Watch(ctx); s != c.Snapshot() {
		t.Error("a new reader does not begin with the current one")
	}
	cancel()
	eventually(t, "the channel is closed", func() bool {
		select {
		case _, ok := <-slow:
			return !ok
		default:
			return false
		}
	})
}

func TestBurstsBecomeFewSnapshotsAndNothingNewNone(t *testing.T) {
	t.Parallel()
	a := open(t, "a", shortDir(t))
	b := open(t, "b", shortDir(t), beside(t, a))
	b.SetLocal(local())
	settled(t, b)
	var many []model.Container
	for i := range 1000 {
		many = append(many, ctr("a", fmt.Sprint(i), fmt.Sprintf("10.0.%d.%d", i>>8, i&255), "web"))
	}
	before := b.Snapshot().Revision
	a.SetLocal(model.Local{Containers: many})
	eventually(t, "all tasks", func() bool { return strings.Count(tasks(b, "web"), "/") == 1000 })
	if n := b.Snapshot().Revision - before; n > 100 {
		t.Errorf("1000 tasks made %d Snapshots", n)
	}
	settled(t, a)
	before, rev := a.Snapshot().Revision, revision(t, a.client)
	a.SetLocal(model.Local{Containers: many})
	start := time.Now()
	many[0] = ctr("a", "0", "10.9.9.9", "web")
	a.SetLocal(model.Local{Containers: append([]model.Container(nil), many...)})
	eventually(t, "a change", func() bool { return a.Snapshot().Revision > before })
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("a single change took %v", took)
	}
	settled(t, a)
	if n := a.Snapshot().Revision - before; n != 1 {
		t.Errorf("one change made %d Snapshots", n)
	}
	if n := revision(t, a.client) - rev; n != 1 {
		t.Errorf("one change made %d writes", n)
	}
}

// TestBuildingTakesATenthOfTheTimeInABurst makes single changes faster than
// Snapshots of that size can be built.
func TestBuildingTakesATenthOfTheTimeInABurst(t *testing.T) {
	a := open(t, "a", shortDir(t))
	var l model.Local
	for i := range 10000 {
		l.Containers = append(l.Containers, ctr("a", fmt.Sprint(i), "10.0.0.1", fmt.Sprintf("s%d", i)))
	}
	a.SetLocal(l)
	eventually(t, "a snapshot", func() bool { return a.Snapshot() != nil })
	building := func() time.Duration {
		var m dto.Metric
		if err := a.metrics.build.Write(&m); err != nil {
			t.Fatal(err)
		}
		return time.Duration(m.GetHistogram().GetSampleSum() * float64(time.Second))
	}
	before, start := building(), time.Now()
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	// On a busy machine a build may take longer than the longest pause allows
	// for: then another second may do better.
	for i, windows := 0, 1; ; i++ {
		<-tick.C
		a.mu.Lock()
		a.records.putService(model.ServiceID{Stack: model.DefaultStack, Name: "s1"}, ServiceRecord{VIP: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})})
		a.mu.Unlock()
		wake(a.changed)
		if time.Since(start) < time.Second {
			continue
		}
		took := building() - before
		if took > 0 && took < time.Second/4 {
			break
		}
		if windows++; windows > 5 {
			t.Fatalf("within a second, %v went into building Snapshots", took)
		}
		before, start = building(), time.Now()
	}
	web := ctr("a", "web", "10.0.0.2", "web")
	l.Containers = append(l.Containers, web)
	a.SetLocal(l)
	eventually(t, "what comes after the burst", func() bool { return tasks(a, "web") == "a/web" })
}

func TestRestartWithNothingChangedWritesNothing(t *testing.T) {
	t.Parallel()
	dir, kept := shortDir(t), at(t, etcdServer(t, shortDir(t)).endpoint)
	containers := local(ctr("a", "1", "10.0.0.1", "web"), ctr("a", "2", "10.0.0.2", "db"))
	a := open(t, "a", dir, kept)
	a.SetLocal(containers)
	settled(t, a)
	if _, err := a.ClaimVIP(t.Context(), model.ServiceID{Stack: model.DefaultStack, Name: "web"}, netip.MustParseAddr("10.96.0.1")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the VIP", func() bool {
		svc, _ := a.Snapshot().Service(model.ServiceID{Stack: model.DefaultStack, Name: "web"})
		return svc.VIP.IsValid()
	})
	settled(t, a)
	before, rev, lease := a.Snapshot(), revision(t, a.client), a.Status().Lease
	a.Close()

	a = open(t, "a", dir, kept)
	a.SetLocal(containers)
	settled(t, a)
	if after := a.Snapshot(); !same(before, after) {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if r := revision(t, a.client); r != rev {
		t.Errorf("etcd is at revision %d, was at %d", r, rev)
	}
	if l := a.Status().Lease; l != lease {
		t.Errorf("lease %s, was %s", l, lease)
	}
}

// TestARestIsInSnapshotsAndIsNotWritten: it comes with the change that begins it, and its end is one Snapshot.
func TestARestIsInSnapshotsAndIsNotWritten(t *testing.T) {
	t.Parallel()
	a := open(t, "a", shortDir(t))
	a.SetLocal(local(ctr("a", "1", "10.0.0.1", "web"), ctr("a", "2", "10.0.0.2", "web")))
	settled(t, a)
	first := a.Snapshot().Revision

	rests := local(ctr("a", "2", "10.0.0.2", "web"))
	rests.Resting = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	a.SetLocal(rests)
	settled(t, a)
	eventually(t, "the rest", func() bool { return tasks(a, "web") == "a/2" && slices.Equal(a.Snapshot().Resting, rests.Resting) })
	written := revision(t, a.client)
	generation := a.Edition().Generation

	a.SetLocal(local(ctr("a", "2", "10.0.0.2", "web")))
	eventually(t, "the rest's end", func() bool { return len(a.Snapshot().Resting) == 0 })
	settled(t, a)
	if n := a.Snapshot().Revision - first; n != 2 {
		t.Errorf("%d Snapshots, want one of the death and one of the rest's end", n)
	}
	if n := revision(t, a.client) - written; n != 0 {
		t.Errorf("the end of a rest made %d writes", n)
	}
	if again := a.Edition().Generation; again != generation {
		t.Error("the end of a rest made another list for other hosts")
	}
}

func TestRestoreLocal(t *testing.T) {
	t.Parallel()
	dir, kept := shortDir(t), at(t, etcdServer(t, shortDir(t)).endpoint)
	a := open(t, "a", dir, kept)
	if a.RestoreLocal() {
		t.Error("a new host had something to restore")
	}
	a.SetLocal(model.Local{Containers: []model.Container{ctr("a", "1", "10.0.0.1", "web")}, Networks: []model.Network{{Name: "bridge", Bridge: "docker0"}}})
	settled(t, a)
	before := a.Snapshot()
	a.Close()
	a = open(t, "a", dir, kept)
	recorded := func(when string) {
		t.Helper()
		c, known := a.Recorded("1")
		if is := c.Tasks; !known || len(is) != 1 || is[0].State != model.Running || !is[0].Started.Equal(epoch) {
			t.Errorf("%s, recorded are %+v", when, is)
		}
		if c, known := a.Recorded("2"); known {
			t.Errorf("%s, recorded is of no container %+v", when, c)
		}
	}
	recorded("before the engine answers")
	if !a.RestoreLocal() {
		t.Fatal("nothing to restore")
	}
	recorded("while the engine is away")
	settled(t, a)
	if !same(before, a.Snapshot()) {
		t.Errorf("before %+v, after %+v", before, a.Snapshot())
	}
	a.SetLocal(local())
	eventually(t, "the engine has the last word", func() bool { return tasks(a, "web") == "no service" })
}

func TestStartsFromDiskWhileEtcdIsAway(t *testing.T) {
	t.Parallel()
	etcdDir, dir := shortDir(t), shortDir(t)
	server := etcdServer(t, etcdDir)
	b := open(t, "b", shortDir(t), at(t, server.endpoint))
	b.SetLocal(local(ctr("b", "2", "10.0.1.1", "web")))
	settled(t, b)
	a := open(t, "a", dir, at(t, server.endpoint))
	a.SetLocal(local(ctr("a", "1", "10.0.0.1", "web")))
	web, vip := model.ServiceID{Stack: model.DefaultStack, Name: "web"}, netip.MustParseAddr("10.96.0.1")
	if _, err := b.ClaimVIP(t.Context(), web, vip); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both tasks and the VIP", func() bool {
		if tasks(a, "web") != "a/1 b/2" {
			return false
		}
		svc, _ := a.Snapshot().Service(web)
		return svc.VIP == vip
	})
	before := a.Snapshot()
	a.Close()
	b.Close()
	server.close()

	start := time.Now()
	a = open(t, "a", dir, at(t, server.endpoint), func(o *Options) { o.cacheAfter = time.Minute })
	a.StoreLost() // it is not waited for
	if !a.RestoreLocal() {
		t.Error("nothing to restore")
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	eventually(t, "a snapshot", func() bool { return a.Snapshot() != nil })
	if !same(before, a.Snapshot()) {
		t.Errorf("before %+v, after %+v", before, a.Snapshot())
	}
	if s := a.Status(); a.client.Connected() || !s.FromCache {
		t.Errorf("status %+v", s)
	}
	// The host's own containers go on coming and going.
	a.SetLocal(local(ctr("a", "3", "10.0.0.3", "web")))
	eventually(t, "the new one", func() bool { return tasks(a, "web") == "a/3 b/2" })

	server = etcdServer(t, etcdDir)
	settled(t, a)
	if s := a.Status(); s.FromCache || s.LastError != "" {
		t.Errorf("status %+v", s)
	}
	if r, err := client(t, server.endpoint).Get(t.Context(), taskKey("a", "3")); err != nil || len(r.Kvs) != 1 {
		t.Errorf("etcd was not told: %v, %v", r, err)
	}
}

func TestCacheOfAnotherHostOrDamagedIsNotUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache.jsonl")
	for _, content := range []string{
		`{"cache":{"node":"b"}}`,
		`{"cache":{"node":"b"}}` + "\n",
		`{"cache":{"node":"a"}}` + "\n" + `{"node":{"na` + "\n" + `{"node":{"name":"b"}}` + "\n",
		`{"cache":{"node":"a"}}` + "\n" + `{"container":{"id":"1","node":"a","tasks":[{"node":"b"}]}}` + "\n",
		``,
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := readCache(path, "a"); err == nil {
			t.Errorf("%s: used: %+v", content, c)
		}
	}
}

func TestNodeNamesThatCannotBeKeys(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "a/b", "a b", strings.Repeat("x", 254)} {
		if _, err := Open(t.Context(), Options{Self: model.Node{Name: name}, StateDir: t.TempDir()}); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
}

func TestRemoveService(t *testing.T) {
	t.Parallel()
	a := open(t, "a", shortDir(t))
	id, other := model.ServiceID{Stack: model.DefaultStack, Name: "web"}, model.ServiceID{Stack: "shop", Name: "web"}
	vip := netip.MustParseAddr("10.96.0.7")
	a.SetLocal(local(ctr("a", "1", "10.0.0.1", "web")))
	settled(t, a)
	if got, err := a.ClaimVIP(t.Context(), id, vip); got != vip || err != nil {
		t.Fatal(got, err)
	}
	if got, err := a.ClaimVIP(t.Context(), id, vip.Next()); got != vip || err != nil {
		t.Errorf("a second claim: %v, %v", got, err)
	}
	var taken *model.TakenError
	if _, err := a.ClaimVIP(t.Context(), other, vip); !errors.As(err, &taken) || taken.Holder != id {
		t.Errorf("another's claim: %v", err)
	}
	if err := a.RemoveService(t.Context(), id); err == nil || !strings.Contains(err.Error(), "c-1 on a") {
		t.Errorf("removed with a task: %v", err)
	}
	a.SetLocal(local())
	eventually(t, "it is idle", func() bool {
		svc, ok := a.Snapshot().Service(id)
		return ok && len(svc.Tasks) == 0 && !svc.IdleSince.IsZero() && svc.VIP == vip
	})
	a.SetLocal(local(ctr("a", "2", "10.0.0.1", "web")))
	eventually(t, "it is back, with its VIP", func() bool {
		svc, ok := a.Snapshot().Service(id)
		return ok && len(svc.Tasks) == 1 && svc.IdleSince.IsZero() && svc.VIP == vip
	})
	a.SetLocal(local())
	eventually(t, "the task is gone", func() bool { return len(a.taskNames(id)) == 0 })
	eventually(t, "it can be removed", func() bool { return a.RemoveService(t.Context(), id) == nil })
	if got, err := a.ClaimVIP(t.Context(), other, vip); got != vip || err != nil {
		t.Errorf("a claim after it was given back: %v, %v", got, err)
	}
	if err := a.RemoveService(t.Context(), id); !errors.Is(err, model.ErrNoService) {
		t.Errorf("removed twice: %v", err)
	}
}

// TestAVIPIsNotHandedOnAtOnce: clients may still use it for the service that had it.
func TestAVIPIsNotHandedOnAtOnce(t *testing.T) {
	t.Parallel()
	a := open(t, "a", shortDir(t), func(o *Options) { o.Rest = 3 * time.Second })
	id, other := model.ServiceID{Stack: model.DefaultStack, Name: "web"}, model.ServiceID{Stack: "shop", Name: "web"}
	vip := netip.MustParseAddr("10.96.0.7")
	give := func() (idle time.Time) {
		t.Helper()
		a.SetLocal(local(ctr("a", "1", "10.0.0.1", "web")))
		settled(t, a)
		if got, err := a.ClaimVIP(t.Context(), id, vip); got != vip || err != nil {
			t.Fatal(got, err)
		}
		a.SetLocal(local())
		eventually(t, "it is idle", func() bool {
			svc, ok := a.Snapshot().Service(id)
			if ok {
				idle = svc.IdleSince
			}
			return ok && !idle.IsZero()
		})
		return idle
	}
	give()
	eventually(t, "it can be removed", func() bool { return a.RemoveService(t.Context(), id) == nil })
	var resting *model.RestingError
	if got, err := a.ClaimVIP(t.Context(), other, vip); !errors.As(err, &resting) || resting.Addr != vip || !resting.Resting[vip].After(time.Now()) {
		t.Fatalf("handed on at once: %v, %v", got, err)
	}
	// The service that had it gets it back, and it rests for as long again.
	idle := give()
	eventually(t, "it can be removed again", func() bool { return a.RemoveService(t.Context(), id) == nil })
	eventually(t, "it is handed on in the end", func() bool { got, err := a.ClaimVIP(t.Context(), other, vip); return got == vip && err == nil })
	if took := time.Since(idle); took < 3*time.Second {
		t.Errorf("handed on after %s", took)
	}
	eventually(t, "the lease under which it rested does not take it", func() bool {
		r, err := a.client.Get(t.Context(), vipKey(vip))
		return err == nil && len(r.Kvs) == 1 && r.Kvs[0].Lease == 0
	})
	// One that was idle for longer is free at once.
	if got := a.rest(time.Now().Add(-4*time.Second), time.Now()); got != 0 {
		t.Errorf("it rests for %s more", got)
	}
}
