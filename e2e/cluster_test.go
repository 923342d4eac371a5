//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"shoal/lab"
	"shoal/lab/traffic"
)

// members is a cluster of hosts.
type members struct {
	t       *testing.T
	hosts   []*host
	outside *lab.Machine
}

// clusterArgs are what the agents of the shared cluster run with; nil before they do.
var clusterArgs []string

// cluster is the one that tests of many hosts share: n1, which serves the store, n2 and n3, with a backend between
// them. What the test makes on them is removed when it ends.
func cluster(t *testing.T, backend string) *members {
	t.Helper()
	if backend == "ipip" {
		lab.Needs(t, "ipip")
	}
	l := shared.With(t)
	names := []string{"n1", "n2", "n3"}
	args := []string{"--backend", backend}
	fresh := clusterArgs == nil
	if fresh {
		clusterArgs = args
		l.Cluster(names, args...)
	}
	m := &members{t: t, outside: l.Outside()}
	for _, h := range l.Hosts(names...) {
		m.hosts = append(m.hosts, &host{h, t})
	}
	t.Cleanup(m.clear)
	if !slices.Equal(clusterArgs, args) {
		clusterArgs = args
		for _, h := range m.hosts {
			h.KillAgent(syscall.SIGTERM)
		}
		for _, h := range m.hosts {
			h.StartAgent(args...)
		}
	}
	m.settled()
	return m
}

func (m *members) clear() {
	for _, h := range m.hosts {
		h.clear()
	}
}

// settled waits until every host sees all others alive and has the network mesh.
func (m *members) settled() {
	m.t.Helper()
	var all []*lab.Host
	for _, h := range m.hosts {
		all = append(all, h.Host)
	}
	lab.AwaitNodes(m.t, all...)
	for _, h := range m.hosts {
		h.hasMesh()
	}
}

func (h *host) hasMesh() {
	h.t.Helper()
	lab.Eventually(h.t, waitLimit, h.Name()+" has the network mesh", func() error {
		nodes, err := h.TryShoal("nodes")
		if err != nil {
			return fmt.Errorf("%w: %s", err, nodes)
		}
		subnet, err := h.TryDocker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "mesh")
		if err == nil && !slices.ContainsFunc(slices.Collect(strings.Lines(nodes)), func(line string) bool {
			f := strings.Fields(line)
			return len(f) > 2 && f[0] == h.Name() && f[2] == subnet
		}) {
			err = fmt.Errorf("it has the subnet %s, which is not that of the host in\n%s", subnet, nodes)
		}
		return err
	})
}

// tasks starts a task of a service on each host, and waits until every host balances over all of them.
func (m *members) tasks(service, options string, command ...string) map[string]container {
	m.t.Helper()
	all := map[string]container{}
	for _, h := range m.hosts {
		name := service + "-" + h.Name()
		all[name] = h.run(name, "--network mesh -l shoal.service="+service+" "+options, command...)
	}
	m.served(service, slices.Sorted(maps.Keys(all))...)
	return all
}

// served waits until the service's VIP is answered on each host by those tasks and nobody else.
func (m *members) served(service string, by ...string) {
	m.t.Helper()
	for _, h := range m.hosts {
		h.answered(h.web(service), by...)
	}
}

// execFrom runs a program of the host on the network of a container.
func (c container) execFrom(args ...string) string {
	c.h.t.Helper()
	return c.h.Exec(append(c.enter(false), args...)...)
}

// loadFrom makes requests on the network of a container, by the host's own programs.
func (c container) loadFrom(args ...string) summary {
	c.h.t.Helper()
	return c.h.sum(append(append(c.enter(false), "whoami", "load", "--interval", "1ms"), args...)...)
}

// loadOutside makes requests as a client outside the cluster.
func (m *members) loadOutside(args ...string) summary {
	m.t.Helper()
	s, err := traffic.ParseSummary(m.outside.Exec(append([]string{"whoami", "load", "--interval", "1ms"}, args...)...))
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

// answersOutside checks that a host's port is answered to a client outside the cluster, by all those tasks and nobody else,
// and that no request fails.
func (m *members) answersOutside(h *host, port int, by ...string) {
	m.t.Helper()
	s := m.loadOutside("--timeout", "5s", "--count", fmt.Sprint(max(10, 3*len(by))), fmt.Sprintf("http://%v:%d/", h.Addr(), port))
	if who := slices.Sorted(maps.Keys(s.Hostnames)); s.Failed > 0 || !slices.Equal(who, slices.Sorted(slices.Values(by))) {
		m.t.Errorf("to a client outside, port %d of %s is answered by %v, want %v; %d of %d requests failed: %v",
			port, h.Name(), who, by, s.Failed, s.Sent, s.Errors)
	}
}

// viewpoint is where requests are made from.
type viewpoint struct {
	name   string
	exec   func(args ...string) string // runs a program there, and returns its output
	byName func(args ...string) string // likewise, with the container's own resolver; nil: it has none that knows the mesh
	host   *host                       // that it is on; nil: it is outside the cluster
	self   string                      // its own address
	kept   bool                        // it is seen by that everywhere but through a published port
}

// viewpoints are a container on each host, each host itself, a container on the engine's default network, which other
// hosts do not know, a task of the service itself, and a client outside.
func (m *members) viewpoints(task container) []viewpoint {
	m.t.Helper()
	all := []viewpoint{
		{"the task " + task.name, task.execFrom, nil, task.h, task.addr(), false}, // to itself it is masqueraded
		{"outside", m.outside.Exec, nil, nil, "", false},
	}
	for _, h := range m.hosts {
		c := h.run("client-"+h.Name(), "--network mesh "+useDNS, "sleep", "1000000")
		all = append(all, viewpoint{"a container on " + h.Name(), c.execFrom, c.exec, h, c.addr(), true},
			viewpoint{"host " + h.Name(), h.Exec, nil, h, "", false})
	}
	c := m.hosts[0].client()
	return append(all, viewpoint{"a container on the default network of n1", c.execFrom, c.exec, c.h, c.addr(), false})
}

// mtu is what is left of 1500 octets by what a backend adds: nothing; an outer IPv4 header (RFC 2003); that with UDP, VXLAN
// and Ethernet headers (RFC 7348, section 5).
var mtu = map[string]int{"host-gw": 1500, "ipip": 1480, "vxlan": 1450, "auto": 1450}

// TestHostsWhoReachesWhom is the whole table of who can reach whom: over each backend, from containers, hosts and outside,
// to a VIP, by its name and its address, to each task's own address and to a published port of each host, over TCP and
// UDP; and as whom they are seen. SCTP is tried from a container and from outside.
func TestHostsWhoReachesWhom(t *testing.T) {
	for _, backend := range []string{"ipip", "vxlan", "host-gw"} { // host-gw last: the tests after this one want it
		t.Run(backend, func(t *testing.T) { cluster(t, backend).reach(mtu[backend]) })
	}
}

// reach is the table over one backend, with what containers have for MTU.
func (m *members) reach(mtu int) {
	m.t.Helper()
	tasks := m.tasks("echo", "-l shoal.publish=8000:8000,9000:9000,9000:9000/udp,9001:9001/sctp", everything(m.t)...)
	everyone := slices.Sorted(maps.Keys(tasks))
	vip := m.hosts[0].vip("echo")
	addrs := map[string]string{}
	for name, c := range tasks {
		addrs[name] = c.addr()
	}
	subnets := map[*host]func(string) bool{}
	for _, h := range m.hosts {
		subnet := netip.MustParsePrefix(h.meshSubnet())
		subnets[h] = func(addr string) bool {
			a, err := netip.ParseAddr(addr)
			return err == nil && (a == h.Addr() || subnet.Contains(a))
		}
	}
	server := m.outside.Start("whoami", "serve")
	m.t.Cleanup(func() { _ = server.Signal(syscall.SIGKILL) })
	for _, v := range m.viewpoints(tasks["echo-n1"]) {
		protocols := []string{"tcp", "udp"}
		if (v.kept && v.host == m.hosts[0] || v.host == nil) && lab.Has(m.t, "sctp") {
			protocols = append(protocols, "sctp")
		}
		var lines []line
		for _, proto := range protocols {
			lines = append(lines, m.lines(v, proto, vip, addrs, everyone, func(h *host, addr string) bool { return subnets[h](addr) })...)
		}
		m.check(v, v.exec, lines, len(everyone))
		if v.byName != nil {
			own := func(a string) bool { return a == v.self || !v.kept && subnets[v.host](a) }
			m.check(v, v.byName, []line{
				{"the name", "tcp://echo.mesh.internal:9000", everyone, own},
				{"the bare name", "udp://echo:9000", everyone, own},
			}, len(everyone))
			m.masqueraded(v)
		}
	}
	m.largePackets(tasks, vip, mtu)
}

// line is one of the table: what is asked, who has to answer, all of them and nobody else, and as whom whoever asks may be
// seen.
type line struct {
	what, url string
	by        []string
	seenAs    func(addr string) bool
}

// lines are a viewpoint's, over one protocol. An address of a host's own is told by of.
func (m *members) lines(v viewpoint, proto, vip string, tasks map[string]string, everyone []string, of func(*host, string) bool) (all []line) {
	m.t.Helper()
	port := map[string]string{"tcp": "9000", "udp": "9000", "sctp": "9001"}[proto]
	add := func(what, addr string, by []string, seenAs func(string) bool) {
		all = append(all, line{what, proto + "://" + addr + ":" + port, by, seenAs})
	}
	if v.host != nil {
		own := func(a string) bool { return a == v.self || !v.kept && of(v.host, a) }
		add("the VIP", vip, everyone, own)
		for name, addr := range tasks {
			add("task "+name, addr, []string{name}, own)
		}
	}
	for _, h := range m.hosts {
		// A client of the cluster may be seen by an address of the host that it came in by.
		seenAs := func(a string) bool { return a == m.outsideAddr(h) }
		if v.host != nil {
			seenAs = func(a string) bool { return a == v.self || of(v.host, a) || of(h, a) }
		}
		add("port of "+h.Name(), h.Addr().String(), everyone, seenAs)
	}
	if strings.HasPrefix(v.name, "host ") {
		add("port of 127.0.0.1", "127.0.0.1", everyone, func(a string) bool { return of(v.host, a) })
	}
	return all
}

// clientPort is the port that the next request of a viewpoint has on its own side: below those of the kernel's choice, and
// no request has that of another. IPVS takes what a task sends to a port by which it was asked through its VIP lately for
// an answer of the VIP, so that a client may not ask both from one port.
var clientPort = 10000

// check makes requests for each line, three for each of so many tasks, by one program: to start one takes longer than what
// it does. All have to be answered.
func (m *members) check(v viewpoint, exec func(args ...string) string, lines []line, tasks int) {
	m.t.Helper()
	args := []string{"whoami", "load", "--interval", "1ms", "--timeout", "3s", "--count", fmt.Sprint(3 * tasks), "--from-port", fmt.Sprint(clientPort)}
	clientPort += 3 * tasks * len(lines)
	for _, l := range lines {
		args = append(args, l.url)
	}
	sums, err := traffic.ParseSummaries(exec(args...))
	if err != nil || len(sums) != len(lines) {
		m.t.Fatalf("%s: %d summaries of %d lines, %v", v.name, len(sums), len(lines), err)
	}
	for i, l := range lines {
		s := sums[i]
		who := slices.Sorted(maps.Keys(s.Hostnames))
		if s.Failed > 0 || s.Sent != 3*tasks || !slices.Equal(who, l.by) {
			m.t.Errorf("%s → %s, %s: %d of %d failed %v, answered by %v, want %v", v.name, l.what, l.url, s.Failed, s.Sent, s.Errors, who, l.by)
		}
		for client := range s.Clients {
			if !l.seenAs(client) {
				m.t.Errorf("%s → %s, %s: it is seen as %s", v.name, l.what, l.url, client)
			}
		}
	}
}

// outsideAddr is the address that outside has on the link of a host: the first.
func (m *members) outsideAddr(h *host) string {
	link := netip.PrefixFrom(h.Addr(), 24).Masked()
	return link.Addr().Next().String()
}

// masqueraded checks that a container reaches what is outside the cluster, and is seen there by its host's address.
func (m *members) masqueraded(v viewpoint) {
	m.t.Helper()
	addr := m.outsideAddr(v.host)
	out := v.exec("whoami", "get", "http://"+addr+":8000/")
	if client := field(out, "client"); !strings.HasPrefix(client, v.host.Addr().String()+":") {
		m.t.Errorf("%s, to %s outside: it is seen as %s, want the address of its host, %v", v.name, addr, client, v.host.Addr())
	}
}

// largePackets sends packets that just fit from a container to one of the last host, and a lot over TCP, to it, to the VIP
// and to a published port.
func (m *members) largePackets(tasks map[string]container, vip string, mtu int) {
	m.t.Helper()
	last := m.hosts[len(m.hosts)-1]
	from, to := tasks["echo-n1"], tasks["echo-"+last.Name()]
	if have := strings.TrimSpace(from.exec("cat", "/sys/class/net/eth0/mtu")); have != fmt.Sprint(mtu) {
		m.t.Errorf("a container has an MTU of %s, want %d", have, mtu)
	}
	ping := append(from.enter(false), "ping", "-c1", "-W3", "-M", "do", "-s", fmt.Sprint(mtu-28), to.addr())
	if out, err := from.h.TryExec(ping...); err != nil {
		m.t.Errorf("a packet of %d octets, the MTU, does not pass: %v\n%s", mtu, err, out)
	}
	for _, addr := range []string{to.addr(), vip, last.Addr().String()} {
		s := from.loadFrom("--timeout", "10s", "--count", fmt.Sprint(len(tasks)), "http://"+addr+":8000/bytes?n=3000000")
		if s.Failed > 0 {
			m.t.Errorf("3 MB over TCP to %s: %v", addr, s.Errors)
		}
	}
}
