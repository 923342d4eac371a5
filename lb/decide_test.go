package lb

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal/model"
)

// The cluster of these tests, as host b sees it.
var (
	noon  = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	web   = model.ServiceID{Stack: "s", Name: "web"}
	vip   = netip.MustParseAddr("10.96.0.1")
	nodes = []model.Node{
		{Name: "a", Number: 1, Addr: netip.MustParseAddr("192.0.2.10"), Subnet: netip.MustParsePrefix("10.244.1.0/24"), Alive: true},
		{Name: "b", Number: 2, Addr: netip.MustParseAddr("192.0.2.11"), Subnet: netip.MustParsePrefix("10.244.2.0/24"), Alive: true},
		{Name: "c", Number: 3, Addr: netip.MustParseAddr("192.0.2.12"), Subnet: netip.MustParsePrefix("10.244.3.0/24"), Alive: true},
	}
)

// task is a running task of web on a host.
func task(node, addr string, change ...func(*model.Task)) model.Task {
	t := model.Task{
		Service: web, Node: node, Container: addr, Name: "web." + node, Addr: netip.MustParseAddr(addr),
		State: model.Running, Weight: 1, Since: noon, Drain: 10 * time.Second, Spec: &model.Spec{Mode: model.ModeVIP},
	}
	for _, c := range change {
		c(&t)
	}
	return t
}

func state(s model.State) func(*model.Task) { return func(t *model.Task) { t.State = s } }
func weight(n int) func(*model.Task)        { return func(t *model.Task) { t.Weight = n } }

func ports(ps ...model.Port) func(*model.Task) {
	return func(t *model.Task) { t.Spec.Ports = ps }
}

// publish reads "[IP:]PUBLISHED:TARGET/PROTO".
func publish(specs ...string) func(*model.Task) {
	return func(t *model.Task) {
		for _, s := range specs {
			var p model.PublishedPort
			ports, proto, _ := strings.Cut(s, "/")
			p.Protocol, _ = model.ParseProtocol(proto)
			f := strings.Split(ports, ":")
			n := len(f)
			if n > 2 {
				p.IP = netip.MustParseAddr(strings.Join(f[:n-2], ":"))
			}
			fmt.Sscan(f[n-2], &p.Published)
			fmt.Sscan(f[n-1], &p.Target)
			t.Spec.Publish = append(t.Spec.Publish, p)
		}
	}
}

// text is a frontend in a line: "KEY [on ADDR…] SCHEDULER [affinity TIME] | BACKEND WEIGHT [+DRAIN] [lost] [local]…".
func text(f *Frontend) string {
	var b strings.Builder
	fmt.Fprint(&b, f.Key)
	for i, a := range f.On {
		fmt.Fprint(&b, []string{" on ", ","}[min(i, 1)], a)
	}
	fmt.Fprint(&b, " ", f.Scheduler)
	if f.Affinity > 0 {
		fmt.Fprint(&b, " affinity ", f.Affinity)
	}
	for _, d := range f.Backends {
		fmt.Fprintf(&b, " | %s %d", d.Addr, d.Weight)
		if !d.Until.IsZero() {
			fmt.Fprintf(&b, " +%s", d.Until.Sub(noon))
		}
		if d.Lost {
			b.WriteString(" lost")
		}
		if d.Local {
			b.WriteString(" local")
		}
	}
	return b.String()
}

func pointers(tasks []model.Task) (all []*model.Task) {
	for _, t := range tasks {
		all = append(all, &t)
	}
	return all
}

// decided is what web asks for on host b, which holds the ports 80.
func decided(t *testing.T, spec model.Spec, tasks []model.Task) (frontends, problems []string, p *part) {
	t.Helper()
	if spec.Mode == "" {
		spec.Mode = model.ModeVIP
	}
	svc := &model.Service{ID: web, VIP: vip, Spec: spec, Tasks: pointers(tasks)}
	s := &model.Snapshot{
		Self: nodes[1], Nodes: nodes, Services: []*model.Service{svc},
		Published: []model.PortClaim{{Protocol: model.TCP, Port: 80, Service: web}, {Protocol: model.UDP, Port: 80, Service: web}, {Protocol: model.TCP, Port: 81, Service: model.ServiceID{Stack: "s", Name: "other"}}},
	}
	p = decide(svc, surroundingsOf(s))
	for _, f := range p.frontends {
		if f.Service != web {
			t.Errorf("%s is of %s", f.Key, f.Service)
		}
		frontends = append(frontends, text(f))
	}
	if !slices.IsSortedFunc(p.frontends, func(a, b *Frontend) int { return a.Key.Compare(b.Key) }) {
		t.Errorf("not in order: %q", frontends)
	}
	for _, pr := range p.problems {
		if pr.Node != "b" || pr.Object != "s/web" || pr.Code == "" {
			t.Errorf("problem %+v", pr)
		}
		problems = append(problems, pr.Reason)
	}
	return frontends, problems, p
}

func TestFrontendsOfAVIP(t *testing.T) {
	http := model.Port{Port: 80, Target: 8080, Protocol: model.TCP}
	dns := model.Port{Port: 53, Target: 5353, Protocol: model.UDP}
	sctp := model.Port{Port: 99, Target: 99, Protocol: model.SCTP}
	both := func(tcp, udp string) []string {
		return []string{"10.96.0.1 tcp " + tcp, "10.96.0.1 udp " + udp}
	}
	for name, tc := range map[string]struct {
		spec  model.Spec
		tasks []model.Task
		want  []string
	}{
		"no tasks": {},
		"of another host, which alone reaches it": {
			tasks: []model.Task{task("c", "172.18.0.2", state(model.Unreached)), task("b", "172.18.0.2")},
			want:  both("rr | 172.18.0.2:0 1 local", "rr | 172.18.0.2:0 1 local"),
		},
		"every port, by weight": {
			tasks: []model.Task{task("a", "10.244.1.3", weight(5)), task("a", "10.244.1.2")},
			want:  both("rr | 10.244.1.2:0 1 | 10.244.1.3:0 5", "rr | 10.244.1.2:0 1 | 10.244.1.3:0 5"),
		},
		"weights that are too large or too small": {
			tasks: []model.Task{task("a", "10.244.1.2", weight(1<<20)), task("a", "10.244.1.3", weight(-1))},
			want:  both("rr | 10.244.1.2:0 65535 | 10.244.1.3:0 0", "rr | 10.244.1.2:0 65535"),
		},
		"named ports": {
			tasks: []model.Task{task("a", "10.244.1.2", ports(http, dns, sctp))},
			want:  []string{"10.96.0.1:80/tcp rr | 10.244.1.2:8080 1", "10.96.0.1:53/udp rr | 10.244.1.2:5353 1", "10.96.0.1:99/sctp rr | 10.244.1.2:99 1"},
		},
		"a task with all ports joins every named one": {
			tasks: []model.Task{task("a", "10.244.1.2", ports(http)), task("a", "10.244.1.3")},
			want:  []string{"10.96.0.1 tcp rr | 10.244.1.3:0 1", "10.96.0.1:80/tcp rr | 10.244.1.2:8080 1 | 10.244.1.3:80 1", "10.96.0.1 udp rr | 10.244.1.3:0 1"},
		},
		"out of rotation: TCP keeps what it holds, UDP leaves": {
			tasks: []model.Task{task("a", "10.244.1.2", state(model.Unhealthy)), task("a", "10.244.1.3", state(model.Paused)),
				task("a", "10.244.1.4", state(model.Starting)), task("a", "10.244.1.5", state(model.Draining)), task("a", "10.244.1.6"), task("a", "10.244.1.7", state(model.Lost))},
			want: both("rr | 10.244.1.2:0 0 | 10.244.1.3:0 0 | 10.244.1.4:0 0 | 10.244.1.5:0 0 +10s | 10.244.1.6:0 1 | 10.244.1.7:0 0 +10s lost", "rr | 10.244.1.6:0 1"),
		},
		"none in rotation": {
			tasks: []model.Task{task("a", "10.244.1.2", weight(0))},
			want:  []string{"10.96.0.1 tcp rr | 10.244.1.2:0 0"},
		},
		"local preferred: others keep what they hold": {
			spec:  model.Spec{PreferLocal: true},
			tasks: []model.Task{task("a", "10.244.1.2"), task("b", "10.244.2.2"), task("b", "10.244.2.3", weight(2))},
			want:  both("rr | 10.244.1.2:0 0 | 10.244.2.2:0 1 local | 10.244.2.3:0 2 local", "rr | 10.244.2.2:0 1 local | 10.244.2.3:0 2 local"),
		},
		"local preferred, and none is": {
			spec:  model.Spec{PreferLocal: true},
			tasks: []model.Task{task("a", "10.244.1.2"), task("c", "10.244.3.2")},
			want:  both("rr | 10.244.1.2:0 1 | 10.244.3.2:0 1", "rr | 10.244.1.2:0 1 | 10.244.3.2:0 1"),
		},
		"local preferred, and none in rotation": {
			spec:  model.Spec{PreferLocal: true},
			tasks: []model.Task{task("a", "10.244.1.2"), task("b", "10.244.2.2", state(model.Unhealthy)), task("b", "10.244.2.3", weight(0))},
			want:  both("rr | 10.244.1.2:0 1 | 10.244.2.2:0 0 local | 10.244.2.3:0 0 local", "rr | 10.244.1.2:0 1"),
		},
		"local preferred, port by port": {
			spec:  model.Spec{PreferLocal: true},
			tasks: []model.Task{task("a", "10.244.1.2", ports(http, dns)), task("b", "10.244.2.2", ports(http))},
			want:  []string{"10.96.0.1:80/tcp rr | 10.244.1.2:8080 0 | 10.244.2.2:8080 1 local", "10.96.0.1:53/udp rr | 10.244.1.2:5353 1"},
		},
		"a scheduler, and affinity in whole seconds, rounded up": {
			spec:  model.Spec{Scheduler: "wlc", Affinity: 1500 * time.Millisecond},
			tasks: []model.Task{task("a", "10.244.1.2", ports(http))},
			want:  []string{"10.96.0.1:80/tcp wlc affinity 2s | 10.244.1.2:8080 1"},
		},
		"containers that share an address: who serves longest counts": {
			tasks: []model.Task{task("a", "10.244.1.2", state(model.Draining)), task("a", "10.244.1.2", weight(2)), task("a", "10.244.1.2", state(model.Unhealthy))},
			want:  both("rr | 10.244.1.2:0 2", "rr | 10.244.1.2:0 2"),
		},
		"containers that share an address and drain": {
			tasks: []model.Task{task("a", "10.244.1.2", state(model.Draining)), task("a", "10.244.1.2", state(model.Draining), func(t *model.Task) { t.Drain = time.Minute })},
			want:  []string{"10.96.0.1 tcp rr | 10.244.1.2:0 0 +1m0s"},
		},
		"names without VIPs": {
			spec:  model.Spec{Mode: model.ModeDNSRR},
			tasks: []model.Task{task("a", "10.244.1.2")},
		},
		"IPv6 is not balanced": {
			tasks: []model.Task{task("a", "fd00::2"), task("a", "10.244.1.2", ports(http))},
			want:  []string{"10.96.0.1:80/tcp rr | 10.244.1.2:8080 1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, _, _ := decided(t, tc.spec, tc.tasks)
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestFrontendsOfPublishedPorts(t *testing.T) {
	unreached := "container web.b has the address 172.17.0.2, which other hosts do not reach: they publish 80/tcp without it; start it on the network between hosts"
	for name, tc := range map[string]struct {
		spec    model.Spec
		tasks   []model.Task
		want    []string
		problem []string
	}{
		"tasks here and elsewhere": {
			tasks: []model.Task{task("b", "10.244.2.2", publish("80:8080/tcp")), task("c", "10.244.3.2", publish("80:8080/tcp"))},
			want:  []string{"80/tcp rr | 10.244.2.2:8080 1 local | 10.244.3.2:8080 1"},
		},
		"each task has its own target": {
			tasks: []model.Task{task("b", "10.244.2.2", publish("80:8080/tcp")), task("c", "10.244.3.2", publish("80:81/tcp"))},
			want:  []string{"80/tcp rr | 10.244.2.2:8080 1 local | 10.244.3.2:81 1"},
		},
		"another service's port, and one that nobody has claimed": {
			tasks: []model.Task{task("b", "10.244.2.2", publish("81:8080/tcp", "82:8080/tcp"))},
		},
		"protocols apart": {
			tasks: []model.Task{task("b", "10.244.2.2", publish("80:8080/tcp", "80:53/udp"))},
			want:  []string{"80/tcp rr | 10.244.2.2:8080 1 local", "80/udp rr | 10.244.2.2:53 1 local"},
		},
		"on addresses": {
			tasks: []model.Task{task("b", "10.244.2.2", publish("192.0.2.1:80:8080/tcp", "127.0.0.1:80:8080/tcp"))},
			want:  []string{"80/tcp on 127.0.0.1,192.0.2.1 rr | 10.244.2.2:8080 1 local"},
		},
		"on every address after all": {
			tasks: []model.Task{task("b", "10.244.2.2", publish("127.0.0.1:80:8080/tcp")), task("c", "10.244.3.2", publish("0.0.0.0:80:8080/tcp"))},
			want:  []string{"80/tcp rr | 10.244.2.2:8080 1 local | 10.244.3.2:8080 1"},
		},
		"two targets for one port": {
			tasks:   []model.Task{task("b", "10.244.2.2", publish("127.0.0.1:80:8080/tcp", "192.0.2.1:80:81/tcp"))},
			want:    []string{"80/tcp on 127.0.0.1 rr | 10.244.2.2:8080 1 local"},
			problem: []string{"container web.b publishes 80/tcp for its ports 8080 and 81: 8080 is served; use one for all addresses"},
		},
		"on an IPv6 address": {
			tasks:   []model.Task{task("b", "10.244.2.2", publish("::1:80:8080/tcp"))},
			problem: []string{"container web.b publishes 80/tcp on ::1: only IPv4 addresses are served so far"},
		},
		"on every IPv6 address": {
			tasks: []model.Task{task("b", "10.244.2.2", publish(":::80:8080/tcp"))},
			want:  []string{"80/tcp rr | 10.244.2.2:8080 1 local"},
		},
		"with an IPv6 address": {
			tasks:   []model.Task{task("b", "2001:db8::1", publish("80:8080/tcp"))},
			problem: []string{"container web.b has the address 2001:db8::1: only IPv4 is served so far"},
		},
		"local only, with a task here": {
			spec:  model.Spec{PublishLocal: true},
			tasks: []model.Task{task("b", "10.244.2.2", publish("80:8080/tcp")), task("c", "10.244.3.2", publish("80:8080/tcp"))},
			want:  []string{"80/tcp rr | 10.244.2.2:8080 1 local"},
		},
		"local only, without": {
			spec:  model.Spec{PublishLocal: true},
			tasks: []model.Task{task("c", "10.244.3.2", publish("80:8080/tcp"))},
		},
		"local only, on a network of this host": {
			spec:  model.Spec{PublishLocal: true},
			tasks: []model.Task{task("b", "172.17.0.2", publish("80:8080/tcp"))},
			want:  []string{"80/tcp rr | 172.17.0.2:8080 1 local"},
		},
		"a dead host's task keeps what it holds": {
			tasks: []model.Task{task("c", "10.244.3.2", state(model.Lost), publish("80:8080/tcp", "80:80/udp")), task("c", "10.244.3.3", publish("80:8080/tcp"))},
			want:  []string{"80/tcp rr | 10.244.3.2:8080 0 +10s lost | 10.244.3.3:8080 1", "80/udp rr"},
		},
		"of UDP, this host's tasks are named, for hosts that have not heard": {
			tasks: []model.Task{task("b", "10.244.2.2", state(model.Draining), publish("80:80/udp")), task("b", "10.244.2.3", state(model.Unhealthy), publish("80:80/udp")),
				task("c", "10.244.3.2", state(model.Draining), publish("80:80/udp")), task("c", "10.244.3.3", publish("80:80/udp"))},
			want: []string{"80/udp rr | 10.244.2.2:80 0 +10s local | 10.244.2.3:80 0 local | 10.244.3.3:80 1"},
		},
		"local preferred": {
			spec:  model.Spec{PreferLocal: true},
			tasks: []model.Task{task("b", "10.244.2.2", publish("80:8080/tcp", "80:80/udp")), task("c", "10.244.3.2", publish("80:8080/tcp", "80:80/udp"))},
			want:  []string{"80/tcp rr | 10.244.2.2:8080 1 local | 10.244.3.2:8080 0", "80/udp rr | 10.244.2.2:80 1 local"},
		},
		"local preferred, none in rotation": {
			spec:  model.Spec{PreferLocal: true},
			tasks: []model.Task{task("b", "10.244.2.2", state(model.Unhealthy), publish("80:8080/tcp")), task("c", "10.244.3.2", publish("80:8080/tcp"))},
			want:  []string{"80/tcp rr | 10.244.2.2:8080 0 local | 10.244.3.2:8080 1"},
		},
		"a process of another host": {
			tasks: []model.Task{task("c", "192.0.2.12", publish("80:8080/tcp"))},
			want:  []string{"80/tcp rr | 192.0.2.12:8080 1"},
		},
		"on a network of another host alone": {
			tasks: []model.Task{task("c", "172.17.0.2", publish("80:8080/tcp"))},
		},
		"of a host that is not known": {
			tasks: []model.Task{task("d", "10.244.3.2", publish("80:8080/tcp"))},
		},
		"on a network of this host alone": {
			tasks:   []model.Task{task("b", "172.17.0.2", publish("80:8080/tcp"))},
			want:    []string{"80/tcp rr | 172.17.0.2:8080 1 local"},
			problem: []string{unreached},
		},
		"draining": {
			tasks: []model.Task{task("b", "10.244.2.2", state(model.Draining), publish("80:8080/tcp"))},
			want:  []string{"80/tcp rr | 10.244.2.2:8080 0 +10s local"},
		},
		"containers that share an address": {
			tasks: []model.Task{task("b", "10.244.2.2", state(model.Unhealthy), publish("80:8080/tcp")), task("b", "10.244.2.2", publish("80:8080/tcp"))},
			want:  []string{"80/tcp rr | 10.244.2.2:8080 1 local"},
		},
		"affinity": {
			spec:  model.Spec{Affinity: time.Minute},
			tasks: []model.Task{task("b", "10.244.2.2", publish("80:8080/tcp"))},
			want:  []string{"80/tcp rr affinity 1m0s | 10.244.2.2:8080 1 local"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			tc.spec.Mode = model.ModeDNSRR // published ports alone
			got, problems, _ := decided(t, tc.spec, tc.tasks)
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(tc.problem, problems); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestEndpointsAreAllTasksThatThisHostReaches(t *testing.T) {
	_, _, p := decided(t, model.Spec{Mode: model.ModeDNSRR}, []model.Task{
		task("a", "10.244.1.2"), task("b", "10.244.2.2", state(model.Draining)), task("c", "172.17.0.2", state(model.Unreached)),
		task("b", "192.0.2.11"), task("c", "192.0.2.12"), task("b", "fd00::1"),
		task("a", "10.244.9.9"), task("b", "10.244.9.9"), // one address, two containers
	})
	want := map[string]Endpoint{"10.244.1.2": {}, "10.244.2.2": {Local: true}, "192.0.2.11": {Local: true, Host: true}, "192.0.2.12": {}, "10.244.9.9": {Local: true}}
	got := map[string]Endpoint{}
	for _, e := range p.endpoints {
		got[e.addr.String()] = e.Endpoint
	}
	if len(got) != len(p.endpoints) {
		t.Errorf("an address is there twice: %v", p.endpoints)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
