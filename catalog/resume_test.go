package catalog

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"shoal/model"
	"shoal/store/etcd"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// pages counts the pages of lists of everything that a catalog reads. The one of that number fails.
func pages(t *testing.T, endpoint string, count *atomic.Int32, fails int32) func(*Options) {
	t.Helper()
	c, err := etcd.Dial([]string{endpoint}, nil, grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if r, ok := req.(*etcdserverpb.RangeRequest); ok && r.Limit == listPage {
				if count.Add(1) == fails {
					return status.Error(codes.Aborted, "for a test")
				}
			}
			return invoke(ctx, method, req, reply, cc, opts...)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return func(o *Options) { o.Client = c }
}

func TestAStartGoesOnFromTheStateOfTheLastRun(t *testing.T) {
	t.Parallel()
	dir, aDir, backup := shortDir(t), shortDir(t), shortDir(t)
	server := etcdServer(t, dir)
	late := model.ServiceID{Stack: model.DefaultStack, Name: "late"}
	port := model.PortClaim{Protocol: model.TCP, Port: 8080, Service: late}
	var listed atomic.Int32
	openA := func() *Catalog {
		listed.Store(0)
		a := open(t, "a", aDir, pages(t, server.endpoint, &listed, 0))
		a.SetLocal(local(ctr("a", "1", "10.0.0.1", "web")))
		return a
	}
	closeA := func(a *Catalog) {
		t.Helper()
		settled(t, a)
		a.Close()
	}

	b := open(t, "b", shortDir(t), at(t, server.endpoint))
	b.SetLocal(local(ctr("b", "1", "10.0.1.1", "web"), ctr("b", "2", "10.0.1.2", "web"), ctr("b", "3", "10.0.1.3", "gone")))
	settled(t, b)
	vip, err := b.ClaimVIP(t.Context(), model.ServiceID{Stack: model.DefaultStack, Name: "gone"}, netip.MustParseAddr("10.96.0.7"))
	if err != nil {
		t.Fatal(err)
	}
	a := openA()
	eventually(t, "b's tasks", func() bool { return tasks(a, "web") == "a/1 b/1 b/2" && tasks(a, "gone") == "b/3" })
	closeA(a)
	if listed.Load() != 1 {
		t.Errorf("the first start read %d pages", listed.Load())
	}
	server.close()
	if err := os.CopyFS(filepath.Join(backup, "etcd"), os.DirFS(filepath.Join(dir, "etcd"))); err != nil {
		t.Fatal(err)
	}
	server = etcdServer(t, dir)

	// Nothing happened.
	a = openA()
	eventually(t, "the same tasks", func() bool { return tasks(a, "web") == "a/1 b/1 b/2" && isClosed(a.listed) })
	closeA(a)

	// Things came and went.
	b.SetLocal(local(ctr("b", "2", "10.0.1.2", "web"), ctr("b", "4", "10.0.1.3", "late")))
	settled(t, b)
	eventually(t, "b knows that nobody is there", func() bool { return len(b.taskNames(model.ServiceID{Stack: model.DefaultStack, Name: "gone"})) == 0 })
	if err := b.RemoveService(t.Context(), model.ServiceID{Stack: model.DefaultStack, Name: "gone"}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ClaimVIP(t.Context(), late, vip.Next()); err != nil {
		t.Fatal(err)
	}
	if err := b.ClaimPort(t.Context(), port); err != nil {
		t.Fatal(err)
	}
	a = openA()
	first := <-a.Watch(t.Context())
	if svc, ok := first.Service(late); !ok || svc.VIP != vip.Next() || len(first.Published) != 1 {
		t.Errorf("the first Snapshot has not what came meanwhile: %+v, %v", svc, first.Published)
	}
	if got := tasks(a, "web") + ", " + tasks(a, "late") + ", " + tasks(a, "gone"); got != "a/1 b/2, b/4, no service" {
		t.Errorf("web, late and gone have %s", got)
	}
	if listed.Load() != 0 {
		t.Errorf("%d pages of everything were read", listed.Load())
	}
	closeA(a)

	// What happened is not to be had any more: two revisions, as etcd still tells of the one that it compacts to.
	b.SetLocal(local())
	settled(t, b)
	b.SetLocal(local(ctr("b", "5", "10.0.1.5", "web")))
	settled(t, b)
	cl := client(t, server.endpoint)
	if _, err := cl.Compact(t.Context(), revision(t, cl), clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	a = openA()
	eventually(t, "what there is", func() bool { return tasks(a, "web") == "a/1 b/5" && tasks(a, "late") == "" })
	if listed.Load() != 1 {
		t.Errorf("%d pages were read after a compaction", listed.Load())
	}
	closeA(a)

	// Etcd is put back to a state before the last run.
	b.Close()
	server.close()
	if err := os.RemoveAll(filepath.Join(dir, "etcd")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(backup, "etcd"), filepath.Join(dir, "etcd")); err != nil {
		t.Fatal(err)
	}
	server = etcdServer(t, dir)
	a = openA()
	eventually(t, "what the backup has", func() bool { return tasks(a, "web") == "a/1 b/1 b/2" && tasks(a, "gone") == "b/3" })
	if listed.Load() != 1 {
		t.Errorf("%d pages were read after a restore", listed.Load())
	}
}

func TestAListGoesOnAfterAnError(t *testing.T) {
	t.Parallel()
	server := etcdServer(t, shortDir(t))
	b := open(t, "b", shortDir(t), at(t, server.endpoint))
	var all []model.Container
	for i := range 5 * listPage / 2 {
		all = append(all, ctr("b", fmt.Sprint(i), fmt.Sprintf("10.1.%d.%d", i/250, i%250), "web"))
	}
	b.SetLocal(local(all...))
	settled(t, b)
	var listed atomic.Int32
	a := open(t, "a", shortDir(t), pages(t, server.endpoint, &listed, 2))
	a.SetLocal(local())
	eventuallyWithin(t, time.Minute, "all of b's tasks", func() bool {
		s := a.Snapshot()
		return s != nil && len(s.Services) == 1 && len(s.Services[0].Tasks) == len(all)
	})
	if listed.Load() != 4 {
		t.Errorf("%d pages were read, one of them twice: want 4", listed.Load())
	}
}

// TestHostsThatStartTogetherReadEverythingAtDifferentTimes: those that have a state to go by meanwhile, over a time that
// grows with the cluster and has an end.
func TestHostsThatStartTogetherReadEverythingAtDifferentTimes(t *testing.T) {
	const starts = 300
	for name, test := range map[string]struct {
		nodes  int
		change func(*Catalog)
		within time.Duration
	}{
		"two hosts":                       {2, nil, 2 * spreadPerNode},
		"a hundred hosts":                 {100, nil, 100 * spreadPerNode},
		"more than the most":              {5000, nil, spreadMost},
		"nothing is known meanwhile":      {100, func(c *Catalog) { c.known = make(chan struct{}) }, 0},
		"it was read, and has to be anew": {100, func(c *Catalog) { close(c.listed) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nodes := map[string]model.Node{}
				for i := range test.nodes {
					nodes[fmt.Sprint("n", i)] = model.Node{}
				}
				soonest, latest := time.Hour, time.Duration(0)
				for range starts {
					c := before("a")
					c.records.nodes = maps.Clone(nodes)
					c.known, c.advance = make(chan struct{}), make(chan struct{})
					close(c.known)
					if test.change != nil {
						test.change(c)
					}
					begun := time.Now()
					if err := c.list(t.Context(), &listing{whole: true, revision: 1, cluster: 1}); err != nil { // etcd takes no time
						t.Fatal(err)
					}
					took := time.Since(begun)
					soonest, latest = min(soonest, took), max(latest, took)
				}
				if latest > test.within || soonest > test.within/10 || latest < test.within-test.within/10 {
					t.Errorf("the first of %d reads everything after %v and the last after %v, want them all over %v", starts, soonest, latest, test.within)
				}
			})
		})
	}
	t.Run("the agent ends meanwhile", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			c := before("a")
			c.known = make(chan struct{})
			close(c.known)
			for i := range 5000 {
				c.records.nodes[fmt.Sprint("n", i)] = model.Node{}
			}
			begun := time.Now()
			if c.spread(ctx); time.Since(begun) > 0 {
				t.Errorf("it waits %v all the same", time.Since(begun))
			}
		})
	})
}
