package store

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"shoal/lab/wait"
	"shoal/model"
)

// store is one that hosts a and b use, but do not run.
type store struct {
	use  func(*Options) // has a host use it
	down func()
	up   func()
}

func userStore(t *testing.T) store {
	dir := shortDir(t)
	server := etcdServer(t, dir, nil)
	return store{at(server.endpoint), server.close, func() { etcdServer(t, dir, nil) }}
}

func userStoreOverTLS(t *testing.T) store {
	cl, dir := newCluster(t), shortDir(t)
	peers := cl.peers("e", dir)
	use := func(o *Options) { o.Etcd, o.TLS = []string{cl.endpoint("e")}, peers.TLS }
	return store{use, etcdServer(t, dir, peers).close, func() { etcdServer(t, dir, peers) }}
}

func clusterStore(t *testing.T) store {
	cl := newCluster(t)
	s := cl.open("s")
	if err := s.Serve(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "s lists itself", func() bool { return len(s.Servers()) == 1 })
	use := func(o *Options) {
		o.Peers = cl.peers(o.Node, o.StateDir)
		cl.join("s")(o)
	}
	return store{use, func() { s.Close() }, func() { cl.open("s") }}
}

func TestEveryKindOfStoreDoes(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) store{
		"one of the user's":              userStore,
		"one of the user's, by TLS":      userStoreOverTLS,
		"the embedded one of other host": clusterStore,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			dirs := map[string]string{"a": shortDir(t), "b": shortDir(t)}
			a, b := open(t, "a", dirs["a"], s.use), open(t, "b", dirs["b"], s.use)
			a.SetLocal(local(ctr("a", "1", "10.0.0.1")))
			b.SetLocal(local(ctr("b", "1", "10.0.1.1")))
			for _, c := range []*host{a, b} {
				eventually(t, "both tasks", func() bool { return tasks(c) == "a/1 b/1" })
				settled(t, c)
			}

			web, other := model.ServiceID{Stack: model.DefaultStack, Name: "web"}, model.ServiceID{Stack: model.DefaultStack, Name: "other"}
			vip := netip.MustParseAddr("10.96.0.1")
			if got, err := a.ClaimVIP(t.Context(), web, vip); got != vip || err != nil {
				t.Errorf("claim: %s, %v", got, err)
			}
			var taken *model.TakenError
			if _, err := b.ClaimVIP(t.Context(), other, vip); !errors.As(err, &taken) {
				t.Errorf("claim of the same: %v", err)
			}
			eventually(t, "b sees the VIP", func() bool { svc, _ := b.Snapshot().Service(web); return svc.VIP == vip })

			// A restart is nobody's business.
			settled(t, a)
			lease, rev := a.Status().Lease, revision(t, b.client)
			a.Close()
			a = open(t, "a", dirs["a"], s.use)
			a.SetLocal(local(ctr("a", "1", "10.0.0.1")))
			settled(t, a)
			if got := revision(t, b.client); got != rev || a.Status().Lease != lease {
				t.Errorf("%d writes, lease %s, was %s", got-rev, a.Status().Lease, lease)
			}

			s.down()
			a.SetLocal(local(ctr("a", "2", "10.0.0.2")))
			eventually(t, "a sees its own change", func() bool { return tasks(a) == "a/2 b/1" })
			if got := tasks(b); got != "a/1 b/1" {
				t.Errorf("b sees %q", got)
			}
			s.up()
			eventually(t, "b sees it, with the store back", func() bool { return tasks(b) == "a/2 b/1" })
			for _, c := range []*host{a, b} {
				settled(t, c)
				eventually(t, "all is well", func() bool { return lastError(c) == "" })
			}
		})
	}
}

// ours are the goroutines of catalogs, clients and etcds, apart from tests.
func ours() string {
	buf := make([]byte, 4<<20)
	var all []string
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		of := func(pkg string) bool { return strings.Contains(g, pkg) }
		if (of("shoal/catalog.") || of("shoal/store") || of("go.etcd.io/etcd/server/") || of("google.golang.org/grpc")) && !of("testing.tRunner") {
			all = append(all, g)
		}
	}
	return strings.Join(all, "\n\n")
}

// TestNothingRunsOnOnceClosed runs alone: it looks at all goroutines.
func TestNothingRunsOnOnceClosed(t *testing.T) {
	cl := newCluster(t)
	a := cl.serving("a")
	b := cl.start("b", cl.join("a"))
	settled(t, b)
	if _, err := b.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Demote(t.Context()); err != nil {
		t.Fatal(err)
	}
	nowhere := open(t, "c", shortDir(t), at("unix:///nonexistent/etcd.sock"))
	tooLate := open(t, "d", shortDir(t), func(o *Options) {
		o.Etcd, o.TLS = []string{"https://" + netip.AddrPortFrom(cl.addr("x"), ClientPort).String()}, new(tls.Config)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for _, c := range []*host{a, b, nowhere, tooLate} {
		c.Watch(t.Context())
		c.KV().Watch(t.Context(), "members/")
		c.Members(ctx)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := Open(t.Context(), Options{Node: "e", StateDir: shortDir(t), Join: []string{"x"}}); err == nil {
		t.Error("opened with an endpoint that is none")
	}
	limited, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := wait.Until(limited, func() error {
		if left := ours(); left != "" {
			return errors.New(left)
		}
		return nil
	}); err != nil {
		t.Fatalf("goroutines are left:\n%v", err)
	}
}
