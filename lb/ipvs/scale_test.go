//go:build e2e

package ipvs

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/lb"
	"shoal/model"
)

// large is a plane in a network namespace of its own, for the frontends of many services.
type large struct {
	*testing.T
	*Plane
}

func newLarge(t *testing.T) large {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	l := large{T: t}
	l.sh("ip link set lo up; ip link add eth0 type dummy; ip addr add 198.51.100.1/24 dev eth0; ip link set eth0 up")
	opts := Options{PlaneOptions: lb.PlaneOptions{Pool: pool, StateDir: t.TempDir()}, Netns: filepath.Join(t.TempDir(), "netns")}
	p, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		if err := Down(context.Background(), opts); err != nil {
			t.Error(err)
		}
	})
	l.Plane = p
	l.pass("at first", lb.Delta{Base: &lb.Base{Self: model.Node{Name: "a", Addr: netip.MustParseAddr("198.51.100.1"), Subnet: netip.MustParsePrefix("10.244.1.0/24")}}}, true)
	return l
}

// sh runs shell commands.
func (l large) sh(commands string) {
	l.Helper()
	if out, err := exec.Command("sh", "-ec", commands).CombinedOutput(); err != nil {
		l.Fatalf("%s: %v: %s", commands, err, out)
	}
}

// pass has the plane take in a change, to the end.
func (l large) pass(what string, d lb.Delta, full bool) (took time.Duration) {
	l.Helper()
	begun := time.Now()
	r := l.Reconcile(context.Background(), d, full)
	for r.More {
		r = l.Reconcile(context.Background(), lb.Delta{}, false)
	}
	took = time.Since(begun)
	for i, f := range r.Failures {
		if i < 3 {
			l.Errorf("%s: %+v: %v", what, f.Object, f.Err)
		}
	}
	return took
}

// services are n services with two tasks each and two frontends, TCP and UDP.
func services(n int) lb.Delta {
	d := lb.Delta{Frontends: map[lb.Key]*lb.Frontend{}, Endpoints: map[netip.Addr]*lb.Endpoint{}}
	vip, task := netip.MustParseAddr("10.96.16.0"), netip.MustParseAddr("10.250.0.0")
	for i := range n {
		var bs []lb.Backend
		for range 2 {
			bs = append(bs, lb.Backend{Addr: netip.AddrPortFrom(task, 0), Weight: 1})
			d.Endpoints[task] = &lb.Endpoint{}
			task = task.Next()
		}
		for _, p := range []model.Protocol{model.TCP, model.UDP} {
			k := lb.Key{VIP: vip, Protocol: p}
			d.Frontends[k] = &lb.Frontend{Key: k, Service: model.ServiceID{Stack: "default", Name: fmt.Sprint("s", i)}, Scheduler: "rr", Backends: bs}
		}
		vip = vip.Next()
	}
	return d
}

// TestFullPassesAtRest measures full passes where nothing changes, with one service and with many.
func TestFullPassesAtRest(t *testing.T) {
	l := newLarge(t)
	var first time.Duration
	for _, n := range []int{1, 4_000} {
		l.Logf("%d services from what was before: %v", n, l.pass("fill", services(n), false))
		l.pass("settle", lb.Delta{}, true)
		const passes = 30 // more than a round
		writes := kernel.Total()
		var each []time.Duration
		var took time.Duration
		for range passes {
			each = append(each, l.pass("at rest", lb.Delta{}, true))
			took += each[len(each)-1]
		}
		slices.Sort(each)
		l.Logf("%d services, full passes: %v on average, %v the median, %v to %v", n, took/passes, each[passes/2], each[0], each[passes-1])
		if writes := kernel.Total() - writes; writes > 0 {
			l.Errorf("%d services: %d writes with nothing changed", n, writes)
		}
		if first == 0 {
			first = took
			continue
		}
		l.Logf("full passes with %d services take %.1f times as long as with one", n, float64(took)/float64(first))
	}
}
