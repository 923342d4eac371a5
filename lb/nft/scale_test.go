//go:build e2e

package nft

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"shoal/kernel"
	"shoal/lb"
	"shoal/model"
)

// many are services with two tasks each and two frontends, TCP and UDP.
func many(n int) map[lb.Key]*lb.Frontend {
	fs := map[lb.Key]*lb.Frontend{}
	vip, task := netip.MustParseAddr("10.96.16.0"), netip.MustParseAddr("10.244.1.10")
	for i := range n {
		id := model.ServiceID{Stack: "default", Name: fmt.Sprint("s", i)}
		var bs []lb.Backend
		for range 2 {
			bs = append(bs, lb.Backend{Addr: netip.AddrPortFrom(task, 0), Weight: 1})
			task = task.Next()
		}
		for _, p := range []model.Protocol{model.TCP, model.UDP} {
			k := lb.Key{VIP: vip, Protocol: p}
			fs[k] = &lb.Frontend{Key: k, Service: id, Scheduler: "rr", Backends: bs}
		}
		vip = vip.Next()
	}
	return fs
}

func TestTenThousandServices(t *testing.T) {
	ownNamespace(t)
	const n = 10000
	p, err := New(lb.PlaneOptions{Pool: prefix("10.96.0.0/16"), StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	pass := func(what string, most time.Duration, d lb.Delta, full bool) {
		t.Helper()
		before, begun := kernel.Total(), time.Now()
		r := p.Reconcile(context.Background(), d, full)
		took := time.Since(begun)
		t.Logf("%s: %v, %d writes", what, took, kernel.Total()-before)
		for _, f := range r.Failures {
			if f.Object.Part == "nftables" {
				t.Errorf("%s: %v", what, f.Err)
			}
		}
		if took > most {
			t.Errorf("%s took %v, want at most %v", what, took, most)
		}
	}
	fs := many(n)
	endpoints := map[netip.Addr]*lb.Endpoint{}
	for _, f := range fs {
		for _, b := range f.Backends {
			endpoints[b.Addr.Addr()] = &lb.Endpoint{}
		}
	}
	pass("from nothing", 5*time.Second, lb.Delta{Base: some.base, Frontends: fs, Endpoints: endpoints}, true)
	pass("full pass", time.Second, lb.Delta{}, true)
	pass("full pass again", 100*time.Millisecond, lb.Delta{}, true)
	// A task comes, goes, fails; a service comes and goes.
	k := lb.Key{VIP: netip.MustParseAddr("10.96.20.0"), Protocol: model.TCP}
	changed := func(f func(*lb.Frontend)) lb.Delta {
		c := *fs[k]
		c.Backends = slices.Clone(c.Backends)
		f(&c)
		return lb.Delta{Frontends: map[lb.Key]*lb.Frontend{k: &c}}
	}
	for i := range 5 {
		pass("a task fails", time.Second, changed(func(f *lb.Frontend) { f.Backends[0].Weight = 0 }), false)
		pass("and recovers", time.Second, lb.Delta{Frontends: map[lb.Key]*lb.Frontend{k: fs[k]}}, false)
		pass("a third task", time.Second, changed(func(f *lb.Frontend) {
			f.Backends = append(f.Backends, lb.Backend{Addr: netip.MustParseAddrPort("10.250.0.1:0"), Weight: 1})
		}), false)
		pass("another task in its place", time.Second, changed(func(f *lb.Frontend) {
			f.Backends = append(f.Backends, lb.Backend{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 250, 0, byte(i)}), 0), Weight: 1})
		}), false)
		pass("the service goes", time.Second, lb.Delta{Frontends: map[lb.Key]*lb.Frontend{k: nil}}, false)
		pass("and comes", time.Second, lb.Delta{Frontends: map[lb.Key]*lb.Frontend{k: fs[k]}}, false)
	}
	p.Close()
	if p, err = New(lb.PlaneOptions{Pool: prefix("10.96.0.0/16"), StateDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	before := kernel.Total()
	pass("a new process", 5*time.Second, lb.Delta{Base: some.base, Frontends: fs, Endpoints: endpoints}, true)
	if n := kernel.Total() - before; n != 0 {
		t.Errorf("a new process makes %d writes", n)
	}
}
