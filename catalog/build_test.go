package catalog

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"shoal/internal/cow"
	"shoal/model"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// ctr makes a container of the host, with a task for each service, given as
// "name" or "stack/name".
func ctr(node, id, addr string, services ...string) model.Container {
	c := model.Container{ID: id, Name: "c-" + id, Node: node, Stack: model.DefaultStack,
		Addrs: []netip.Addr{netip.MustParseAddr(addr)}, Since: epoch}
	for _, s := range services {
		sid, err := model.ParseServiceID(s)
		if err != nil {
			panic(err)
		}
		c.Tasks = append(c.Tasks, model.Task{Service: sid, Node: node, Container: id, Name: c.Name, Addr: c.Addrs[0],
			State: model.Running, Since: epoch, Weight: 1, Started: epoch, Spec: &model.Spec{Mode: model.ModeVIP, Scheduler: "rr"}})
	}
	return c
}

var snapshotCmp = cmp.Options{
	cmp.Transformer("all", func(c model.Containers) []*model.Container { return slices.Collect(c.All()) }),
	cmpopts.IgnoreUnexported(model.Snapshot{}),
	cmp.Comparer(func(a, b cow.Map[netip.Addr, model.AddrUse]) bool {
		return maps.Equal(maps.Collect(a.All()), maps.Collect(b.All()))
	}),
	cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}),
	cmpopts.EquateEmpty(),
	cmpopts.IgnoreFields(model.Snapshot{}, "Revision"),
}

// same tells whether two Snapshots are equal but for their revision, and for what
// they know of those before.
func same(a, b *model.Snapshot) bool {
	x, y := reflect.ValueOf(*a), reflect.ValueOf(*b)
	for i := range x.NumField() {
		if f := x.Type().Field(i); f.IsExported() && f.Name != "Revision" && !reflect.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
			return false
		}
	}
	return true
}

// unnamed are the services that differ in two Snapshots though the newer one does not name
// them among those that it says may.
func unnamed(old, new *model.Snapshot, named []model.ServiceID) (ids []model.ServiceID) {
	for _, s := range [][2]*model.Snapshot{{old, new}, {new, old}} {
		for _, one := range s[0].Services {
			if other, there := s[1].Service(one.ID); (!there || !one.Equal(other)) && !slices.Contains(named, one.ID) {
				ids = append(ids, one.ID)
			}
		}
	}
	return ids
}

func TestBuildFromChangesEqualsBuildFromScratch(t *testing.T) {
	self := model.Node{Name: "a", Addr: netip.MustParseAddr("192.0.2.1"), Alive: true}
	rnd := rand.New(rand.NewPCG(1, 2))
	r := newRecords("a")
	r.putNode(self)
	prev := new(model.Snapshot)
	var all []*model.Snapshot
	for step := range 300 {
		for range rnd.IntN(4) {
			node := []string{"a", "b", "c"}[rnd.IntN(3)]
			id := fmt.Sprint(rnd.IntN(20))
			svc := model.ServiceID{Stack: model.DefaultStack, Name: fmt.Sprintf("s%d", rnd.IntN(6))}
			switch rnd.IntN(11) {
			case 0, 1, 2:
				c := ctr(node, id, fmt.Sprintf("10.0.0.%d", rnd.IntN(250)), fmt.Sprintf("s%d", rnd.IntN(6)), fmt.Sprintf("s%d", rnd.IntN(6)))
				c.Tasks[0].Started = epoch.Add(time.Duration(rnd.IntN(9)) * time.Second)
				if rnd.IntN(4) == 0 {
					c.Tasks[0].Spec.Mode = model.ModeDNSRR
				}
				r.putContainer(c)
			case 3:
				r.deleteContainer(node, id)
			case 4:
				r.putService(svc, ServiceRecord{VIP: netip.MustParseAddr("10.96.0.1")})
			case 5:
				r.deleteService(svc)
			case 6:
				r.putNode(model.Node{Name: node, Number: uint16(rnd.IntN(3)), Alive: true})
			case 7:
				r.setAlive(map[string]bool{"a": true, "b": rnd.IntN(2) == 0, "c": rnd.IntN(2) == 0}, epoch.Add(time.Duration(step)))
			case 8:
				r.putPublished(model.PortClaim{Protocol: model.TCP, Port: uint16(rnd.IntN(9)), Service: svc})
			case 9:
				r.deletePublished(port{model.TCP, uint16(rnd.IntN(9))})
			case 10:
				r.setResting([][]netip.Addr{nil, {self.Addr}}[rnd.IntN(2)])
			}
		}
		s := build(prev, self, r, r.takeChanges())

		fresh := newRecords("a")
		fresh.dead = maps.Clone(r.dead)
		fresh.published = maps.Clone(r.published)
		fresh.changes.published = true
		fresh.setResting(r.resting)
		for _, n := range r.nodes {
			fresh.putNode(n)
		}
		for _, byID := range r.containers {
			for _, c := range byID {
				fresh.putContainer(*c)
			}
		}
		for id, rec := range r.services {
			fresh.putService(id, rec)
		}
		want := build(new(model.Snapshot), self, fresh, fresh.takeChanges())
		if !same(want, s) {
			if d := cmp.Diff(want, s, snapshotCmp); d != "" {
				t.Fatalf("step %d: from scratch (-), from changes (+):\n%s", step, d)
			}
		}
		if s != prev && prev.Revision > 0 && same(prev, s) {
			t.Fatalf("step %d: a new Snapshot in which nothing is new", step)
		}
		for i, old := range all {
			named, known := s.ServicesSince(old)
			if missed := unnamed(old, s, named); known && len(missed) > 0 {
				t.Fatalf("step %d: it does not say that since %d Snapshots ago there is something new in %v", step, len(all)-i, missed)
			}
			if !known && len(all)-i < 50 {
				t.Fatalf("step %d: it does not know what is new since %d Snapshots ago", step, len(all)-i)
			}
		}
		for _, svc := range s.Services {
			if old, had := prev.Service(svc.ID); had && old != svc && old.Equal(svc) {
				t.Fatalf("step %d: %s is the same and is not shared", step, svc.ID)
			}
		}
		for c := range s.Containers.All() {
			if old := prev.Containers.Find(c.Node, c.ID); old != nil && old != c && old.Equal(c) {
				t.Fatalf("step %d: container %s of %s is the same and is not shared", step, c.ID, c.Node)
			}
		}
		if s != prev {
			all = append(all, s)
		}
		prev = s
	}
}

func TestNewestTaskSpeaksForItsService(t *testing.T) {
	old, young := ctr("a", "1", "10.0.0.1", "web"), ctr("b", "2", "10.0.0.2", "web")
	young.Tasks[0].Started = epoch.Add(time.Second)
	young.Tasks[0].Spec.Scheduler = "lc"
	id := model.ServiceID{Stack: model.DefaultStack, Name: "web"}
	vip := netip.MustParseAddr("10.96.0.1")
	s := NewSnapshot(7, model.Node{Name: "a"}, nil, []model.Container{young, old}, map[model.ServiceID]netip.Addr{id: vip})
	svc, ok := s.Service(id)
	if !ok || svc.Spec.Scheduler != "lc" || svc.VIP != vip || len(svc.Tasks) != 2 || svc.Tasks[0].Node != "a" || s.Revision != 7 {
		t.Errorf("got %+v, revision %d", svc, s.Revision)
	}
	if _, ok := s.Service(model.ServiceID{Stack: model.DefaultStack, Name: "wea"}); ok {
		t.Error("found a service that is none")
	}
	if stack, ok := s.StackOf(netip.MustParseAddr("10.0.0.2")); !ok || stack != model.DefaultStack {
		t.Errorf("StackOf: %q, %v", stack, ok)
	}
}

func TestIdleDrift(t *testing.T) {
	r := newRecords("a")
	c := ctr("a", "1", "10.0.0.1", "live", "back")
	r.putContainer(c)
	for name, since := range map[string]time.Time{"live": {}, "back": epoch, "left": {}, "idle": epoch} {
		r.putService(model.ServiceID{Stack: model.DefaultStack, Name: name}, ServiceRecord{IdleSince: since})
	}
	now := epoch.Add(time.Hour)
	got := map[string]time.Time{}
	drift, again := r.idleDrift(now)
	for id, rec := range drift {
		got[id.Name] = rec.IdleSince
	}
	if want := map[string]time.Time{"back": {}, "left": now}; !reflect.DeepEqual(got, want) || again != 0 {
		t.Errorf("got %v, want %v, again after %v", got, want, again)
	}
}

// TestOneHostWritesThatAServiceIsIdle, and another after a while if that one does not, or is dead.
func TestOneHostWritesThatAServiceIsIdle(t *testing.T) {
	var hosts []*records
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		r := newRecords(name)
		for _, other := range []string{"a", "b", "c", "d", "e"} {
			r.putNode(model.Node{Name: other})
		}
		for i := range 100 {
			r.putService(model.ServiceID{Stack: "s", Name: fmt.Sprint(i)}, ServiceRecord{})
		}
		hosts = append(hosts, r)
	}
	now := epoch.Add(time.Hour)
	writers := func(who []*records, now time.Time) map[model.ServiceID]int {
		all := map[model.ServiceID]int{}
		for _, r := range who {
			drift, again := r.idleDrift(now)
			if (again > 0) != (len(drift) < 100) || again > idlePatience {
				t.Errorf("%s writes %d of 100, and looks again after %v", r.self, len(drift), again)
			}
			for id := range drift {
				all[id]++
			}
			if n := len(drift); now.Sub(epoch) == time.Hour && (n < 5 || n > 50) {
				t.Errorf("%s writes %d of 100", r.self, n)
			}
		}
		return all
	}
	exactly := func(what string, got map[model.ServiceID]int, n int) {
		t.Helper()
		if len(got) != 100 {
			t.Errorf("%s: %d of 100 are written", what, len(got))
		}
		for id, times := range got {
			if times != n {
				t.Errorf("%s: %v is written by %d hosts", what, id, times)
			}
		}
	}
	exactly("at once", writers(hosts, now), 1)
	exactly("not before its time", writers(hosts, now.Add(idlePatience-time.Second)), 1)
	exactly("after a while", writers(hosts, now.Add(idlePatience)), 5)
	for _, r := range hosts[1:] {
		r.setAlive(map[string]bool{"a": false}, now)
		r.leftToOthers = nil
	}
	exactly("without a", writers(hosts[1:], now), 1)
}

func TestOneEndOfATaskIsFewProposals(t *testing.T) {
	t.Parallel()
	server := etcdServer(t, shortDir(t))
	var all []*Catalog
	for i := range 8 {
		c := open(t, string(rune('a'+i)), shortDir(t), at(t, server.endpoint))
		c.SetLocal(local())
		all = append(all, c)
	}
	web := model.ServiceID{Stack: model.DefaultStack, Name: "web"}
	all[0].SetLocal(local(ctr("a", "1", "10.0.0.1", "web")))
	if _, err := all[0].ClaimVIP(t.Context(), web, netip.MustParseAddr("10.96.0.1")); err != nil {
		t.Fatal(err)
	}
	idle := func(want bool) {
		t.Helper()
		for _, c := range all {
			settled(t, c)
			eventually(t, fmt.Sprintf("%s has web idle: %t", c.o.Self.Name, want), func() bool {
				svc, _ := c.Snapshot().Service(web)
				return svc != nil && svc.IdleSince.IsZero() != want
			})
		}
	}
	idle(false)
	cl := client(t, server.endpoint)
	index := func() uint64 {
		st, err := cl.Status(t.Context(), server.endpoint)
		if err != nil {
			t.Fatal(err)
		}
		return st.RaftIndex
	}
	before := index()
	all[0].SetLocal(local())
	idle(true)
	// Its record, that of the service, and what happens to be renewed meanwhile.
	if n := index() - before; n < 1 || n > 6 {
		t.Errorf("the end of one task was %d proposals, with eight hosts", n)
	}
}

// manyRecords are those of 10,000 services with three tasks on three hosts.
func manyRecords(services int) *records {
	r := newRecords("a")
	for i := range services {
		id := model.ServiceID{Stack: model.DefaultStack, Name: fmt.Sprintf("service-%d", i)}
		r.putService(id, ServiceRecord{VIP: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})})
		for n := range 3 {
			c := ctr(fmt.Sprintf("node-%d", n), fmt.Sprintf("%064x", i*7919%services), fmt.Sprintf("10.%d.%d.%d", n, i>>8, i&255), id.String())
			r.putContainer(c)
		}
	}
	return r
}

func BenchmarkBuild(b *testing.B) {
	b.Run("all", func(b *testing.B) {
		r := manyRecords(10000)
		all := r.takeChanges()
		b.ReportAllocs()
		for b.Loop() {
			build(new(model.Snapshot), model.Node{}, r, all)
		}
	})
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := manyRecords(10000)
			s := build(new(model.Snapshot), model.Node{}, r, r.takeChanges())
			ids := slices.Collect(func(yield func(string) bool) {
				for id := range r.containers["node-1"] {
					if !yield(id) {
						return
					}
				}
			})[:n]
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				for _, id := range ids {
					c := *r.containers["node-1"][id]
					c.Addrs = []netip.Addr{netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})}
					r.putContainer(c)
				}
				s = build(s, model.Node{}, r, r.takeChanges())
			}
		})
	}
}

// Another host's clock may be far from this one's.
func TestADrainOfAnotherHostIsTimedByThisHostsClock(t *testing.T) {
	r := newRecords("a")
	for _, skew := range []time.Duration{-time.Hour, time.Hour} {
		drains := func(node string) model.Container {
			c := ctr(node, "1", "10.0.1.1", "web")
			c.Tasks[0].State, c.Tasks[0].Since, c.Tasks[0].Drain = model.Draining, time.Now().Add(skew).Truncate(time.Second), time.Minute
			return c
		}
		deadline := func(node string) time.Time { return r.containers[node]["1"].Tasks[0].DrainDeadline() }
		r.putContainer(ctr("b", "1", "10.0.1.1", "web"))
		told := drains("b")
		r.putContainer(told)
		first := deadline("b")
		if left := time.Until(first); left < 55*time.Second || left > time.Minute {
			t.Errorf("with a clock that is %v off, a drain of a minute has %v left", skew, left)
		}
		again := told
		again.Tasks = slices.Clone(told.Tasks)
		again.Tasks[0].Seen = time.Time{} // as it is read from etcd
		if r.putContainer(again) || deadline("b") != first {
			t.Errorf("read again, it ends at %v, not at %v", deadline("b"), first)
		}
		own := drains("a")
		r.putContainer(own)
		if want := own.Tasks[0].Since.Add(time.Minute); !deadline("a").Equal(want) {
			t.Errorf("this host's own ends at %v, want %v", deadline("a"), want)
		}
	}
}
