package conformance

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"shoal/lb"
	"shoal/model"
)

var lookTests = []test{
	{"InspectTellsWhatTheKernelHasOfAVIP", inspectVIP, false},
	{"InspectTellsWhatTheKernelHasOfAPublishedPort", inspectPublished, true},
	{"InspectTellsWhatIsBroken", inspectBroken, false},
	{"HeldTellsWhatATaskHas", held, true},
	{"StatsCountConnections", stats, false},
	{"RedirectsTellsWhichPublishedPortsAreTaken", redirects, false},
	{"ClientTellsWhomTasksSee", clients, true},
}

func (w *world) inspect(h *host, k lb.Key) (v *lb.View) {
	w.t.Helper()
	h.must(w.t, func() (err error) { v, err = h.dp.Inspect(context.Background(), k); return err })
	return v
}

func inspectVIP(t *testing.T, w *world) {
	spec := ports("80:8080/tcp", "53:80/udp")
	spec.Scheduler, spec.Affinity = "wrr", time.Minute
	w.service("web", vip, spec, "a1", "a2", "x1")
	w.task("web", "a1").Weight = 3
	w.task("web", "a2").Spec.Ports = nil
	w.reconcile()
	w.task("web", "x1").State = model.Unhealthy // it may hold connections
	w.reconcile()
	n := w.writes(func() {
		v := w.inspect(w.a, lb.Key{VIP: netip.MustParseAddr(vip)})
		for _, s := range v.Steps {
			if !s.OK || s.What == "" || s.Evidence == "" {
				t.Errorf("step %+v", s)
			}
		}
		if len(v.Steps) == 0 {
			t.Error("no step is told")
		}
		var keys []lb.Key
		for _, f := range v.Fronts {
			keys = append(keys, f.Key)
			for _, s := range f.Steps {
				if !s.OK {
					t.Errorf("%s: step %+v", f.Key, s)
				}
			}
			// To mapped ports IPVS keeps a client's task by a hash.
			if !f.Open || f.Scheduler == "" || f.Key.Port == 0 && (f.Scheduler != "wrr" || f.Affinity != time.Minute) {
				t.Errorf("%s: %+v, want it open, with wrr and an affinity of 1 min", f.Key, f)
			}
		}
		want := []lb.Key{key(vip, model.TCP, 0), key(vip, model.UDP, 0), key(vip, model.TCP, 80), key(vip, model.UDP, 53)}
		if !slices.Equal(keys, want) {
			t.Fatalf("frontends %v, want %v", keys, want)
		}
		backends := func(f lb.FrontView, want ...lb.BackendView) {
			t.Helper()
			for i := range f.Backends {
				f.Backends[i].Active, f.Backends[i].Inactive = 0, 0
			}
			// One of weight 0 that never had a connection need not be there.
			f.Backends = slices.DeleteFunc(f.Backends, func(b lb.BackendView) bool { return b.Weight == 0 })
			if !slices.Equal(f.Backends, want) {
				t.Errorf("%s: backends %+v, want %+v", f.Key, f.Backends, want)
			}
		}
		to := func(task string, port uint16, weight int) lb.BackendView {
			return lb.BackendView{Addr: netip.AddrPortFrom(w.names[task].addr, port), Weight: weight}
		}
		backends(v.Fronts[0], to("a2", 0, 1))
		backends(v.Fronts[2], to("a1", 8080, 3), to("a2", 80, 1))
		backends(v.Fronts[3], to("a1", 80, 3), to("a2", 53, 1))
	})
	if n != 0 {
		t.Errorf("looking made %d writes", n)
	}
	c := w.holdAt("a1", "a4", "tcp", vip+":80")
	defer c.Close()
	w.until("the connection is seen with its task", func() bool {
		for _, b := range w.inspect(w.a, key(vip, model.TCP, 80)).Fronts[2].Backends {
			if b.Addr.Addr() == w.names["a1"].addr {
				return b.Active >= 1
			}
		}
		return false
	})
	for _, task := range []string{"a1", "a2"} {
		w.task("web", task).State = model.Unhealthy
	}
	w.reconcile()
	for _, f := range w.inspect(w.a, key(vip, model.TCP, 80)).Fronts {
		if f.Open {
			t.Errorf("%s is open without a task in rotation", f.Key)
		}
	}
}

func inspectPublished(t *testing.T, w *world) {
	w.service("web", "", publish("8000:80/tcp", "192.168.88.11:8001:80/udp"), "a1", "b1")
	w.reconcile()
	v := w.inspect(w.a, lb.Key{Protocol: model.TCP, Port: 8000})
	if len(v.Fronts) != 1 {
		t.Fatalf("view of 8000/tcp: %+v, want one frontend", v)
	}
	f := v.Fronts[0]
	if !f.Open || f.Scheduler != "rr" || len(f.Backends) != 2 || f.Backends[0].Addr != netip.MustParseAddrPort("10.244.1.2:80") {
		t.Errorf("frontend of 8000/tcp: %+v", f)
	}
	for _, s := range append(v.Steps, f.Steps...) {
		if !s.OK {
			t.Errorf("step %+v", s)
		}
	}
	on := func(at netip.Addr, prefixes []netip.Prefix) bool {
		return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(at) })
	}
	if !on(hostA, v.On) || !on(netip.MustParseAddr("10.244.1.1"), v.On) {
		t.Errorf("8000/tcp is on %v, want every address", v.On)
	}
	v = w.inspect(w.a, lb.Key{Protocol: model.UDP, Port: 8001})
	if len(v.Fronts) != 1 || !on(hostA, v.On) || on(netip.MustParseAddr("10.244.1.1"), v.On) {
		t.Errorf("view of 8001/udp: %+v, want it on %s alone", v, hostA)
	}
	if v = w.inspect(w.a, lb.Key{Protocol: model.TCP, Port: 8001}); len(v.Fronts) != 0 {
		t.Errorf("view of what is not published: %+v", v)
	}
}

func inspectBroken(t *testing.T, w *world) {
	if v := w.inspect(w.a, key(vip, model.TCP, 80)); len(v.Fronts) != 0 {
		t.Errorf("view of a VIP that nobody has: %+v", v)
	}
	w.three()
	ok := func() bool {
		v := w.inspect(w.a, key(vip, model.TCP, 0))
		good := len(v.Steps) > 0 && len(v.Fronts) == 2
		for _, s := range v.Steps {
			good = good && s.OK
		}
		for _, f := range v.Fronts {
			for _, s := range f.Steps {
				good = good && s.OK
			}
			good = good && f.Open && len(f.Backends) == 3
		}
		return good
	}
	if !ok() {
		t.Errorf("view: %+v", w.inspect(w.a, key(vip, model.TCP, 0)))
	}
	w.a.must(t, func() error { return w.plane.Down(context.Background(), w.a.opts) }) // by somebody else, to this plane
	if ok() {
		t.Errorf("view of a kernel with nothing of it: %+v", w.inspect(w.a, key(vip, model.TCP, 0)))
	}
	w.restart(w.a)
	w.pass(w.a, true)
	if !ok() {
		t.Errorf("view after the repair: %+v", w.inspect(w.a, key(vip, model.TCP, 0)))
	}
}

func held(t *testing.T, w *world) {
	w.service("web", vip, publish("8000:80/tcp"), "a1", "b1")
	w.reconcile()
	expect := func(what, task string, want lb.Held) {
		t.Helper()
		last := lb.Held{}
		w.until(what, func() bool {
			last = w.held(w.a, task)
			return last == want
		})
	}
	expect("a task in rotation", "a1", lb.Held{Open: true})
	var cs []*conn
	for _, to := range []string{vip + ":80", "10.244.1.1:8000"} {
		cs = append(cs, w.holdAt("a1", "a4", "tcp", to))
	}
	cs = append(cs, w.holdAt("a1", "client", "tcp", "192.168.88.11:8000"))
	// What holdAt tried before goes to others.
	w.until("three connections", func() bool { return w.held(w.a, "a1").Connections >= 3 })
	w.task("web", "a1").State = model.Unhealthy
	w.reconcile()
	if h := w.held(w.a, "a1"); h.Open || h.Connections < 3 {
		t.Errorf("held of a task out of rotation: %+v", h)
	}
	for _, c := range cs {
		c.Close()
	}
	expect("nothing is held", "a1", lb.Held{})
	expect("no task at all", "x2", lb.Held{})
}

func stats(t *testing.T, w *world) {
	w.three()
	w.service("mapped", "10.96.0.60", ports("80:80/tcp"), "a1")
	w.reconcile()
	count := func() map[lb.Key]lb.Stats {
		got := map[lb.Key]lb.Stats{}
		w.a.must(t, func() error { return w.a.dp.Stats(func(k lb.Key, s lb.Stats) { got[k] = got[k].Add(s) }) })
		return got
	}
	if got := count(); got[key(vip, model.TCP, 0)].Connections != 0 {
		t.Errorf("before any connection: %+v", got)
	}
	w.answers(9, "a4", "tcp", vip+":80", netip.Addr{})
	w.answers(2, "a", "tcp", vip+":80", netip.Addr{})
	w.answers(4, "x2", "udp", vip+":80", netip.Addr{})
	w.answers(3, "a4", "tcp", "10.96.0.60:80", netip.Addr{})
	var last map[lb.Key]lb.Stats
	w.until("connections are counted", func() bool {
		last = count()
		return last[key(vip, model.TCP, 0)].Connections == 11 && last[key(vip, model.UDP, 0)].Connections == 4 &&
			last[key("10.96.0.60", model.TCP, 80)].Connections == 3
	})
	w.a.must(t, func() error {
		all, err := w.a.balancer.Stats()
		if len(all) != 2 || all[1].Service.Name != "web" || all[1].Connections != 15 {
			t.Errorf("counted by service: %+v", all)
		}
		return err
	})
	w.task("web", "a1").State = model.Unhealthy
	w.reconcile()
	if got := count()[key(vip, model.TCP, 0)].Connections; got < 11 {
		t.Errorf("%d connections after a task left, where there were 11", got)
	}
}

func redirects(t *testing.T, w *world) {
	port := func(n uint16, on ...netip.Addr) *lb.Frontend {
		return &lb.Frontend{Key: lb.Key{Protocol: model.TCP, Port: n}, On: on}
	}
	is := func(want bool, f *lb.Frontend) {
		t.Helper()
		w.a.must(t, func() error {
			if got := w.a.dp.Redirects(f); got != want {
				t.Errorf("port %s on %v is redirected: %t, want %t", f.Key, f.On, got, want)
			}
			return nil
		})
	}
	is(false, port(8000))
	w.service("web", "", publish("8000:80/tcp", "192.168.88.11:8001:80/tcp"), "a1")
	w.reconcile()
	is(true, port(8000))
	is(true, port(8000, hostA))
	is(true, port(8001, hostA))
	is(false, port(8001))
	is(false, port(8001, netip.MustParseAddr("127.0.0.1")))
	is(false, port(8002))
	w.task("web", "a1").State = model.Unhealthy // it is taken all the same
	w.reconcile()
	is(true, port(8000))
	w.restart(w.a)
	w.pass(w.a, true)
	is(true, port(8000))
	clear(w.services)
	w.reconcile()
	is(false, port(8000))
}

func clients(t *testing.T, w *world) {
	w.service("web", "", publish("8000:80/tcp"), "a1", "b1")
	w.reconcile()
	for addr, kept := range map[string]bool{
		"203.0.113.9": true, "192.168.88.1": true,
		"10.244.1.9": false, "192.168.88.12": false, "192.168.88.11": false, "127.0.0.1": false, "172.30.0.9": false,
	} {
		w.a.must(t, func() error {
			v, err := w.a.dp.Client(netip.MustParseAddr(addr))
			if err == nil && (v.Kept != kept || !v.Addr.IsValid() || v.Evidence == "" && !kept) {
				t.Errorf("client %s: %+v, want its address kept: %t", addr, v, kept)
			}
			return err
		})
	}
}
