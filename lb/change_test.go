package lb

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shoal/model"
)

// after is a Snapshot made of another by changing services, of which only some are named.
func after(prev *model.Snapshot, named []model.ServiceID, changed ...model.Service) *model.Snapshot {
	s := *prev
	s.Services = slices.Clone(s.Services)
	for _, c := range changed {
		i := slices.IndexFunc(s.Services, func(o *model.Service) bool { return o.ID == c.ID })
		s.Services[i] = &c
	}
	s.Follow(prev, named)
	return &s
}

func TestOnlyServicesThatASnapshotNamesAreLookedAt(t *testing.T) {
	b, r := newRecorder(t, Options{})
	http := ports(model.Port{Port: 80, Target: 80, Protocol: model.TCP})
	svc := func(name, vip, task1 string) model.Service { return service(name, vip, task("a", task1, http)) }
	first := snapshot(svc("one", "10.96.0.1", "10.244.1.2"), svc("two", "10.96.0.2", "10.244.1.3"))
	first.Follow(nil, nil)
	b.Reconcile(t.Context(), first, true)

	one, two := svc("one", "10.96.0.1", "10.244.1.12"), svc("two", "10.96.0.2", "10.244.1.13")
	second := after(first, []model.ServiceID{one.ID}, one, two) // that two has changed it keeps to itself
	b.Reconcile(t.Context(), second, false)
	if d := cmp.Diff([]string{"+ one 10.96.0.1:80/tcp rr | 10.244.1.12:80 1"}, r.last); d != "" {
		t.Error(d)
	}
	third := after(second, nil)
	copied := *third // knows nothing of those before: all is compared with the last one
	copied.Services = slices.Clone(copied.Services)
	two = svc("two", "10.96.0.2", "10.244.1.14")
	copied.Services[1] = &two
	b.Reconcile(t.Context(), &copied, false)
	if d := cmp.Diff([]string{"+ two 10.96.0.2:80/tcp rr | 10.244.1.14:80 1"}, r.last); d != "" {
		t.Error(d)
	}
}

func TestServicesThatGoAreLookedAt(t *testing.T) {
	b, r := newRecorder(t, Options{})
	http := ports(model.Port{Port: 80, Target: 80, Protocol: model.TCP})
	one, two := service("one", "10.96.0.1", task("a", "10.244.1.2", http)), service("two", "10.96.0.2", task("a", "10.244.1.3", http))
	first := snapshot(one)
	first.Follow(nil, nil)
	b.Reconcile(t.Context(), first, true)
	second := *first
	second.Services = []*model.Service{&two}
	second.Follow(first, []model.ServiceID{one.ID, two.ID, {Stack: "s", Name: "never-there"}})
	b.Reconcile(t.Context(), &second, false)
	if d := cmp.Diff([]string{"- 10.96.0.1:80/tcp", "+ two 10.96.0.2:80/tcp rr | 10.244.1.3:80 1"}, r.last); d != "" {
		t.Error(d)
	}
}

// BenchmarkOneChange is the balancer's part of one change, among so many services, each of
// two tasks.
func BenchmarkOneChange(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		for _, known := range []bool{true, false} {
			b.Run(fmt.Sprintf("services=%d/known=%v", n, known), func(b *testing.B) {
				s := &model.Snapshot{Self: nodes[1], Nodes: nodes}
				for i := range n {
					addr := func(net byte) string { return netip.AddrFrom4([4]byte{10, net, byte(i >> 8), byte(i)}).String() }
					svc := service(fmt.Sprintf("s%05d", i), addr(96), task("a", addr(244)), task("b", addr(245)))
					s.Services = append(s.Services, &svc)
				}
				s.Follow(nil, nil)
				balancer, err := New(Options{}, &recorder{frontends: map[Key]*Frontend{}, endpoints: map[netip.Addr]Endpoint{}})
				if err != nil {
					b.Fatal(err)
				}
				balancer.Reconcile(b.Context(), s, true)
				flip := map[model.State]model.State{model.Running: model.Paused, model.Paused: model.Running}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					b.StopTimer()
					was := s
					next, svc := *was, *was.Services[i%n]
					next.Services = slices.Clone(was.Services)
					next.Services[i%n] = &svc
					svc.Tasks = slices.Clone(svc.Tasks)
					flipped := *svc.Tasks[0]
					flipped.State = flip[flipped.State]
					svc.Tasks[0] = &flipped
					if s = &next; known {
						s.Follow(was, []model.ServiceID{svc.ID})
					}
					b.StartTimer()
					balancer.Reconcile(b.Context(), s, false)
				}
			})
		}
	}
}
