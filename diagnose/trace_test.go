package diagnose

import (
	"context"
	"errors"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"shoal/api"
	"shoal/dockerwatch"
	"shoal/model"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestWhatIsTraced(t *testing.T) {
	for s, want := range map[string]target{
		"web":                {name: "web"},
		"web.shop":           {name: "web.shop"},
		"shop/web":           {name: "shop/web"},
		"shop/web:80":        {host: "shop/web", port: 80, proto: model.TCP},
		"web:53/udp":         {host: "web", port: 53, proto: model.UDP},
		"http://web/a:b":     {host: "web", port: 80, proto: model.TCP},
		"http://web:8000/a":  {host: "web", port: 8000, proto: model.TCP},
		"https://web.shop":   {host: "web.shop", port: 443, proto: model.TCP},
		"udp://web:53":       {host: "web", port: 53, proto: model.UDP},
		"10.96.0.1":          {name: "10.96.0.1"},
		"tasks.web":          {name: "tasks.web"},
		"_http._tcp.web":     {name: "_http._tcp.web"},
		":8000":              {port: 8000, proto: model.TCP},
		"n2:53/udp":          {host: "n2", port: 53, proto: model.UDP},
		"192.168.1.2:65535":  {host: "192.168.1.2", port: 65535, proto: model.TCP},
		"[::1]:9/sctp":       {host: "::1", port: 9, proto: model.SCTP},
		"localhost:8000/tcp": {host: "localhost", port: 8000, proto: model.TCP},
	} {
		if got, err := parseTarget(s); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", s, got, err, want)
		}
	}
	for s, says := range map[string]string{
		"":           "a name, or HOST:PORT",
		"n2:0":       "from 1 to 65535",
		"n2:65536":   "from 1 to 65535",
		"n2:http":    "from 1 to 65535",
		"n2:":        "from 1 to 65535",
		"::1":        "HOST:PORT",
		"fd00::5":    "IPv4 only",
		"a:b:1":      "HOST:PORT",
		"n2:80/icmp": "tcp, udp or sctp",
		"n2:80/":     "tcp, udp or sctp",
		"Shop/web":   "stack/name",
	} {
		if got, err := parseTarget(s); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %+v, %v; want an error with %q", s, got, err, says)
		}
	}
}

// cluster3 are three hosts with a few containers; this one is n1.
func cluster3() *model.Snapshot {
	subnet := func(s string) netip.Prefix { return netip.MustParsePrefix(s) }
	nodes := []model.Node{
		{Name: "n1", Addr: addr("192.168.1.1"), Subnet: subnet("10.244.1.0/24")},
		{Name: "n2", Addr: addr("192.168.1.2"), Subnet: subnet("10.244.2.0/24")},
		{Name: "n3", Addr: addr("192.168.1.3"), Subnet: subnet("10.244.3.0/24")},
	}
	return &model.Snapshot{Self: nodes[0], Nodes: nodes, Containers: model.ContainersOf(
		&model.Container{ID: "aaaa1111", Name: "cart", Node: "n1", Addrs: []netip.Addr{addr("10.244.1.5")}},
		&model.Container{ID: "bbbb1111", Name: "web", Node: "n1", Addrs: []netip.Addr{addr("172.17.0.2")}},
		&model.Container{ID: "bbbb2222", Name: "web", Node: "n2", Addrs: []netip.Addr{addr("10.244.2.5")}},
		&model.Container{ID: "cccc2222", Name: "own", Node: "n2", Addrs: []netip.Addr{addr("172.17.0.3")}},
		&model.Container{ID: "dddd2222", Name: "bare", Node: "n2"},
	)}
}

func TestWhichHost(t *testing.T) {
	s := cluster3()
	for host, want := range map[string]string{
		"": "n1", "localhost": "n1", "127.0.0.1": "n1", "n1": "n1", "n2": "n2", "192.168.1.3": "n3", "::ffff:192.168.1.3": "n3",
	} {
		if n, err := findHost(s, host); err != nil || n.Name != want {
			t.Errorf("%q is %s, %v; want %s", host, n.Name, err, want)
		}
	}
	for _, host := range []string{"n4", "192.168.1.30", "web"} {
		if _, err := findHost(s, host); err == nil || !strings.Contains(err.Error(), host) || !strings.Contains(err.Error(), "n1 (192.168.1.1), n2 (192.168.1.2), n3") {
			t.Errorf("%q: %v; want an error that names the hosts", host, err)
		}
	}
}

func TestWhoSendsAndAsWhomEachHostSeesIt(t *testing.T) {
	s := cluster3()
	for _, test := range []struct{ from, who, node, byN1, byN2 string }{
		{"", "a process of this host", "n1", "192.168.1.1", "192.168.1.1"},
		{"127.0.0.1", "a process of this host", "n1", "192.168.1.1", "192.168.1.1"},
		{"192.168.1.2", "a process of host n2", "n2", "192.168.1.2", "192.168.1.2"},
		{"n2", "a process of host n2", "n2", "192.168.1.2", "192.168.1.2"},
		{"n1", "a process of this host", "n1", "192.168.1.1", "192.168.1.1"},
		{"cart", "cart", "n1", "10.244.1.5", "192.168.1.1"},
		{"10.244.1.5", "cart", "n1", "10.244.1.5", "192.168.1.1"},
		{"aaaa11", "cart", "n1", "10.244.1.5", "192.168.1.1"},
		{"bbbb2222", "web on n2", "n2", "192.168.1.2", "10.244.2.5"},
		{"10.244.2.5", "web on n2", "n2", "192.168.1.2", "10.244.2.5"},
		{"10.244.3.9", "10.244.3.9 on n3", "n3", "192.168.1.3", "192.168.1.3"}, // of no record
		{"10.244.1.9", "10.244.1.9", "n1", "10.244.1.9", "192.168.1.1"},
		{"172.17.0.2", "web", "n1", "172.17.0.2", "192.168.1.1"},
		{"172.17.0.3", "172.17.0.3", "", "172.17.0.3", "172.17.0.3"}, // n2's own network, not this host's
		{"203.0.113.9", "203.0.113.9", "", "203.0.113.9", "203.0.113.9"},
	} {
		c, err := findSender(s, test.from)
		if err != nil || c.who != test.who || c.node != test.node {
			t.Errorf("from %q: %+v, %v; want %s on %q", test.from, c, err, test.who, test.node)
			continue
		}
		for i, want := range []string{test.byN1, test.byN2} {
			if got := c.seenBy(s, s.Nodes[i]); got != addr(want) {
				t.Errorf("from %q: %s sees %s, want %s", test.from, s.Nodes[i].Name, got, want)
			}
		}
	}
	for from, says := range map[string]string{"nosuch": "no container", "web": "bbbb1111 on n1, bbbb2222 on n2"} {
		if c, err := findSender(s, from); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("from %q: %+v, %v; want an error with %q", from, c, err, says)
		}
	}
}

func TestASenderIsLookedForOnEveryHost(t *testing.T) {
	s := cluster3()
	if got := sendersHere(s, "web"); !slices.Equal(got, []Hop{{addr("172.17.0.2"), "n1", "bbbb1111"}}) {
		t.Errorf("n1 has web at %v", got)
	}
	if got := sendersHere(s, "own"); len(got) > 0 {
		t.Errorf("n1 tells of n2's container: %v", got)
	}
	one, other := sender{addr: addr("10.244.2.7"), node: "n2"}, sender{addr: addr("10.244.3.7"), node: "n3"}
	if got, err := oneSender(s, "far", []sender{one}, []string{"n3"}); err != nil || got != one {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := oneSender(s, "far", []sender{other, one}, nil); err == nil || !strings.Contains(err.Error(), "one of 10.244.2.7 of n2, 10.244.3.7 of n3") {
		t.Errorf("two: %v", err)
	}
	if _, err := oneSender(s, "far", nil, []string{"n3", "n2"}); !errors.Is(err, api.ErrBadRequest) || !strings.Contains(err.Error(), "unless on n2, n3,") || !strings.Contains(err.Error(), "the hosts are n1 (192.168.1.1), n2 (192.168.1.2), n3 (192.168.1.3)") {
		t.Errorf("none: %v", err)
	}
}

func TestWhatAnAnswerLeadsTo(t *testing.T) {
	svc := &model.Service{VIP: addr("10.96.0.1"), Tasks: []*model.Task{{Addr: addr("10.244.1.5")}, {Addr: addr("10.244.2.5")}}}
	for name, test := range map[string]struct {
		records []string
		vip     bool
		tasks   []netip.Addr
	}{
		"its VIP":                       {records: []string{"web.\t5\tIN\tA\t10.96.0.1"}, vip: true},
		"a VIP that begins like its":    {records: []string{"web.\t5\tIN\tA\t10.96.0.10"}},
		"tasks":                         {records: []string{"tasks.web.\t5\tIN\tA\t10.244.2.5", "tasks.web.\t5\tIN\tA\t10.244.1.5"}, tasks: []netip.Addr{addr("10.244.2.5"), addr("10.244.1.5")}},
		"a stranger":                    {records: []string{"web.\t5\tIN\tA\t10.244.1.50"}},
		"nothing":                       {},
		"a name that holds the address": {records: []string{"web.\t5\tIN\tCNAME\t10.96.0.1."}},
		"what is no record":             {records: []string{"10.96.0.1"}},
	} {
		vip, tasks := reached(svc, addresses(test.records))
		if vip != test.vip || !slices.Equal(tasks, test.tasks) {
			t.Errorf("%s: VIP %t, tasks %v; want %t, %v", name, vip, tasks, test.vip, test.tasks)
		}
	}
	if vip, _ := reached(&model.Service{}, nil); vip {
		t.Error("a service without a VIP is reached by it")
	}
	if got := srvTarget([]string{"_http._tcp.web.\t5\tIN\tSRV\t0 0 80 web.default.mesh.internal."}); got != "web.default.mesh.internal." {
		t.Errorf("the SRV record leads to %q", got)
	}
	if got := srvTarget([]string{"web.\t5\tIN\tA\t10.96.0.1"}); got != "" {
		t.Errorf("an A record leads to %q", got)
	}
}

func TestAQuestionArrivesAsItWasAsked(t *testing.T) {
	for _, q := range []Question{
		{name: "web", from: addr("10.244.1.5")},
		{name: "a&port=1/tcp", from: addr("10.244.1.5")},
		{port: 53, proto: model.UDP, from: addr("203.0.113.9")},
		{tasks: []netip.Addr{addr("10.244.1.5"), addr("10.244.1.6")}},
		{tasks: []netip.Addr{addr("10.244.1.5")}, entry: "n2"},
		{sender: "near"},
		{name: "web", from: addr("10.244.1.5"), client: "aaaa1111", wants: askedPort{80, model.UDP}, byAddr: true},
	} {
		v, err := url.ParseQuery(q.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseQuestion(v); err != nil || !reflect.DeepEqual(got, q) {
			t.Errorf("%+v arrives as %+v, %v", q, got, err)
		}
	}
	for _, query := range []string{
		"", "from=10.0.0.1", "name=web", "name=web&from=here", "name=web&from=::1", "name=web&port=80/tcp&from=10.0.0.1",
		"name=" + strings.Repeat("a", maxTraced+1) + "&from=10.0.0.1",
		"sender=near&name=web&from=10.0.0.1", "sender=" + strings.Repeat("a", maxTraced+1), "port=80&from=", "port=0/tcp&from=10.0.0.1", "port=80/icmp&from=10.0.0.1", "port=n2:80/tcp&from=10.0.0.1",
		"task=", "task=n1", "task=10.0.0.1&port=80/tcp&from=10.0.0.1", "task=10.0.0.1&entry=" + url.QueryEscape("n2\x1b"),
		strings.Repeat("task=10.0.0.1&", maxFollowed+1),
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if q, err := ParseQuestion(v); err == nil {
			t.Errorf("%.60q is taken, as %+v", query, q)
		}
	}
}

// TestWhatAnotherHostTellsIsItsOwn: whose steps they are is not for the other to say, nor what the terminal does.
func TestWhatAnotherHostTellsIsItsOwn(t *testing.T) {
	e, away := newWalk("", "n1"), errors.New("connection refused")
	e.adopt(model.Node{Name: "n2"}, Part{Steps: []api.Step{{What: "route", Node: "n3", OK: false, Evidence: "none\nat all"}}}, nil)
	if e.OK || e.Verdict != "route on n2: none; at all" || e.Steps[0].Node != "n2" {
		t.Errorf("%+v", e)
	}
	e.adopt(model.Node{Name: "n3"}, Part{}, &url.Error{Op: "Get", URL: "https://x", Err: away})
	if last := e.Steps[1]; last.OK || last.Node != "n1" || !strings.Contains(last.Evidence, "the agent of host n3 does not answer ("+away.Error()) {
		t.Errorf("a host that is away: %+v", last)
	}
	if got := printable("a\x1b[31mb\n\tc\u202ed"); got != "a[31mb\ncd" {
		t.Errorf("printable: %q", got)
	}
}

func TestWhatNamesNoHostIsToldTheHostsThatThereAre(t *testing.T) {
	s := cluster3()
	s.Services = []*model.Service{{ID: model.ServiceID{Stack: "shop", Name: "checkout"}}}
	in := &Inspector{
		Zone: "mesh.internal", Snapshot: func() (*model.Snapshot, error) { return s, nil },
		Problems:  func() []model.Problem { return nil },
		Look:      func(context.Context, string) ([]dockerwatch.Seen, error) { return nil, nil },
		PeerSight: func(context.Context, netip.Addr, string) (Sight, error) { return Sight{}, nil },
	}
	for word, says := range map[string][]string{
		"n4:80":           {`called "n4"`, "the hosts are n1 (192.168.1.1), n2 (192.168.1.2), n3 (192.168.1.3)"},
		"192.168.1.30:80": {`called "192.168.1.30"`, "the hosts are n1"},
		"chekout:80":      {"the hosts are n1", "did you mean shop/checkout?"},
		"n2:http":         {"HOST:PORT"},
	} {
		_, err := in.Explain(t.Context(), word)
		for _, part := range says {
			if !errors.Is(err, api.ErrBadRequest) || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v, want an error that says %q", word, err, part)
			}
		}
	}
	if _, err := in.Explain(t.Context(), "n4"); !errors.Is(err, api.ErrNotFound) || strings.Contains(err.Error(), "the hosts are") {
		t.Errorf("a name without a port is no host's: %v", err)
	}
	for range 30 {
		s.Nodes = append(s.Nodes, s.Nodes[2])
	}
	if text := hostsText(s); !strings.Contains(text, "and 13 more, see shoal nodes") {
		t.Errorf("of 33 hosts it says %q", text)
	}
}
