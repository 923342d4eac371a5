package ingress

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal/kernel/ipset"
	"shoal/model"
)

var (
	web   = model.ServiceID{Stack: "s", Name: "web"}
	nodes = []model.Node{
		{Name: "a"},
		{Name: "b", Addr: netip.MustParseAddr("192.0.2.11"), Subnet: netip.MustParsePrefix("10.0.0.0/31")},
		{Name: "c", Addr: netip.MustParseAddr("192.0.2.12"), Subnet: netip.MustParsePrefix("10.0.0.2/31")},
	}
)

// task is a running task of web on a host, which publishes those ports.
func task(node, addr string, pubs ...model.PublishedPort) model.Task {
	return model.Task{
		Service: web, Node: node, Name: "web." + node, Addr: netip.MustParseAddr(addr),
		State: model.Running, Weight: 1, Spec: model.Spec{Publish: pubs},
	}
}

func pub(proto model.Protocol, published, target uint16) model.PublishedPort {
	return model.PublishedPort{Protocol: proto, Published: published, Target: target}
}

func on(ip string, p model.PublishedPort) model.PublishedPort {
	p.IP = netip.MustParseAddr(ip)
	return p
}

func lost(t model.Task) model.Task      { t.State = model.Lost; return t }
func unhealthy(t model.Task) model.Task { t.State = model.Unhealthy; return t }
func draining(t model.Task, since time.Time, drain time.Duration) model.Task {
	t.State, t.Since, t.Drain = model.Draining, since, drain
	return t
}

// words is a mapping as the tests write it: "PORT/PROTO on ADDR… -> DEST*WEIGHT…".
func words(m mapping) string {
	var on []string
	for _, a := range m.addrs {
		on = append(on, a.String())
	}
	if len(on) == 0 {
		on = []string{"any"}
	}
	s := fmt.Sprintf("%s on %s ->", m.port, strings.Join(on, ","))
	for _, d := range m.virtual.Dests {
		s += fmt.Sprintf(" %s*%d", d.Addr, d.Weight)
		if !d.Until.IsZero() {
			s += fmt.Sprintf(" until %d", d.Until.Unix())
		}
	}
	return s
}

func TestMappings(t *testing.T) {
	p80 := pub(model.TCP, 80, 8080)
	for _, test := range []struct {
		name    string
		tasks   []model.Task
		spec    model.Spec
		want    []string
		targets int
		err     string
	}{
		{"tasks here and elsewhere", []model.Task{task("b", "10.0.0.1", p80), task("c", "10.0.0.2", p80)}, model.Spec{},
			[]string{"80/tcp on any -> 10.0.0.1:8080*1 10.0.0.2:8080*1"}, 1, ""},
		{"each task has its own target", []model.Task{task("b", "10.0.0.1", p80), task("c", "10.0.0.2", pub(model.TCP, 80, 81))}, model.Spec{},
			[]string{"80/tcp on any -> 10.0.0.1:8080*1 10.0.0.2:81*1"}, 1, ""},
		{"another service's port", []model.Task{task("b", "10.0.0.1", pub(model.TCP, 82, 80))}, model.Spec{}, nil, 0, ""},
		{"protocols apart", []model.Task{task("b", "10.0.0.1", p80, pub(model.UDP, 80, 53))}, model.Spec{},
			[]string{"80/tcp on any -> 10.0.0.1:8080*1", "80/udp on any -> 10.0.0.1:53*1"}, 1, ""},
		{"on addresses", []model.Task{task("b", "10.0.0.1", on("127.0.0.1", p80), on("192.0.2.1", p80))}, model.Spec{},
			[]string{"80/tcp on 127.0.0.1,192.0.2.1 -> 10.0.0.1:8080*1"}, 1, ""},
		{"on every address after all", []model.Task{task("b", "10.0.0.1", on("127.0.0.1", p80)), task("c", "10.0.0.2", on("0.0.0.0", p80))}, model.Spec{},
			[]string{"80/tcp on any -> 10.0.0.1:8080*1 10.0.0.2:8080*1"}, 1, ""},
		{"two targets for one port", []model.Task{task("b", "10.0.0.1", on("127.0.0.1", p80), on("192.0.2.1", pub(model.TCP, 80, 81)))}, model.Spec{},
			[]string{"80/tcp on 127.0.0.1 -> 10.0.0.1:8080*1"}, 1, "container web.b publishes 80/tcp for its ports 8080 and 81: 8080 is served; use one for all addresses"},
		{"on IPv6", []model.Task{task("b", "10.0.0.1", on("::1", p80))}, model.Spec{},
			nil, 0, "container web.b publishes 80/tcp on ::1: only IPv4 addresses are served so far"},
		{"on every IPv6 address", []model.Task{task("b", "10.0.0.1", on("::", p80))}, model.Spec{},
			[]string{"80/tcp on any -> 10.0.0.1:8080*1"}, 1, ""},
		{"with an IPv6 address", []model.Task{task("b", "2001:db8::1", p80)}, model.Spec{},
			nil, 0, "container web.b has the address 2001:db8::1: only IPv4 is served so far"},
		{"local, with a task here", []model.Task{task("b", "10.0.0.1", p80), task("c", "10.0.0.2", p80)}, model.Spec{PublishLocal: true},
			[]string{"80/tcp on any -> 10.0.0.1:8080*1"}, 1, ""},
		{"local, without", []model.Task{task("c", "10.0.0.2", p80)}, model.Spec{PublishLocal: true}, nil, 0, ""},
		{"local, a network of this host", []model.Task{task("b", "172.17.0.2", p80)}, model.Spec{PublishLocal: true},
			[]string{"80/tcp on any -> 172.17.0.2:8080*1"}, 1, ""},
		{"a dead host's task keeps what it holds", []model.Task{lost(task("c", "10.0.0.2", p80, pub(model.UDP, 80, 80))), task("c", "10.0.0.3", p80)}, model.Spec{},
			[]string{"80/tcp on any -> 10.0.0.2:8080*0 10.0.0.3:8080*1", "80/udp on any ->"}, 0, ""},
		{"this host's tasks preferred", []model.Task{task("b", "10.0.0.1", p80, pub(model.UDP, 80, 80)), task("c", "10.0.0.2", p80, pub(model.UDP, 80, 80))}, model.Spec{PreferLocal: true},
			[]string{"80/tcp on any -> 10.0.0.1:8080*1 10.0.0.2:8080*0", "80/udp on any -> 10.0.0.1:80*1"}, 1, ""},
		{"this host's tasks preferred, none in rotation", []model.Task{unhealthy(task("b", "10.0.0.1", p80)), task("c", "10.0.0.2", p80)}, model.Spec{PreferLocal: true},
			[]string{"80/tcp on any -> 10.0.0.1:8080*0 10.0.0.2:8080*1"}, 1, ""},
		{"this host's tasks preferred, none publishes the port", []model.Task{task("b", "10.0.0.1", pub(model.TCP, 81, 80)), task("c", "10.0.0.2", p80)}, model.Spec{PreferLocal: true},
			[]string{"80/tcp on any -> 10.0.0.2:8080*1"}, 0, ""},
		{"a process of another host", []model.Task{task("c", "192.0.2.12", p80)}, model.Spec{},
			[]string{"80/tcp on any -> 192.0.2.12:8080*1"}, 0, ""},
		{"on a network of another host alone", []model.Task{task("c", "172.17.0.2", p80)}, model.Spec{}, nil, 0, ""},
		{"of a host that is not known", []model.Task{task("d", "10.0.0.2", p80)}, model.Spec{}, nil, 0, ""},
		{"on a network of this host alone", []model.Task{task("b", "172.17.0.2", p80)}, model.Spec{},
			[]string{"80/tcp on any -> 172.17.0.2:8080*1"}, 1, "container web.b has the address 172.17.0.2, which other hosts do not reach: they publish 80/tcp without it; start it on the network between hosts"},
		{"draining", []model.Task{draining(task("b", "10.0.0.1", p80), time.Unix(100, 0), 10*time.Second)}, model.Spec{}, []string{"80/tcp on any -> 10.0.0.1:8080*0 until 110"}, 1, ""},
		{"unhealthy, by a scheduler with nowhere else to go", []model.Task{unhealthy(task("b", "10.0.0.1", p80))}, model.Spec{Scheduler: "dh"}, []string{"80/tcp on any ->"}, 1, ""},
		{"containers that share an address", []model.Task{
			unhealthy(task("b", "10.0.0.1", p80)), task("b", "10.0.0.1", p80),
		}, model.Spec{}, []string{"80/tcp on any -> 10.0.0.1:8080*1"}, 2, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			snap := &model.Snapshot{
				Self: nodes[1], Nodes: nodes,
				Services:  []model.Service{{ID: web, Spec: test.spec, Tasks: test.tasks}},
				Published: []model.PortClaim{{Protocol: model.UDP, Port: 80, Service: web}, {Protocol: model.TCP, Port: 80, Service: web}},
			}
			ms, errs := mappings(snap)
			var got []string
			targets := 0
			for _, m := range ms {
				got = append(got, words(m))
				if m.port.proto == model.TCP {
					targets = len(m.targets)
				}
			}
			if d := cmp.Diff(test.want, got); d != "" {
				t.Errorf("mappings (-want +got):\n%s", d)
			}
			if targets != test.targets {
				t.Errorf("%d targets here, want %d", targets, test.targets)
			}
			why := ""
			for _, err := range errs {
				why = err.Error()
			}
			if why != test.err {
				t.Errorf("error %q, want %q", why, test.err)
			}
		})
	}
}

func TestEveryPortHasAMarkOfItsOwn(t *testing.T) {
	seen := map[uint32]port{}
	for _, proto := range []model.Protocol{model.TCP, model.UDP, model.SCTP} {
		for n := 1; n <= 65535; n++ {
			p := port{proto, uint16(n)}
			if o, taken := seen[p.mark()]; taken || p.mark() == 0 || portOf(p.mark()) != p {
				t.Fatalf("%s has the mark %#x, of %s", p, p.mark(), o)
			}
			seen[p.mark()] = p
		}
	}
}

func TestWantedSets(t *testing.T) {
	ms := []mapping{
		{port: port{model.TCP, 80}, targets: []ipset.Entry{ipset.AddrPort(netip.MustParseAddr("10.0.0.1"), 6, 8080)}},
		{port: port{model.UDP, 53}},
		{port: port{model.SCTP, 99}},
		{port: port{model.TCP, 81}, addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}},
		{port: port{model.TCP, 82}, targets: []ipset.Entry{ipset.AddrPort(netip.MustParseAddr("10.0.0.1"), 6, 82)}},
	}
	b := &base{inside: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}
	sets := wantedSets(b, ms, map[port]error{{model.TCP, 82}: fmt.Errorf("taken")})
	var got []string
	for name, es := range sets {
		for e := range es {
			got = append(got, fmt.Sprintf("%s %s %d %d", strings.TrimPrefix(name, "SHOAL-IN-"), e.Net, e.Proto, e.Port))
		}
	}
	slices.Sort(got)
	want := []string{
		"CLIENTS 10.0.0.0/24 0 0", "CLIENTS 169.254.83.0/31 0 0",
		"INSIDE 10.0.0.0/24 0 0",
		"PUBLISHED 0.0.0.0/1 132 99", "PUBLISHED 0.0.0.0/1 17 53", "PUBLISHED 0.0.0.0/1 6 80",
		"PUBLISHED 127.0.0.1/32 6 81",
		"PUBLISHED 128.0.0.0/1 132 99", "PUBLISHED 128.0.0.0/1 17 53", "PUBLISHED 128.0.0.0/1 6 80",
		"TARGETS 10.0.0.1/32 6 8080", "TARGETS 10.0.0.1/32 6 82",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("entries (-want +got):\n%s", d)
	}
	ports := redirected(sets)
	if len(ports) != 4 || ports[port{model.TCP, 82}] || !ports[port{model.TCP, 81}] {
		t.Errorf("redirected %v, want all but 82/tcp", ports)
	}
}
