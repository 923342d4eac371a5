package lb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal/model"
)

// recorder is a plane that keeps what it is told, and nothing else.
type recorder struct {
	DataPlane
	frontends map[Key]*Frontend
	endpoints map[netip.Addr]Endpoint
	base      *Base
	last      []string // the changes of the last pass, in order
	fails     []Failure
}

func (r *recorder) Name() string { return "recorder" }

func (r *recorder) Scheduler(name string) string {
	if name == "wlc" {
		return "rr"
	}
	return name
}

func (r *recorder) RepairRoutes() error { return nil }

func (r *recorder) Redirects(f *Frontend) bool { return r.frontends[f.Key] != nil }

func (r *recorder) Reconcile(_ context.Context, d Delta, full bool) Result {
	r.last = nil
	for _, k := range sorted(d.Frontends) {
		if f := d.Frontends[k]; f == nil {
			r.last = append(r.last, "- "+k.String())
			delete(r.frontends, k)
		} else {
			r.last = append(r.last, "+ "+f.Service.Name+" "+text(f))
			r.frontends[k] = f
		}
	}
	for _, k := range sorted(d.Withheld) {
		r.last = append(r.last, map[bool]string{true: "no longer withheld ", false: "withheld "}[d.Withheld[k] == nil]+k.String())
	}
	for _, a := range slices.SortedFunc(maps.Keys(d.Resting), netip.Addr.Compare) {
		r.last = append(r.last, a.String()+map[bool]string{true: " rests", false: " rests no longer"}[d.Resting[a]])
	}
	for a, e := range d.Endpoints {
		if e == nil {
			delete(r.endpoints, a)
		} else {
			r.endpoints[a] = *e
		}
	}
	if d.Base != nil {
		r.base = d.Base
		r.last = append(r.last, "base")
	}
	return Result{Failures: r.fails}
}

// newRecorder is a Balancer on host b that tells a recorder.
func newRecorder(t *testing.T, o Options) (*Balancer, *recorder) {
	t.Helper()
	r := &recorder{frontends: map[Key]*Frontend{}, endpoints: map[netip.Addr]Endpoint{}}
	b, err := New(o, r)
	if err != nil {
		t.Fatal(err)
	}
	return b, r
}

// service is one with a VIP; its tasks are its.
func service(name, vip string, tasks ...model.Task) model.Service {
	s := model.Service{ID: model.ServiceID{Stack: "s", Name: name}, Spec: model.Spec{Mode: model.ModeVIP}, Tasks: pointers(tasks)}
	if vip != "" {
		s.VIP = netip.MustParseAddr(vip)
	}
	for i := range s.Tasks {
		s.Tasks[i].Service = s.ID
	}
	return s
}

// snapshot is one of services, whose published ports are claimed by the first
// that publishes them.
func snapshot(services ...model.Service) *model.Snapshot {
	s := &model.Snapshot{Self: nodes[1], Nodes: nodes}
	for _, svc := range services {
		s.Services = append(s.Services, &svc)
	}
	slices.SortFunc(s.Services, func(a, b *model.Service) int { return a.ID.Compare(b.ID) })
	for _, svc := range s.Services {
		for _, t := range svc.Tasks {
			for _, p := range t.Spec.Publish {
				c := model.PortClaim{Protocol: p.Protocol, Port: p.Published, Service: svc.ID}
				if !slices.ContainsFunc(s.Published, func(o model.PortClaim) bool { return o.Protocol == c.Protocol && o.Port == c.Port }) {
					s.Published = append(s.Published, c)
				}
			}
		}
	}
	return s
}

func TestThePlaneIsToldWhatChanged(t *testing.T) {
	http := ports(model.Port{Port: 80, Target: 80, Protocol: model.TCP})
	b, r := newRecorder(t, Options{})
	told := func(s *model.Snapshot, want ...string) {
		t.Helper()
		if got := b.Reconcile(t.Context(), s, false); len(got.Problems) > 0 {
			t.Errorf("problems %v", got.Problems)
		}
		if d := cmp.Diff(want, r.last); d != "" {
			t.Error(d)
		}
	}
	one := service("one", "10.96.0.1", task("a", "10.244.1.2", http))
	two := service("two", "10.96.0.2", task("b", "10.244.2.2", http, publish("8080:80/tcp")))
	told(snapshot(one, two),
		"+ two 8080/tcp rr | 10.244.2.2:80 1 local", "+ one 10.96.0.1:80/tcp rr | 10.244.1.2:80 1", "+ two 10.96.0.2:80/tcp rr | 10.244.2.2:80 1 local", "base")
	told(snapshot(one, two))
	if want := (map[netip.Addr]Endpoint{one.Tasks[0].Addr: {}, two.Tasks[0].Addr: {Local: true}}); !cmp.Equal(want, r.endpoints, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
		t.Errorf("endpoints %v, want %v", r.endpoints, want)
	}

	drained := service("one", "10.96.0.1", task("a", "10.244.1.2", http, state(model.Draining)))
	told(snapshot(drained, two), "+ one 10.96.0.1:80/tcp rr | 10.244.1.2:80 0 +10s")
	told(snapshot(two), "- 10.96.0.1:80/tcp")
	if _, left := r.endpoints[one.Tasks[0].Addr]; left {
		t.Error("an address without a task is still an endpoint")
	}

	// A field that decides nothing changes nothing.
	renamed := service("two", "10.96.0.2", task("b", "10.244.2.2", http, publish("8080:80/tcp"), func(t *model.Task) { t.Name = "other" }))
	told(snapshot(renamed))

	grown := snapshot(renamed)
	grown.Nodes = append(slices.Clone(nodes), model.Node{Name: "d", Number: 4, Addr: netip.MustParseAddr("192.0.2.13"), Subnet: netip.MustParsePrefix("10.244.4.0/24"), Alive: true})
	told(grown, "base")
	told(snapshot(), "- 8080/tcp", "- 10.96.0.2:80/tcp", "base")
	if len(r.frontends)+len(r.endpoints) > 0 {
		t.Errorf("left: %v, %v", r.frontends, r.endpoints)
	}
}

func TestAVIPPassesFromOneServiceToAnotherInOneSnapshot(t *testing.T) {
	b, r := newRecorder(t, Options{})
	b.Reconcile(t.Context(), snapshot(service("old", "10.96.0.1", task("a", "10.244.1.2"))), false)
	// By name the new one comes first.
	got := b.Reconcile(t.Context(), snapshot(service("new", "10.96.0.1", task("b", "10.244.2.2", ports(model.Port{Port: 80, Target: 80, Protocol: model.TCP}))), service("old", "")), false)
	want := []string{"- 10.96.0.1 tcp", "+ new 10.96.0.1:80/tcp rr | 10.244.2.2:80 1 local", "- 10.96.0.1 udp"}
	if d := cmp.Diff(want, r.last); d != "" || len(got.Problems) > 0 {
		t.Errorf("problems %v; %s", got.Problems, d)
	}
	// And back, with the same frontend.
	same := ports(model.Port{Port: 80, Target: 80, Protocol: model.TCP})
	b.Reconcile(t.Context(), snapshot(service("new", ""), service("old", "10.96.0.1", task("a", "10.244.1.2", same))), false)
	if d := cmp.Diff([]string{"+ old 10.96.0.1:80/tcp rr | 10.244.1.2:80 1"}, r.last); d != "" {
		t.Error(d)
	}
}

func TestOfTwoServicesWithOneVIPTheFirstKeepsIt(t *testing.T) {
	b, r := newRecorder(t, Options{})
	first := service("zeta", "10.96.0.1", task("a", "10.244.1.2"))
	second := service("alpha", "10.96.0.1", task("b", "10.244.2.2"))
	b.Reconcile(t.Context(), snapshot(first), false)
	for range 2 {
		got := b.Reconcile(t.Context(), snapshot(first, second), false)
		if len(r.last) > 0 || len(got.Problems) != 1 || got.Problems[0].Code != model.VIPTaken || got.Problems[0].Object != "VIP 10.96.0.1" {
			t.Errorf("told %q, problems %v; want one, that names the VIP", r.last, got.Problems)
		}
	}
	got := b.Reconcile(t.Context(), snapshot(second), false)
	want := []string{"+ alpha 10.96.0.1 tcp rr | 10.244.2.2:0 1 local", "+ alpha 10.96.0.1 udp rr | 10.244.2.2:0 1 local"}
	if d := cmp.Diff(want, r.last); d != "" || len(got.Problems) > 0 {
		t.Errorf("once it has gone: problems %v; %s", got.Problems, d)
	}
}

func TestAPortThatIsSomebodyElsesIsNotTaken(t *testing.T) {
	taken := true
	var asked, askedTaken int
	b, r := newRecorder(t, Options{Admit: func(_ context.Context, fs []*Frontend, has func(Key) bool) map[Key]error {
		for _, f := range fs {
			asked++
			if has(f.Key) {
				askedTaken++
			}
		}
		errs := map[Key]error{}
		for _, f := range fs {
			if taken && f.Port == 8080 {
				errs[f.Key] = model.PortInUse.Errorf("publish %s: somebody has it", f.Key)
			}
		}
		return errs
	}})
	k := Key{Protocol: model.TCP, Port: 8080}
	s := snapshot(service("web", "", task("b", "10.244.2.2", publish("8080:80/tcp", "8081:80/tcp"))))
	got := b.Reconcile(t.Context(), s, false)
	if d := cmp.Diff([]string{"+ web 8081/tcp rr | 10.244.2.2:80 1 local", "withheld 8080/tcp", "base"}, r.last); d != "" {
		t.Error(d)
	}
	if len(got.Problems) != 1 || got.Problems[0].Code != model.PortInUse || b.Refused(k) == nil || got.Again == 0 {
		t.Errorf("problems %v, again in %v; want one, and another try", got.Problems, got.Again)
	}
	if asked != 2 {
		t.Errorf("asked for %d ports, want both", asked)
	}
	taken = false
	got = b.Reconcile(t.Context(), s, true)
	if d := cmp.Diff([]string{"+ web 8080/tcp rr | 10.244.2.2:80 1 local", "no longer withheld 8080/tcp"}, r.last); d != "" || len(got.Problems) > 0 || b.Refused(k) != nil {
		t.Errorf("problems %v; %s", got.Problems, d)
	}
	if asked != 4 || askedTaken != 1 {
		t.Errorf("asked for %d ports, %d of them taken already; want both, twice, and one", asked, askedTaken)
	}
	// Whoever comes later has it as well: known in a full pass, and when a container of this host came.
	taken = true
	if b.Reconcile(t.Context(), s, false); len(r.last) > 0 || asked != 4 {
		t.Errorf("nothing has changed; told %q, asked %d times", r.last, asked)
	}
	for _, test := range []struct {
		full bool
		s    *model.Snapshot
	}{{true, s}, {false, withContainer(s, "x")}} {
		taken = true
		got := b.Reconcile(t.Context(), test.s, test.full)
		if d := cmp.Diff([]string{"- 8080/tcp", "withheld 8080/tcp"}, r.last); d != "" || len(got.Problems) != 1 || got.Problems[0].Code != model.PortInUse {
			t.Errorf("somebody else has it now: problems %v; %s", got.Problems, d)
		}
		taken = false
		b.Reconcile(t.Context(), test.s, true)
		if d := cmp.Diff([]string{"+ web 8080/tcp rr | 10.244.2.2:80 1 local", "no longer withheld 8080/tcp"}, r.last); d != "" {
			t.Errorf("it is free again: %s", d)
		}
	}
	b.Reconcile(t.Context(), snapshot(), false)
	if b.Refused(k) != nil {
		t.Error("a port that nobody publishes is refused")
	}
}

// withContainer is a Snapshot with one container more, on this host.
func withContainer(s *model.Snapshot, id string) *model.Snapshot {
	more := *s
	more.Containers = model.ContainersOf(append(slices.Collect(s.Containers.All()), &model.Container{ID: id, Node: s.Self.Name})...)
	return &more
}

func TestProblemsOfAPlaneNameTheService(t *testing.T) {
	b, r := newRecorder(t, Options{})
	key := Key{VIP: vip, Protocol: model.TCP}
	r.fails = []Failure{
		{Object: Object{Part: "iptables"}, Err: errors.New("no"), Since: noon},
		{Object: Object{Key: key}, Err: fmt.Errorf("full"), Since: noon},
	}
	s := service("web", "10.96.0.1", task("a", "10.244.1.2"))
	s.Spec.Scheduler = "wlc"
	got := b.Reconcile(t.Context(), snapshot(s), false).Problems
	want := []model.Problem{
		{Node: "b", Code: model.KernelWriteFailed, Kind: "kernel", Object: "iptables", Reason: "no", Since: noon},
		{Node: "b", Code: model.KernelWriteFailed, Kind: "service", Object: "s/web", Reason: "10.96.0.1 tcp: full", Since: noon},
		{Node: "b", Code: model.SchedulerNearest, Notice: true, Kind: "service", Object: "s/web", Reason: "the data plane recorder has no scheduler wlc: rr is used; start the agent with --data-plane ipvs for it"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestTheSecondDNSAddressFollowsTheHosts(t *testing.T) {
	b, r := newRecorder(t, Options{DNS: netip.MustParseAddr("10.96.0.10"), DNSPeers: netip.MustParseAddr("10.96.0.11")})
	b.Reconcile(t.Context(), snapshot(), false)
	want := []string{"+ dns-peers 10.96.0.11:53/tcp rr | 10.244.1.1:53 1 | 10.244.3.1:53 1", "+ dns-peers 10.96.0.11:53/udp rr | 10.244.1.1:53 1 | 10.244.3.1:53 1", "base"}
	if d := cmp.Diff(want, r.last); d != "" {
		t.Error(d)
	}
	s := snapshot()
	s.Nodes = slices.Clone(nodes)
	s.Nodes[0].Alive = false
	b.Reconcile(t.Context(), s, false)
	if d := cmp.Diff([]string{"+ dns-peers 10.96.0.11:53/tcp rr | 10.244.3.1:53 1", "+ dns-peers 10.96.0.11:53/udp rr | 10.244.3.1:53 1"}, r.last); d != "" {
		t.Error(d)
	}
}

func TestChangedServices(t *testing.T) {
	named := func(name string, change ...func(*model.Task)) model.Service {
		return service(name, "10.96.0.1", task("a", "10.244.1.2", change...))
	}
	old := snapshot(named("a"), named("b"), named("c"), named("d", state(model.Draining)), named("e"), named("f"), named("g"), named("z"))
	new := snapshot(named("a"), named("aa"), named("b", state(model.Unhealthy)), named("c", weight(2)),
		named("d", state(model.Draining), func(t *model.Task) { t.Drain = time.Minute }),
		named("e", ports(model.Port{Port: 1, Target: 1, Protocol: model.TCP})),
		named("f", func(t *model.Task) { t.Spec.PreferLocal = true }), named("g", state(model.Lost)))
	var got []string
	changed(old, new, func(o, n *model.Service) {
		switch {
		case o == nil:
			got = append(got, "+"+n.ID.Name)
		case n == nil:
			got = append(got, "-"+o.ID.Name)
		default:
			got = append(got, n.ID.Name)
		}
	})
	if d := cmp.Diff([]string{"+aa", "b", "c", "d", "e", "f", "g", "-z"}, got); d != "" {
		t.Error(d)
	}
}
