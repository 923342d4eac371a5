package traffic

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"shoal/internal/cow"
	"shoal/kernel/conntrack"
	"shoal/model"
)

var (
	web = model.ServiceID{Stack: "shop", Name: "web"}
	db  = model.ServiceID{Stack: "shop", Name: "db"}
)

// cluster is hosts a, which looks, and b. Web has a task on each and is published
// on 8080, db has one on b; and there is a container without a service on each.
func cluster() *model.Snapshot {
	task := func(id model.ServiceID, node, addr string, ports ...model.Port) model.Task {
		return model.Task{Service: id, Node: node, Container: addr, Addr: netip.MustParseAddr(addr), State: model.Running, Spec: &model.Spec{Ports: ports}}
	}
	webA, webB := task(web, "a", "10.244.1.2"), task(web, "b", "10.244.2.2")
	dbB := task(db, "b", "10.244.2.3")
	container := func(name, node, addr string, tasks ...model.Task) *model.Container {
		return &model.Container{ID: addr, Name: name, Node: node, Addrs: []netip.Addr{netip.MustParseAddr(addr)}, Tasks: tasks}
	}
	a := model.Node{Name: "a", Addr: netip.MustParseAddr("192.0.2.1"), Alive: true}
	b := model.Node{Name: "b", Addr: netip.MustParseAddr("192.0.2.2"), Alive: true}
	return &model.Snapshot{
		Revision: 1, Self: a, Nodes: []model.Node{a, b},
		Services: []*model.Service{
			{ID: db, VIP: netip.MustParseAddr("10.96.0.2"), Tasks: []*model.Task{&dbB}},
			{ID: web, VIP: netip.MustParseAddr("10.96.0.1"), Tasks: []*model.Task{&webA, &webB}},
		},
		Containers: model.ContainersOf(
			container("web-1", "a", "10.244.1.2", webA), container("shell", "a", "10.244.1.9"),
			container("web-2", "b", "10.244.2.2", webB), container("db-1", "b", "10.244.2.3", dbB), container("cron", "b", "10.244.2.9"),
		),
		Published: []model.PortClaim{{Protocol: model.TCP, Port: 8080, Service: web}},
		Addrs:     cow.Map[netip.Addr, model.AddrUse]{},
	}
}

// entry is a connection, "client dest server" with ports.
func entry(t *testing.T, id uint32, text string) conntrack.Entry {
	t.Helper()
	ends := strings.Fields(text)
	at := func(i int) netip.AddrPort {
		a, err := netip.ParseAddrPort(ends[min(i, len(ends)-1)])
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	return conntrack.Entry{ID: id, Protocol: model.TCP, Client: at(0), Dest: at(1), Server: at(2), Open: true}
}

// TestEachConnectionIsCountedOnOneHost says whose a connection is, as host a sees
// it; "": nobody's there.
func TestEachConnectionIsCountedOnOneHost(t *testing.T) {
	local := map[netip.Addr]bool{netip.MustParseAddr("192.0.2.1"): true, netip.MustParseAddr("127.0.0.1"): true}
	b := newBook(cluster())
	for _, c := range []struct{ what, connection, want string }{
		{"a task to a VIP, by the data plane", "10.244.1.2:1000 10.96.0.2:5432 10.244.2.3:5432", "service shop/web > shop/db"},
		{"a task that was led in connect()", "10.244.1.2:1000 10.244.2.3:5432", "service shop/web > shop/db"},
		{"a container", "10.244.1.9:1000 10.96.0.1:80 10.244.1.2:80", "container shell > shop/web"},
		{"a process of the host", "192.0.2.1:1000 10.244.2.2:80", "host a > shop/web"},
		{"a client outside, by a published port", "198.51.100.7:1000 192.0.2.1:8080 10.244.2.2:80", "outside > shop/web"},
		{"the same, seen by the data plane behind", "198.51.100.7:1000 10.244.1.2:80", ""},
		{"another host, by a published port", "192.0.2.2:1000 192.0.2.1:8080 10.244.1.2:80", "host b > shop/web"},
		{"a container of this host, by a published port", "10.244.1.9:1000 192.0.2.1:8080 10.244.1.2:80", "container shell > shop/web"},
		{"a container of another host: that one's to count", "10.244.2.9:1000 10.244.1.2:80", ""},
		{"a container to somebody else's port 8080", "10.244.1.9:1000 198.51.100.7:8080", ""},
		{"a container to one that is no task", "10.244.1.2:1000 10.244.2.9:80", ""},
	} {
		got := ""
		if p, ok := b.pair(entry(t, 1, c.connection), local); ok {
			got = strings.ReplaceAll(strings.TrimSpace(p.From.Kind+" "+p.From.Name)+" > "+p.To.String(), "  ", " ")
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// TestATaskOfTwoServicesIsTheOneWhosePortItIs
func TestATaskOfTwoServicesIsTheOneWhosePortItIs(t *testing.T) {
	s := cluster()
	for i, id := range []model.ServiceID{web, db} {
		s.Services[i].Tasks = []*model.Task{{Service: id, Addr: netip.MustParseAddr("10.244.2.3"), Spec: &model.Spec{
			Ports: []model.Port{{Port: 1, Target: 8000 + uint16(i), Protocol: model.TCP}}}}}
	}
	b := newBook(s)
	for port, want := range map[string]model.ServiceID{"8000": web, "8001": db} {
		if id, _ := b.serviceAt(model.TCP, netip.MustParseAddrPort("10.244.2.3:"+port)); id != want {
			t.Errorf("port %s is %v's, want %v's", port, id, want)
		}
	}
}

// world is a kernel to be sampled.
type world struct {
	entries []conntrack.Entry
	tracked int
	opened  uint64 // by web's VIP
	now     time.Time
	*Sampler
}

func newWorld() *world {
	w := &world{now: time.Unix(1000, 0)}
	w.Sampler = NewSampler(w.now, func() (int, error) { return max(w.tracked, len(w.entries)), nil },
		func() ([]Service, error) { return []Service{{ID: web, Opened: w.opened}}, nil })
	w.list = func(visit func(conntrack.Entry) bool) error {
		for _, e := range w.entries {
			if !visit(e) {
				return errors.New("stopped")
			}
		}
		return nil
	}
	w.local = func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil }
	return w
}

// after is the count some time later.
func (w *world) after(t *testing.T, d time.Duration) Count {
	t.Helper()
	w.now = w.now.Add(d)
	c, err := w.Count(cluster(), w.now)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestNewConnectionsAreCounted: those that are there already are open, and no news.
func TestNewConnectionsAreCounted(t *testing.T) {
	w := newWorld()
	w.entries = []conntrack.Entry{entry(t, 1, "10.244.1.9:1000 10.96.0.1:80")}
	pair := Pair{Client{KindContainer, "shell"}, web}
	check := func(what string, c Count, opened uint64, open int) {
		t.Helper()
		if want := []Flow{{pair, opened, open}}; !reflect.DeepEqual(c.Flows, want) {
			t.Errorf("%s: %+v, want %+v", what, c.Flows, want)
		}
	}
	check("at first", w.after(t, 0), 0, 1)
	w.entries = append(w.entries, entry(t, 2, "10.244.1.9:1001 10.96.0.1:80"), entry(t, 3, "10.244.1.9:1002 10.96.0.1:80"))
	w.entries[2].Open = false
	check("less than two seconds later", w.after(t, time.Second), 0, 1)
	check("two more", w.after(t, time.Second), 2, 2)
	w.entries = w.entries[1:]
	check("one went", w.after(t, 3*time.Second), 2, 1)
	check("nobody asked for long", w.after(t, 5*time.Minute), 2, 1)
	w.entries = nil
	check("all went", w.after(t, 3*time.Second), 2, 0)
	if c := w.after(t, pairIdle+time.Second); c.Flows != nil {
		t.Errorf("idle for long: %+v, want none", c.Flows)
	}
}

// TestTooManyConnectionsAreNotLookedAt: the data plane's counters are still there.
func TestTooManyConnectionsAreNotLookedAt(t *testing.T) {
	w := newWorld()
	w.tracked, w.opened = mostEntries+1, 7
	c := w.after(t, 0)
	if !strings.Contains(c.Unsampled, "65537 connections") || len(c.Flows) > 0 || len(c.Services) != 1 || c.Services[0].Opened != 7 {
		t.Errorf("%+v, want no flows and why, and the services' counters", c)
	}
}

// TestClientsAreBounded: those beyond are counted together.
func TestClientsAreBounded(t *testing.T) {
	w := newWorld()
	for i := range mostPairs {
		w.pairs[Pair{Client{KindContainer, string(rune(i + 256))}, web}] = &tally{active: w.now}
	}
	w.entries = []conntrack.Entry{entry(t, 1, "10.244.1.9:1000 10.96.0.1:80"), entry(t, 2, "10.244.1.2:1000 10.96.0.1:80")}
	c := w.after(t, 0)
	if len(c.Flows) != mostPairs+1 || w.pairs[Pair{Client{Kind: KindOthers}, web}] == nil || w.pairs[Pair{Client{Kind: KindOthers}, web}].open != 2 {
		t.Errorf("%d pairs, the others are %+v", len(c.Flows), w.pairs[Pair{Client{Kind: KindOthers}, web}])
	}
}

// TestRatesAreOfAllHosts: a host that is asked twice in two seconds keeps its rate, and one that
// was started anew has none at first.
func TestRatesAreOfAllHosts(t *testing.T) {
	count := func(run string, at time.Duration, opened uint64, open int) Count {
		return Count{Run: run, At: at, Services: []Service{{ID: web, Opened: opened, BytesIn: 10 * opened}},
			Flows: []Flow{{Pair{Client{Kind: KindOutside}, web}, opened, open}}}
	}
	var m Meter
	check := func(what string, counts map[string]Count, rate float64, open int) {
		t.Helper()
		p := m.Update(counts)
		if len(p.Services) != 1 || p.Services[0] != (ServiceRate{web, rate, 10 * rate, 0}) {
			t.Errorf("%s: services %+v, want %v connections a second", what, p.Services, rate)
		}
		if len(p.Flows) != 1 || p.Flows[0].Connections != rate || p.Flows[0].Open != open {
			t.Errorf("%s: flows %+v, want %v connections a second, %d open", what, p.Flows, rate, open)
		}
	}
	check("at first", map[string]Count{"a": count("1", 0, 100, 1), "b": count("1", time.Hour, 5, 2)}, 0, 3)
	check("two seconds later", map[string]Count{"a": count("1", 2*time.Second, 110, 1), "b": count("1", time.Hour+4*time.Second, 13, 2)}, 7, 3)
	check("b has not looked since", map[string]Count{"a": count("1", 4*time.Second, 112, 1), "b": count("1", time.Hour+4*time.Second, 13, 2)}, 3, 3)
	check("a's agent was started anew", map[string]Count{"a": count("2", time.Second, 500, 0), "b": count("1", time.Hour+5*time.Second, 14, 2)}, 1, 2)
}
