package dnsd

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"shoal/catalog"
	"shoal/model"
)

// world is a small mesh with every kind of service. Its clients are 127.0.0.2,
// a container of stack shop, and 127.0.0.3, one of stack a.
func world(revision uint64) *model.Snapshot {
	self := model.Node{Name: "h1", Addr: ip("192.0.2.1"), Alive: true}
	vips := map[model.ServiceID]netip.Addr{}
	var containers []model.Container
	service := func(id, vip string, spec model.Spec, tasks ...string) {
		sid, err := model.ParseServiceID(id)
		if err != nil {
			panic(err)
		}
		if vip != "" {
			vips[sid] = ip(vip)
		}
		if spec.Mode == "" {
			spec.Mode = model.ModeVIP
		}
		for i, t := range tasks {
			addr, state, _ := strings.Cut(t, " ")
			if state == "" {
				state = string(model.Running)
			}
			c := model.Container{ID: fmt.Sprintf("%s-%s-%03d", sid.Stack, sid.Name, i), Node: "h1",
				Stack: sid.Stack, Addrs: []netip.Addr{ip(addr)}}
			c.Tasks = []model.Task{{Service: sid, Node: "h1", Container: c.ID, Addr: ip(addr),
				State: model.State(state), Spec: &spec, Started: time.Unix(int64(i), 0)}}
			containers = append(containers, c)
		}
	}
	ports := []model.Port{
		{Name: "http", Port: 80, Target: 8080, Protocol: model.TCP},
		{Name: "dns", Port: 53, Target: 53, Protocol: model.UDP},
		{Port: 9000, Target: 9000, Protocol: model.TCP},
	}
	service("web", "10.96.1.1", model.Spec{Ports: ports},
		"10.244.1.1", "10.244.1.2 unhealthy", "10.244.1.3 draining", "10.244.1.4 starting", "10.244.1.5 paused")
	service("shop/web", "10.96.1.2", model.Spec{}, "10.244.2.1")
	service("shop/db", "10.96.1.3", model.Spec{}, "10.244.2.2")
	service("a/dup", "10.96.1.4", model.Spec{}, "10.244.3.1")
	service("b/dup", "10.96.1.5", model.Spec{}, "10.244.3.2")
	service("blog/shop", "10.96.1.6", model.Spec{}, "10.244.4.1")
	service("idle", "10.96.1.7", model.Spec{})
	service("com/github", "10.96.1.10", model.Spec{Ports: ports}, "10.244.7.1")
	service("shop/lazy", "10.96.1.11", model.Spec{})
	service("lazy", "10.96.1.12", model.Spec{}, "10.244.7.2")
	service("a/once", "10.96.1.13", model.Spec{})
	service("b/once", "10.96.1.14", model.Spec{}, "10.244.7.3")
	service("a/never", "10.96.1.15", model.Spec{})
	service("six", "fd00:96::1", model.Spec{Ports: ports}, "fd00:244::1")
	service("rr", "", model.Spec{Mode: model.ModeDNSRR, Ports: ports},
		"10.244.5.1", "10.244.5.2", "10.244.5.3", "10.244.5.4 unhealthy")
	service("a/shared", "10.96.1.8", model.Spec{}, "192.0.2.1")
	service("b/shared", "10.96.1.9", model.Spec{}, "192.0.2.1")
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("10.244.6.%d", i+1))
	}
	service("big", "", model.Spec{Mode: model.ModeDNSRR}, many...)
	containers = append(containers,
		model.Container{ID: "shop-client", Node: "h1", Stack: "shop", Addrs: []netip.Addr{ip("127.0.0.2")}},
		model.Container{ID: "a-client", Node: "h1", Stack: "a", Addrs: []netip.Addr{ip("127.0.0.3")}})
	networks := []model.Network{{Name: "bridge", Bridge: "docker0", Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}}
	return catalog.NewSnapshot(revision, self, networks, containers, vips)
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func options() Options {
	return Options{
		Zone:      "mesh.internal",
		Listen:    []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")},
		Pool:      netip.MustParsePrefix("10.96.0.0/16"),
		Upstreams: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9")}, // nobody there
		Timeout:   time.Second,
		Log:       slog.New(slog.DiscardHandler),
	}
}

func flatOptions() Options {
	o := options()
	o.FlatNames = true
	return o
}

// unstarted is a server that knows world, without sockets. For port 0 it has one that is free.
func unstarted(t testing.TB, o Options) *Server {
	t.Helper()
	for i, at := range o.Listen {
		if at.Port() == 0 {
			o.Listen[i] = free(t, at.Addr())
		}
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	s.Update(world(7))
	return s
}

// pair has sockets for UDP and TCP on one port. The port is below the range
// that the kernel takes ports of clients from (net.ipv4.ip_local_port_range),
// so that no connection of another test has it, now or later.
func pair(t testing.TB, addr netip.Addr) (*net.UDPConn, *net.TCPListener) {
	t.Helper()
	var last error
	for range 20 {
		at := netip.AddrPortFrom(addr, uint16(10000+rand.IntN(20000)))
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			last = err
			continue
		}
		tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		if err == nil {
			return udp, tcp
		}
		udp.Close()
		last = err
	}
	t.Fatal("no port is free over both UDP and TCP: ", last)
	return nil, nil
}

// free is a port that nobody has over UDP nor over TCP.
func free(t testing.TB, addr netip.Addr) netip.AddrPort {
	t.Helper()
	udp, tcp := pair(t, addr)
	defer udp.Close()
	defer tcp.Close()
	return udp.LocalAddr().(*net.UDPAddr).AddrPort()
}

// started is a server that knows world and answers on 127.0.0.1.
func started(t testing.TB, o Options) *Server {
	t.Helper()
	s := unstarted(t, o)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// upstreamServer is a resolver on 127.0.0.1, for UDP and TCP.
func upstreamServer(t testing.TB, h dns.HandlerFunc) netip.AddrPort {
	t.Helper()
	pc, l := pair(t, netip.MustParseAddr("127.0.0.1"))
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: h}, {Listener: l, Handler: h}} {
		go s.ActivateAndServe()
		t.Cleanup(func() { s.Shutdown() })
	}
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

var spaces = regexp.MustCompile(`[ \t]+`)

// ask runs dig or kdig against the server and returns what it prints, runs of
// blanks made one.
func ask(t testing.TB, s *Server, program string, args ...string) string {
	t.Helper()
	return askAt(t, s.Addrs()[0], program, args...)
}

func askAt(t testing.TB, addr netip.AddrPort, program string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("%s is not installed: run `make deps`", program)
	}
	common := []string{"@" + addr.Addr().String(), "-p", fmt.Sprint(addr.Port())}
	if program == "dig" {
		common = append(common, "+tries=1", "+timeout=3")
	}
	out, _ := exec.CommandContext(t.Context(), program, append(common, args...)...).CombinedOutput()
	return spaces.ReplaceAllString(string(out), " ")
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if ok() {
			return
		}
		select {
		case <-t.Context().Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Fatalf("not within 10 s: %s", what)
}

// counted is the value of a counter with that label value, 0 where there is none.
func counted(t testing.TB, r *prometheus.Registry, metric, label string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == metric && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}
