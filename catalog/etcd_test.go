package catalog

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"shoal/model"
	"shoal/store/etcd"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

func TestTwoHostsNeverClaimOneAddressTwice(t *testing.T) {
	t.Parallel()
	a := open(t, "a", shortDir(t))
	b := open(t, "b", shortDir(t), beside(t, a))
	var mu sync.Mutex
	given := map[model.ServiceID]netip.Addr{}
	var work sync.WaitGroup
	for w := range 8 {
		c := []*Catalog{a, b}[w%2]
		work.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 3))
			for range 60 {
				id := model.ServiceID{Stack: model.DefaultStack, Name: fmt.Sprintf("s%d", rnd.IntN(25))}
				addr := netip.AddrFrom4([4]byte{10, 96, 0, byte(rnd.IntN(40))})
				got, err := c.ClaimVIP(t.Context(), id, addr)
				if err != nil {
					if !strings.Contains(err.Error(), "is the VIP of") {
						t.Error(err)
					}
					continue
				}
				mu.Lock()
				if old, ok := given[id]; ok && old != got {
					t.Errorf("%s was given %s and %s", id, old, got)
				}
				given[id] = got
				mu.Unlock()
			}
		})
	}
	work.Wait()
	holders := map[netip.Addr]model.ServiceID{}
	for id, addr := range given {
		if other, ok := holders[addr]; ok {
			t.Errorf("%s was given to %s and %s", addr, id, other)
		}
		holders[addr] = id
	}
	if len(given) < 20 {
		t.Errorf("only %d services got a VIP", len(given))
	}
}

func TestResumesAfterCompaction(t *testing.T) {
	t.Parallel()
	dir, away := shortDir(t), shortDir(t)
	server := etcdServer(t, dir)
	a := open(t, "a", shortDir(t), at(t, server.endpoint))
	b := open(t, "b", shortDir(t), at(t, server.endpoint))
	a.SetLocal(local())
	b.SetLocal(local(ctr("b", "1", "10.0.1.1", "web"), ctr("b", "2", "10.0.1.2", "web")))
	eventually(t, "b's tasks", func() bool { return tasks(a, "web") == "b/1 b/2" })
	settled(t, b)
	b.Close()
	server.close()

	// The same data, where the catalog does not see it: one task goes, one
	// comes, and the history of that is thrown away.
	if err := os.Rename(filepath.Join(dir, "etcd"), filepath.Join(away, "etcd")); err != nil {
		t.Fatal(err)
	}
	server = etcdServer(t, away)
	cl := client(t, server.endpoint)
	c := ctr("b", "3", "10.0.1.3", "web")
	if _, err := cl.Delete(t.Context(), taskKey("b", "1")); err != nil {
		t.Fatal(err)
	}
	r, err := cl.Put(t.Context(), taskKey("b", "3"), encode(&c))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Compact(t.Context(), r.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	server.close()
	if err := os.Rename(filepath.Join(away, "etcd"), filepath.Join(dir, "etcd")); err != nil {
		t.Fatal(err)
	}
	etcdServer(t, dir)
	eventually(t, "what is there now", func() bool { return tasks(a, "web") == "b/2 b/3" })
}

func TestLostLeaseIsGrantedAnewWithAllRecords(t *testing.T) {
	t.Parallel()
	server := etcdServer(t, shortDir(t))
	a := open(t, "a", shortDir(t), at(t, server.endpoint))
	a.SetLocal(local(ctr("a", "1", "10.0.0.1", "web"), ctr("a", "2", "10.0.0.2", "web")))
	settled(t, a)
	old := a.Status().Lease
	cl := client(t, server.endpoint)
	a.mu.Lock()
	lease := a.lease
	a.mu.Unlock()
	if r, err := cl.TimeToLive(t.Context(), lease); err != nil || r.TTL < int64((24*time.Hour).Seconds()) {
		t.Errorf("a host that is away is forgotten: %+v, %v", r, err)
	}
	if _, err := cl.Revoke(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	before := a.Snapshot().Revision
	eventually(t, "a new lease", func() bool { return a.Status().Lease != old })
	settled(t, a)
	r, err := cl.Get(t.Context(), root, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kvs) != 3 {
		t.Errorf("%d records, not the node's and two tasks'", len(r.Kvs))
	}
	for _, kv := range r.Kvs {
		want := a.Status().Lease
		if string(kv.Key) == nodeKey("a") {
			want = "0"
		}
		if fmt.Sprintf("%x", kv.Lease) != want {
			t.Errorf("%s is under lease %x, not %s", kv.Key, kv.Lease, want)
		}
	}
	if after := a.Snapshot().Revision; after != before {
		t.Errorf("%d Snapshots came of it", after-before)
	}
}

func TestRecordsOutliveAnAgentForTheirLease(t *testing.T) {
	t.Parallel()
	a := open(t, "a", shortDir(t))
	a.SetLocal(local())
	b := open(t, "b", shortDir(t), beside(t, a), func(o *Options) { o.LeaseTTL = 2 * time.Second })
	b.SetLocal(local(ctr("b", "1", "10.0.1.1", "web")))
	if _, err := a.ClaimVIP(t.Context(), model.ServiceID{Stack: model.DefaultStack, Name: "web"}, netip.MustParseAddr("10.96.0.1")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b's task", func() bool { return tasks(a, "web") == "b/1" })
	settled(t, b)
	b.Close()
	if got := tasks(a, "web"); got != "b/1" {
		t.Errorf("right after b stopped: %q", got)
	}
	eventually(t, "b's lease is over, and its service idle", func() bool {
		svc, _ := a.Snapshot().Service(model.ServiceID{Stack: model.DefaultStack, Name: "web"})
		return len(svc.Tasks) == 0 && !svc.IdleSince.IsZero()
	})
	if n := len(a.Snapshot().Nodes); n != 2 {
		t.Errorf("%d hosts are known, not both", n)
	}
}

func TestEtcdRestarts(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	server := etcdServer(t, dir)
	// That the lease is gone is noticed when it is to be kept, at a third of it.
	lease := func(o *Options) { o.LeaseTTL = 15 * time.Second }
	a := open(t, "a", shortDir(t), at(t, server.endpoint), lease)
	b := open(t, "b", shortDir(t), at(t, server.endpoint), lease)
	for i, c := range []*Catalog{a, b} {
		c.SetLocal(local(ctr(c.o.Self.Name, "1", fmt.Sprintf("10.0.%d.1", i), "web")))
	}
	for _, c := range []*Catalog{a, b} {
		eventually(t, "both tasks", func() bool { return tasks(c, "web") == "a/1 b/1" })
	}
	server.close()
	b.SetLocal(local(ctr("b", "2", "10.0.1.2", "web")))
	eventually(t, "b sees its own change with etcd away", func() bool { return tasks(b, "web") == "a/1 b/2" })
	if got := tasks(a, "web"); got != "a/1 b/1" {
		t.Errorf("with etcd away: %q", got)
	}
	server = etcdServer(t, dir)
	eventually(t, "b's new task", func() bool { return tasks(a, "web") == "a/1 b/2" })
	settled(t, a)
	settled(t, b)

	// An etcd that comes back with nothing is told everything again, and
	// watched though its revisions are lower than those seen.
	cl := client(t, server.endpoint)
	for range 100 {
		if _, err := cl.Put(t.Context(), root+"unknown", ""); err != nil {
			t.Fatal(err)
		}
	}
	rev := revision(t, cl)
	for _, c := range []*Catalog{a, b} {
		eventually(t, "the newest revision is seen", func() bool { return c.Status().Revision >= rev })
	}
	server.close()
	if err := os.RemoveAll(filepath.Join(dir, "etcd")); err != nil {
		t.Fatal(err)
	}
	etcdServer(t, dir)
	eventually(t, "the records are there again", func() bool {
		r, err := cl.Get(t.Context(), root, clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && r.Count == 4
	})
	a.SetLocal(local())
	eventually(t, "changes are seen again", func() bool { return tasks(b, "web") == "b/2" })
}

func TestUnreadableRecordsHarmNobody(t *testing.T) {
	t.Parallel()
	server := etcdServer(t, shortDir(t))
	cl := client(t, server.endpoint)
	good, stray := ctr("b", "1", "10.0.1.1", "web"), ctr("b", "2", "10.0.1.2", "web")
	bad := ctr("b", "4", "10.0.1.2", "web")
	bad.Tasks[0].Service.Name = "Not A Label"
	for key, value := range map[string]string{
		taskKey("b", "1"):          strings.Replace(encode(&good), "{", `{"fromANewerVersion":[1],`, 1),
		taskKey("b", "other"):      encode(&stray),
		taskKey("b", "3"):          `{"id":`,
		taskKey("b", "4"):          encode(&bad),
		nodesRoot + "c":            `[]`,
		servicesRoot + "default/x": `{"vip":"10.96.0.300"}`,
		servicesRoot + "X/Y/Z":     `{}`,
		root + "unknown/thing":     `?`,
	} {
		if _, err := cl.Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	log := new(logBuffer)
	a := open(t, "a", shortDir(t), at(t, server.endpoint), func(o *Options) { o.Log = slog.New(slog.NewTextHandler(log, nil)) })
	a.SetLocal(local(ctr("a", "1", "10.0.0.1", "web")))
	settled(t, a)
	if got := tasks(a, "web"); got != "a/1 b/1" {
		t.Errorf("tasks %q", got)
	}
	if got := a.Status().Unreadable; len(got) != 6 {
		t.Errorf("unreadable: %q", got)
	}
	x := model.ServiceID{Stack: model.DefaultStack, Name: "x"}
	if _, err := a.ClaimVIP(t.Context(), x, netip.MustParseAddr("10.96.0.3")); err == nil || !strings.Contains(err.Error(), "service rm") {
		t.Errorf("claim over an unreadable record: %v", err)
	}
	if err := a.RemoveService(t.Context(), x); err != nil {
		t.Error(err)
	}
	if _, err := a.ClaimVIP(t.Context(), x, netip.MustParseAddr("10.96.0.3")); err != nil {
		t.Error(err)
	}
	if _, err := cl.Put(t.Context(), taskKey("b", "3"), `{`); err != nil {
		t.Fatal(err)
	}
	settled(t, a)
	eventually(t, "the removed one is no longer listed", func() bool { return len(a.Status().Unreadable) == 5 })
	if n := strings.Count(log.String(), taskKey("b", "3")); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log)
	}
}

func FuzzDecode(f *testing.F) {
	c := ctr("b", "1", "10.0.1.1", "web")
	f.Add(taskKey("b", "1"), encode(&c))
	f.Add(nodeKey("b"), encode(model.Node{Name: "b"}))
	f.Add(serviceKey(model.ServiceID{Stack: "a", Name: "b"}), encode(ServiceRecord{}))
	f.Fuzz(func(t *testing.T, key, value string) {
		e, err := decode(key, []byte(value))
		if err != nil {
			return
		}
		r := newRecords("a")
		if e.container != nil {
			r.putContainer(*e.container)
		}
		if e.node != nil {
			r.putNode(*e.node)
		}
		s := build(new(model.Snapshot), model.Node{}, r, r.takeChanges())
		for _, svc := range s.Services {
			if _, err := model.ParseServiceID(svc.ID.String()); err != nil {
				t.Errorf("%q: %q made service %s", key, value, svc.ID)
			}
		}
	})
}

func TestAnOutageLongerThanTheLeasesLosesNobody(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	server := etcdServer(t, dir)
	const ttl = 6 * time.Second // an agent is back within half of that
	lease := func(o *Options) { o.LeaseTTL = ttl }
	a := open(t, "a", shortDir(t), at(t, server.endpoint), lease)
	b := open(t, "b", shortDir(t), at(t, server.endpoint), lease)
	for i, c := range []*Catalog{a, b} {
		c.SetLocal(local(ctr(c.o.Self.Name, "1", fmt.Sprintf("10.0.%d.1", i), "web")))
	}
	for _, c := range []*Catalog{a, b} {
		eventually(t, "both tasks", func() bool { return tasks(c, "web") == "a/1 b/1" })
		settled(t, c)
	}
	before := a.Snapshot().Revision
	server.close()
	<-time.After(ttl + time.Second)
	server = etcdServer(t, dir)
	for _, c := range []*Catalog{a, b} {
		settled(t, c)
	}
	// Their leases are the old ones, and are kept again.
	cl := client(t, server.endpoint)
	for _, c := range []*Catalog{a, b} {
		least := int64(ttl)
		eventually(t, "the lease of "+c.o.Self.Name+" is kept", func() bool {
			c.mu.Lock()
			id := c.lease
			c.mu.Unlock()
			r, err := cl.TimeToLive(t.Context(), id)
			if err != nil {
				return false
			}
			least = min(least, r.TTL)
			return r.TTL > least
		})
	}
	r, err := cl.Get(t.Context(), tasksRoot, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || r.Count != 2 {
		t.Errorf("records %+v, %v", r, err)
	}
	if s := a.Snapshot(); tasks(a, "web") != "a/1 b/1" || s.Revision != before {
		t.Errorf("tasks %q, %d Snapshots came of it", tasks(a, "web"), s.Revision-before)
	}
}

// A backup of etcd is restored under two running agents: a watch waits for
// revisions that are long in coming, and leases look alive.
func TestRestoredBackupIsTakenInWhole(t *testing.T) {
	t.Parallel()
	dir, backup := shortDir(t), shortDir(t)
	server := etcdServer(t, dir)
	booted := func(run string) func(*Options) { return func(o *Options) { o.Run = run } }
	aDir := shortDir(t)
	a := open(t, "a", aDir, at(t, server.endpoint), booted("boot-1"))
	b := open(t, "b", shortDir(t), at(t, server.endpoint))
	a.SetLocal(local(ctr("a", "1", "10.0.0.1", "web")))
	b.SetLocal(local(ctr("b", "1", "10.0.1.1", "web"), ctr("b", "2", "10.0.1.2", "web")))
	settled(t, a)
	settled(t, b)
	eventually(t, "b's tasks", func() bool { return tasks(a, "web") == "a/1 b/1 b/2" })

	a.Close()
	server.close()
	if err := os.CopyFS(filepath.Join(backup, "etcd"), os.DirFS(filepath.Join(dir, "etcd"))); err != nil {
		t.Fatal(err)
	}
	server = etcdServer(t, dir)
	a = open(t, "a", aDir, at(t, server.endpoint), booted("boot-2")) // which the backup does not know
	b.SetLocal(local(ctr("b", "2", "10.0.1.2", "web"), ctr("b", "3", "10.0.1.3", "web")))
	for i := range 20 {
		a.SetLocal(local(ctr("a", "1", "10.0.0.1", "web"), ctr("a", "2", fmt.Sprintf("10.0.0.%d", 10+i), "web")))
		settled(t, a)
	}
	eventually(t, "the change", func() bool { return tasks(a, "web") == "a/1 a/2 b/2 b/3" })
	b.Close() // so that nobody but a mends its records
	server.close()
	if err := os.RemoveAll(filepath.Join(dir, "etcd")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(backup, "etcd"), filepath.Join(dir, "etcd")); err != nil {
		t.Fatal(err)
	}
	server = etcdServer(t, dir)
	cl := client(t, server.endpoint)
	rev := revision(t, cl)

	eventuallyWithin(t, 30*time.Second, "a goes by what etcd holds now, as b does not say what it has", func() bool { return tasks(a, "web") == "a/1 a/2 b/1 b/2" })
	settled(t, a)
	a.SetLocal(local(ctr("a", "2", "10.0.0.10", "web")))
	settled(t, a)
	if n := revision(t, cl) - rev; n > 10 {
		t.Errorf("%d revisions were written after the restore", n)
	}
	r, err := cl.Get(t.Context(), taskKey("a", ""), clientv3.WithPrefix())
	if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Key) != taskKey("a", "2") {
		t.Errorf("etcd has %v of a (%v)", r.Kvs, err)
	}
}

// A record that no run of an agent wrote says that one starts in the far future: a time after it could not be written.
func TestARunOfTheFarFutureIsPassedOver(t *testing.T) {
	t.Parallel()
	server := etcdServer(t, shortDir(t))
	if _, err := client(t, server.endpoint).Put(t.Context(), agentKey("a"), `{"run":"boot-0","since":"9999-12-31T23:59:59.9999Z"}`); err != nil {
		t.Fatal(err)
	}
	a := open(t, "a", shortDir(t), at(t, server.endpoint), func(o *Options) { o.Run = "boot-1" })
	a.SetLocal(local(ctr("a", "1", "10.0.0.1", "web")))
	settled(t, a)
	if got := tasks(a, "web"); got != "a/1" {
		t.Errorf("tasks %q", got)
	}
}

// A machine is cloned: two agents have the same name and, but for their boot,
// the same state.
func TestTheLaterOfTwoHostsWithOneNameStopsWriting(t *testing.T) {
	t.Parallel()
	server := etcdServer(t, shortDir(t))
	problems := func(reported chan<- []model.Problem, run, addr string) func(*Options) {
		return func(o *Options) {
			o.Run, o.Self.Addr = run, netip.MustParseAddr(addr)
			o.Report = func(ps []model.Problem) { reported <- ps }
		}
	}
	ofFirst, ofClone := make(chan []model.Problem, 1), make(chan []model.Problem, 1)
	dir, cloned := shortDir(t), shortDir(t)
	first := open(t, "a", dir, at(t, server.endpoint), problems(ofFirst, "boot-1", "192.0.2.1"))
	first.SetLocal(local(ctr("a", "1", "10.0.0.1", "web")))
	settled(t, first)
	cl := client(t, server.endpoint)
	before := revision(t, cl)

	clone := open(t, "a", cloned, at(t, server.endpoint), problems(ofClone, "boot-2", "192.0.2.2"))
	clone.SetLocal(local(ctr("a", "2", "10.0.0.2", "web")))
	select {
	case ps := <-ofClone:
		if len(ps) != 1 || ps[0].Code != model.DuplicateNode || !strings.Contains(ps[0].Reason, "at 192.0.2.1") {
			t.Errorf("the clone reports %+v", ps)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the clone reports nothing")
	}
	if _, err := clone.ClaimVIP(t.Context(), model.ServiceID{Stack: model.DefaultStack, Name: "web"}, netip.MustParseAddr("10.96.0.20")); model.CodeOf(err, "") != model.DuplicateNode {
		t.Errorf("the clone claims a VIP: %v", err)
	}
	// What the first one writes from here on is a marker: nothing of the clone's
	// comes after it.
	first.SetLocal(local(ctr("a", "1", "10.0.0.1", "web"), ctr("a", "3", "10.0.0.3", "web")))
	settled(t, first)
	if n := revision(t, cl) - before; n > 3 {
		t.Errorf("%d revisions, not those of two names and a task", n)
	}
	r, err := cl.Get(t.Context(), taskKey("a", ""), clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil || len(r.Kvs) != 2 || string(r.Kvs[0].Key) != taskKey("a", "1") || string(r.Kvs[1].Key) != taskKey("a", "3") {
		t.Errorf("the tasks in etcd: %v, %v", r.Kvs, err)
	}

	// An agent that starts again is the same run; after a reboot nobody objects.
	clone.Close()
	first.Close()
	before = revision(t, cl)
	first = open(t, "a", dir, at(t, server.endpoint), problems(ofFirst, "boot-1", "192.0.2.1"))
	first.SetLocal(local(ctr("a", "1", "10.0.0.1", "web"), ctr("a", "3", "10.0.0.3", "web")))
	settled(t, first)
	if n := revision(t, cl) - before; n > 0 {
		t.Errorf("%d revisions after a restart with nothing changed", n)
	}
	first.Close()
	first = open(t, "a", dir, at(t, server.endpoint), problems(ofFirst, "boot-3", "192.0.2.1"))
	first.SetLocal(local(ctr("a", "4", "10.0.0.4", "web")))
	settled(t, first)
	select {
	case ps := <-ofFirst:
		t.Errorf("the first one reports %+v", ps)
	default:
	}
}

// stuck is a watch whose request finds no connection. gRPC sends it once it has one, unless its context ends.
type stuck struct {
	grpc.ClientStream
	sends chan<- struct{}
}

func (s stuck) SendMsg(any) error {
	select {
	case s.sends <- struct{}{}:
	default:
	}
	<-s.Context().Done()
	return s.Context().Err()
}

// TestItClosesThoughItsWatchFindsNoEtcd: it may go on with its watch just as the etcd goes away.
func TestItClosesThoughItsWatchFindsNoEtcd(t *testing.T) {
	t.Parallel()
	sends := make(chan struct{}, 1)
	var watches atomic.Int32
	endpoint := etcdServer(t, shortDir(t)).endpoint
	client, err := etcd.Dial([]string{endpoint}, nil, grpc.WithChainStreamInterceptor(
		func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s, err := streamer(ctx, desc, cc, method, opts...)
			if err != nil || method != etcdserverpb.Watch_Watch_FullMethodName || watches.Add(1) == 1 {
				return s, err
			}
			return stuck{s, sends}, nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	a := open(t, "a", shortDir(t), func(o *Options) { o.Client = client })
	a.SetLocal(local())
	settled(t, a)
	client.Drop(endpoint)
	select {
	case <-sends:
	case <-time.After(30 * time.Second):
		t.Fatal("it does not watch again")
	}
	closed := make(chan struct{})
	go func() {
		a.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("it is not closed")
		client.Close() // ends the watch
	}
}
