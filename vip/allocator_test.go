package vip

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"shoal/catalog"
	"shoal/lab/wait"
	"shoal/model"
	"shoal/store"
)

// memory is a Store as the catalog is one, and what hosts would see of it.
type memory struct {
	mu       sync.Mutex
	vips     map[model.ServiceID]netip.Addr
	holders  map[netip.Addr]model.ServiceID
	idle     map[model.ServiceID]time.Time // those without tasks
	claims   int
	down     bool
	resting  map[netip.Addr]time.Time
	replaced map[model.ServiceID]bool // may get another VIP: theirs was given back
}

// TestWhatRestsIsGivenToNobody, and found out at the first try, however much there is.
func TestWhatRestsIsGivenToNobody(t *testing.T) {
	m := newMemory()
	m.resting = map[netip.Addr]time.Time{}
	end := time.Now().Add(300 * time.Millisecond)
	for a := addr("10.0.0.150"); a.Less(addr("10.0.0.250")); a = a.Next() { // s01's search starts at .191
		m.resting[a] = end
	}
	s := m.snapshot("a", map[model.ServiceID]string{id("s01"): "a"}, func() bool { return false })
	a := New(Options{Pool: netip.MustParsePrefix("10.0.0.0/24")}, m)
	if p := a.Reconcile(t.Context(), s, true).Problems; len(p) > 0 {
		t.Error(p)
	}
	if got := m.vips[id("s01")]; got != addr("10.0.0.250") || m.claims != 2 {
		t.Errorf("s01 has %s after %d claims", got, m.claims)
	}
	wait.For(t, 10*time.Second, "they are free again", func() bool {
		a.Reconcile(t.Context(), &model.Snapshot{Self: model.Node{Name: "a"}}, true)
		return len(a.resting) == 0
	})
	if time.Now().Before(end) {
		t.Error("they are free too soon")
	}
}

func newMemory() *memory {
	return &memory{vips: map[model.ServiceID]netip.Addr{}, holders: map[netip.Addr]model.ServiceID{},
		idle: map[model.ServiceID]time.Time{}, replaced: map[model.ServiceID]bool{}}
}

func (m *memory) ClaimVIP(ctx context.Context, id model.ServiceID, a netip.Addr) (netip.Addr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return netip.Addr{}, err
	}
	if m.claims++; m.down {
		return netip.Addr{}, fmt.Errorf("claim: %w", model.ErrAway)
	}
	if vip, ok := m.vips[id]; ok {
		return vip, nil
	}
	if _, rests := m.resting[a]; rests {
		return netip.Addr{}, fmt.Errorf("claim: %w", &model.RestingError{Addr: a, Resting: maps.Clone(m.resting)})
	}
	if holder, ok := m.holders[a]; ok {
		return netip.Addr{}, &model.TakenError{Addr: a, Holder: holder}
	}
	m.vips[id], m.holders[a] = a, id
	return a, nil
}

func (m *memory) RemoveService(_ context.Context, id model.ServiceID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.vips[id]; !ok {
		return model.ErrNoService
	}
	if _, ok := m.idle[id]; !ok {
		return fmt.Errorf("%s has tasks", id)
	}
	delete(m.holders, m.vips[id])
	delete(m.vips, id)
	m.replaced[id] = true
	return nil
}

// snapshot is what a host sees: services with tasks, on the hosts given, and
// VIPs; of those only some if it is behind.
func (m *memory) snapshot(self string, hosts map[model.ServiceID]string, behind func() bool) *model.Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &model.Snapshot{Self: model.Node{Name: self}}
	for i := range 100 {
		id := id(fmt.Sprintf("s%02d", i))
		vip, remembered := m.vips[id]
		host, live := hosts[id]
		if !live && !remembered {
			continue
		}
		svc := &model.Service{ID: id, Spec: model.Spec{Mode: model.ModeVIP}, IdleSince: m.idle[id]}
		if live {
			svc.Tasks = []*model.Task{{Service: id, Node: host}}
		}
		if remembered && !behind() {
			svc.VIP = vip
		}
		s.Services = append(s.Services, svc)
	}
	return s
}

// TestVIPsAreUniqueAndForGood lets services come and go in any order on two
// hosts which see the store late, restart, and allocate at the same time.
func TestVIPsAreUniqueAndForGood(t *testing.T) {
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		o := Options{Pool: netip.MustParsePrefix([]string{"10.0.0.0/25", "10.0.0.0/26", "fd00::/64"}[seed%3])}
		if seed%2 == 1 {
			o.ReclaimIdle = time.Minute
		}
		m := newMemory()
		alloc := map[string]*Allocator{"a": New(o, m), "b": New(o, m)}
		hosts := map[model.ServiceID]string{}
		had := map[model.ServiceID]netip.Addr{}
		for step := range 40 {
			for range rnd.IntN(20) {
				svc := id(fmt.Sprintf("s%02d", rnd.IntN(100)))
				m.mu.Lock()
				if rnd.IntN(3) == 0 {
					delete(hosts, svc)
					m.idle[svc] = time.Now().Add(-time.Hour)
				} else {
					hosts[svc] = []string{"a", "b"}[rnd.IntN(2)]
					delete(m.idle, svc)
				}
				m.mu.Unlock()
			}
			if rnd.IntN(5) == 0 {
				alloc["b"] = New(o, m)
			}
			var work sync.WaitGroup
			for name, a := range alloc {
				s := m.snapshot(name, hosts, func() bool { return rnd.IntN(4) == 0 })
				work.Go(func() { a.Reconcile(t.Context(), s, true) })
			}
			work.Wait()
			seen := map[netip.Addr]model.ServiceID{}
			for svc, vip := range m.vips {
				if other, ok := seen[vip]; ok {
					t.Fatalf("seed %d step %d: %s is of %s and of %s", seed, step, vip, svc, other)
				}
				seen[vip] = svc
				if old, ok := had[svc]; ok && old != vip && !m.replaced[svc] {
					t.Fatalf("seed %d step %d: %s had %s, has %s", seed, step, svc, old, vip)
				}
				had[svc] = vip
			}
			for svc := range hosts {
				if _, ok := m.vips[svc]; !ok && len(m.vips) < 60 {
					t.Fatalf("seed %d step %d: %s has no VIP, %d have", seed, step, svc, len(m.vips))
				}
			}
			if o.ReclaimIdle == 0 && len(m.replaced) > 0 {
				t.Fatalf("seed %d: VIPs were taken back without leave", seed)
			}
		}
	}
}

func TestAConflictCostsTheOthersNothing(t *testing.T) {
	m := newMemory()
	hidden, wanted := id("hidden"), addr("10.0.0.191") // a service of mode dnsrr that had a VIP: no Snapshot tells it
	m.vips[hidden], m.holders[wanted] = wanted, hidden
	s := m.snapshot("a", map[model.ServiceID]string{id("s01"): "a", id("s02"): "a", id("s03"): "a"}, func() bool { return false })
	if p := New(Options{Pool: netip.MustParsePrefix("10.0.0.0/24")}, m).Reconcile(t.Context(), s, true).Problems; len(p) > 0 {
		t.Error(p)
	}
	if len(m.holders) != 4 || m.vips[id("s01")] != wanted.Next() || m.claims != 4 {
		t.Errorf("got %v by %d claims", m.vips, m.claims)
	}
}

func TestCatalogThatDoesNotAnswerIsNotAskedForEach(t *testing.T) {
	m := newMemory()
	m.down = true
	s := &model.Snapshot{Self: model.Node{Name: "a"}}
	for i := range 10 * parallel {
		s.Services = append(s.Services, service(t, fmt.Sprintf("s%05d", i)))
	}
	a := New(Options{Pool: netip.MustParsePrefix("10.0.0.0/16")}, m)
	p := a.Reconcile(t.Context(), s, true).Problems
	if len(p) != len(s.Services) || p[0].Code != model.StoreUnreachable {
		t.Errorf("%d problems, %+v", len(p), p[0])
	}
	if m.claims > 2*parallel {
		t.Errorf("asked %d times", m.claims)
	}
	since := map[string]time.Time{}
	for _, p := range p {
		since[p.Object] = p.Since
	}
	for _, p := range a.Reconcile(t.Context(), s, true).Problems {
		if !p.Since.Equal(since[p.Object]) {
			t.Errorf("%s: since %v, was since %v", p.Object, p.Since, since[p.Object])
		}
	}
	m.down = false
	if p := a.Reconcile(t.Context(), s, true).Problems; len(p) > 0 {
		t.Error(p)
	}
}

// shortDir is a folder whose path is short enough for a socket in it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vip")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// openStore opens a host's store; without endpoints it runs etcd itself.
func openStore(t *testing.T, dir, node string, endpoints ...string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{Node: node, StateDir: filepath.Join(dir, node), Etcd: endpoints,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// open opens the catalog of a host.
func open(t *testing.T, dir, node string, s *store.Store) *catalog.Catalog {
	t.Helper()
	c, err := catalog.Open(t.Context(), catalog.Options{Self: model.Node{Name: node}, StateDir: filepath.Join(dir, node),
		Client: s.Client(), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestAServiceThatIsNewWhileEtcdIsAwayHasToWait is with a real one that goes
// away and comes back.
func TestAServiceThatIsNewWhileEtcdIsAwayHasToWait(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	server := openStore(t, dir, "a")
	b := open(t, dir, "b", openStore(t, dir, "b", server.Client().Endpoints()...))
	b.SetLocal(model.Local{})
	known := func(ok func(*model.Snapshot) bool) *model.Snapshot {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		for s := range b.Watch(ctx) {
			if ok(s) {
				return s
			}
		}
		t.Fatal("no such Snapshot")
		return nil
	}
	known(func(*model.Snapshot) bool { return true })
	server.Close()

	web := id("web")
	ctr := model.Container{ID: "1", Node: "b", Stack: "s"}
	ctr.Tasks = []model.Task{{Service: web, Node: "b", Container: "1", Addr: addr("10.1.0.1"), Spec: &model.Spec{Mode: model.ModeVIP}}}
	b.SetLocal(model.Local{Containers: []model.Container{ctr}})
	s := known(func(s *model.Snapshot) bool { _, ok := s.Service(web); return ok })
	alloc := New(Options{Pool: netip.MustParsePrefix("10.96.0.0/16")}, b)
	reconcile := func() []model.Problem {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		return alloc.Reconcile(ctx, s, true).Problems
	}
	p := reconcile()
	if len(p) != 1 || p[0].Object != "s/web" || p[0].Node != "b" || p[0].Code != model.StoreUnreachable {
		t.Fatalf("problems %+v", p)
	}
	openStore(t, dir, "a")
	wait.For(t, 30*time.Second, "a VIP with etcd back", func() bool { return len(reconcile()) == 0 })
	known(func(s *model.Snapshot) bool { svc, _ := s.Service(web); return svc.VIP.IsValid() })
}

// TestTwoHostsOnOneEtcd is the real thing: two catalogs, the same services'
// names on neither, and one address for each.
func TestTwoHostsOnOneEtcd(t *testing.T) {
	dir := shortDir(t)
	const each = 150
	server := openStore(t, dir, "a")
	a, b := open(t, dir, "a", server), open(t, dir, "b", openStore(t, dir, "b", server.Client().Endpoints()...))
	hosts := map[string]*catalog.Catalog{"a": a, "b": b}
	var work sync.WaitGroup
	for node, c := range hosts {
		var l model.Local
		for i := range each {
			ctr := model.Container{ID: fmt.Sprintf("%s%d", node, i), Node: node, Stack: "s"}
			ctr.Tasks = []model.Task{{Service: id(fmt.Sprintf("%s-%d", node, i)), Node: node, Container: ctr.ID, Addr: addr("10.1.0.1"), Spec: &model.Spec{Mode: model.ModeVIP}}}
			l.Containers = append(l.Containers, ctr)
		}
		c.SetLocal(l)
		work.Go(func() {
			alloc := New(Options{Pool: netip.MustParsePrefix("10.96.0.0/16")}, c)
			for s := range c.Watch(t.Context()) {
				have := 0
				for _, svc := range s.Services {
					if svc.VIP.IsValid() {
						have++
					}
				}
				if have == 2*each {
					return
				}
				if p := alloc.Reconcile(t.Context(), s, true).Problems; len(p) > 0 {
					t.Errorf("%s: %+v", node, p[0])
					return
				}
			}
		})
	}
	work.Wait()
	seen := map[netip.Addr]model.ServiceID{}
	for _, svc := range a.Snapshot().Services {
		if other, ok := seen[svc.VIP]; ok {
			t.Errorf("%s is of %s and of %s", svc.VIP, svc.ID, other)
		}
		seen[svc.VIP] = svc.ID
	}
}

// TestHostsThatStartServicesTogetherSeldomCollide counts the claims of a hundred hosts that see
// nothing of each other's.
func TestHostsThatStartServicesTogetherSeldomCollide(t *testing.T) {
	const hosts, each = 100, 50
	m := newMemory()
	nothing := m.snapshot("a", nil, func() bool { return false })
	var work sync.WaitGroup
	for h := range hosts {
		s := *nothing
		s.Self.Name = fmt.Sprintf("h%d", h)
		for i := range each {
			svc := &model.Service{ID: id(fmt.Sprintf("s%d-%d", h, i)), Spec: model.Spec{Mode: model.ModeVIP}}
			svc.Tasks = []*model.Task{{Service: svc.ID, Node: s.Self.Name, Spec: &svc.Spec}}
			s.Services = append(s.Services, svc)
		}
		work.Go(func() {
			if p := New(Options{Pool: netip.MustParsePrefix("10.96.0.0/16")}, m).Reconcile(t.Context(), &s, true).Problems; len(p) > 0 {
				t.Error(p)
			}
		})
	}
	work.Wait()
	if len(m.vips) != hosts*each || m.claims > hosts*each*12/10 {
		t.Errorf("%d services got VIPs by %d claims", len(m.vips), m.claims)
	}
	t.Logf("%d claims for %d services", m.claims, hosts*each)
}
