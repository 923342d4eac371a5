package conformance

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"shoal/lb"
	"shoal/model"
)

var scaleTests = []test{
	{"OneChangeAmongAThousandFrontends", thousand, false},
}

// many makes n frontends from that VIP on, each with two backends that do not
// exist.
func many(n int, from string) map[lb.Key]*lb.Frontend {
	fs := map[lb.Key]*lb.Frontend{}
	v, a := netip.MustParseAddr(from), netip.MustParseAddr("10.244.1.20")
	for range n {
		k := lb.Key{VIP: v, Protocol: model.TCP}
		fs[k] = &lb.Frontend{Key: k, Service: model.ServiceID{Stack: "default", Name: v.String()}, Scheduler: "rr",
			Backends: []lb.Backend{{Addr: netip.AddrPortFrom(a, 0), Weight: 1}, {Addr: netip.AddrPortFrom(a.Next(), 0), Weight: 1}}}
		v = v.Next()
	}
	return fs
}

// delta passes a change to the plane itself.
func (w *world) delta(d lb.Delta, full bool) (took time.Duration) {
	w.t.Helper()
	w.a.must(w.t, func() error {
		begun := time.Now()
		r := w.a.dp.Reconcile(context.Background(), d, full)
		for r.More {
			r = w.a.dp.Reconcile(context.Background(), lb.Delta{}, false)
		}
		took = time.Since(begun)
		for i, f := range r.Failures {
			if i < 3 {
				w.t.Errorf("failure of %+v: %v", f.Object, f.Err)
			}
		}
		return nil
	})
	return took
}

func without(fs map[lb.Key]*lb.Frontend) map[lb.Key]*lb.Frontend {
	none := map[lb.Key]*lb.Frontend{}
	for k := range fs {
		none[k] = nil
	}
	return none
}

func thousand(t *testing.T, w *world) {
	const n = 1000
	w.three()
	fs := many(n, "10.96.64.0")
	t.Cleanup(func() { w.delta(lb.Delta{Frontends: without(fs)}, false) })
	t.Logf("%d frontends from nothing: %v", n, w.delta(lb.Delta{Frontends: fs}, false))
	t.Logf("a full pass over them: %v", w.delta(lb.Delta{}, true))
	if writes := w.idleWrites(func() { w.delta(lb.Delta{}, true) }); writes != 0 {
		t.Errorf("a full pass with nothing changed made %d writes", writes)
	}
	var k lb.Key
	for k = range fs {
		break
	}
	f := *fs[k]
	f.Backends = []lb.Backend{{Addr: netip.AddrPortFrom(w.names["a1"].addr, 0), Weight: 1}}
	one := lb.Delta{Frontends: map[lb.Key]*lb.Frontend{k: &f}}
	var took time.Duration
	writes := w.writes(func() { took = w.delta(one, false) })
	t.Logf("one change among them: %v, %d writes", took, writes)
	if took > time.Second || writes > 30 {
		t.Errorf("one change among %d frontends took %v and %d writes", n, took, writes)
	}
	w.by("a4", "tcp", k.VIP.String()+":80", "a1")
	w.by("a4", "tcp", vip+":80", "a1", "a2", "x1")
}
