//go:build e2e

package e2e

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/lab"
)

// inTime is how long the loss or the return of a host may take to be known everywhere; a single one, on a machine that is
// busy, twice that.
const inTime = 3 * time.Second

// TestHostsAHostIsLostAndReturns: the tasks of a host that is cut off, the only one that serves the store too, leave the
// rotation and the names of the others and come back with it, under the same VIP. The host itself goes on with what it
// reaches, new containers of its own included.
func TestHostsAHostIsLostAndReturns(t *testing.T) {
	m := cluster(t, "host-gw")
	a, c := m.hosts[0], m.hosts[2]
	tasks := m.tasks("web", "-l shoal.publish=8000:8000")
	vip := a.vip("web")

	var left, back []time.Duration
	for _, h := range []*host{c, a, c} {
		l, b := m.loses(h, "web", tasks)
		left, back = append(left, l), append(back, b)
	}
	t.Logf("the tasks of n3, n1 and n3 left after %v, and were back after %v", left, back)
	for what, took := range map[string][]time.Duration{"left": left, "were back": back} {
		if slices.Sort(took); took[1] > inTime {
			t.Errorf("its tasks %s after %v, in the median of three more than %v", what, took[1], inTime)
		}
	}

	c.CutOff()
	c.rotation("web", 2*inTime, "web-n3")
	c.run("late-n3", "--network mesh -l shoal.service=web -l shoal.publish=8000:8000")
	c.rotation("web", waitLimit, "web-n3", "late-n3")
	c.answered("http://"+vip+":8000/", "web-n3", "late-n3")
	c.answered("http://127.0.0.1:8000/", "web-n3", "late-n3")

	c.Reconnect()
	for _, h := range m.hosts {
		h.rotation("web", 2*inTime, "web-n1", "web-n2", "web-n3", "late-n3")
	}
	if again := a.vip("web"); again != vip {
		t.Errorf("the VIP was %s, is %s", vip, again)
	}
	m.served("web", "web-n1", "web-n2", "web-n3", "late-n3")
}

// loses cuts a host off and has it come back, and returns how long it took until no other host had its tasks in rotation, and
// until every host had them again. Those are all of the only service that there is, a task on each host. Meanwhile
// nothing fails that is asked of the others.
func (m *members) loses(lost *host, service string, tasks map[string]container) (left, back time.Duration) {
	m.t.Helper()
	rest, gone := map[string]container{}, map[string]container{}
	for name, c := range tasks {
		if c.h == lost {
			gone[name] = c
		} else {
			rest[name] = c
		}
	}
	m.t.Cleanup(lost.Reconnect)
	vip := lost.vip(service)
	at := time.Now()
	lost.CutOff()
	for _, c := range rest {
		c.h.rotation(service, 2*inTime, slices.Sorted(maps.Keys(rest))...)
	}
	left = time.Since(at) // by the agents' word: to look at their kernels takes long
	for _, c := range rest {
		c.h.balances(service, rest)
	}
	others := slices.Sorted(maps.Keys(rest))
	for _, c := range rest {
		m.answersOutside(c.h, 8000, others...)
		s := c.h.load("--timeout", "5s", "--count", "10", "http://"+vip+":8000/")
		if who := slices.Sorted(maps.Keys(s.Hostnames)); s.Failed > 0 || !slices.Equal(who, others) {
			m.t.Errorf("without %s, the VIP on %s is answered by %v, %d of %d requests failed: %v", lost.Name(), c.h.Name(), who, s.Failed, s.Sent, s.Errors)
		}
	}
	lost.balances(service, gone)
	at = time.Now()
	lost.Reconnect()
	for _, h := range m.hosts {
		h.rotation(service, 2*inTime, slices.Sorted(maps.Keys(tasks))...)
	}
	back = time.Since(at)
	for _, h := range m.hosts {
		h.balances(service, tasks)
	}
	return left, back
}

// balances waits until the host gives new connections to just those tasks of a service, which is the only one: the
// kernel does, by VIP and by published port, and the name tasks.SERVICE.
func (h *host) balances(service string, tasks map[string]container) {
	h.t.Helper()
	var want []string
	for _, c := range tasks {
		want = append(want, c.addr())
	}
	slices.Sort(want)
	lab.Eventually(h.t, waitLimit, fmt.Sprintf("%s balances to %v", h.Name(), slices.Sorted(maps.Keys(tasks))), func() error {
		all, err := h.Frontends()
		if err != nil {
			return err
		}
		named, err := h.TryExec("dig", "+short", "+time=5", "+tries=1", "@"+dnsServer, "tasks."+service+".mesh.internal")
		if err != nil {
			return err
		}
		for what, have := range map[string][]string{"its VIP": lab.RealServers(all, false), "its published port": lab.RealServers(all, true), "the name of its tasks": strings.Fields(named)} {
			if slices.Sort(have); !slices.Equal(have, want) {
				return fmt.Errorf("%s has %v, want %v: %+v", what, have, want, all)
			}
		}
		return nil
	})
}

// rotation waits until the agent has just those tasks of a service of the default stack in rotation.
func (h *host) rotation(service string, limit time.Duration, names ...string) {
	h.t.Helper()
	lab.Eventually(h.t, limit, fmt.Sprintf("%s has %v in rotation", h.Name(), names), func() error { return h.rotates(service, names) })
}

// rotates tells what is wrong where the agent has others than those tasks of a service of the default stack in rotation.
func (h *host) rotates(service string, names []string) error {
	all, err := ask[[]task](h, "tasks")
	if err != nil {
		return err
	}
	var in []string
	for _, t := range all {
		if t.Service == "default/"+service && t.State == "running" {
			in = append(in, t.Name)
		}
	}
	slices.Sort(in)
	if want := slices.Sorted(slices.Values(names)); !slices.Equal(in, want) {
		return fmt.Errorf("%s has %v in rotation, want %v: %+v", h.Name(), in, want, all)
	}
	return nil
}

// followed are how long after a moment each host has just those tasks of a service in rotation, which it waits for.
func (m *members) followed(service string, since time.Time, by []*host, names ...string) map[string]time.Duration {
	m.t.Helper()
	took := map[string]time.Duration{}
	lab.Eventually(m.t, waitLimit, fmt.Sprintf("%v are in rotation everywhere", names), func() (err error) {
		for _, h := range by {
			if took[h.Name()] > 0 {
				continue
			}
			if herr := h.rotates(service, names); herr != nil {
				err = errors.Join(err, herr)
				continue
			}
			took[h.Name()] = time.Since(since)
		}
		return err
	})
	return took
}

// moment is one of those that the engine notes of a container.
func moment(t *testing.T, stamp string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, stamp)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestHostsTheStoreIsGone: without etcd every host goes on with the last state, by VIP, by name and by published port; an
// agent restarts with it, containers come and go, which the hosts tell each other; all is put right when etcd is back. What
// starts, dies or drains on any host whose agent runs is followed by all the others within two seconds.
func TestHostsTheStoreIsGone(t *testing.T) {
	m := cluster(t, "host-gw")
	a, b, c := m.hosts[0], m.hosts[1], m.hosts[2]
	containers := m.tasks("web", "-l shoal.publish=8000:8000")
	vip := b.vip("web")
	all := []string{"web-n1", "web-n2", "web-n3"}
	asker := b.run("asker", "--network mesh "+useDNS, "sleep", "1000000")

	data := filepath.Join(a.Dir(), "state", "etcd")
	a.KillAgent(syscall.SIGKILL) // the store goes with it; its containers live
	putBack := func() {
		if _, err := a.TryShoal("status"); code(err) != 2 {
			a.KillAgent(syscall.SIGTERM)
		}
		a.Exec("mv", data+".away", data)
		a.StartAgent(clusterArgs...)
	}
	t.Cleanup(func() {
		if exists(data + ".away") {
			putBack()
		} else if _, err := a.TryShoal("status"); code(err) == 2 {
			a.StartAgent(clusterArgs...)
		}
	})
	serve := func(h *host, by ...string) {
		t.Helper()
		for _, url := range []string{"http://" + vip + ":8000/", "http://127.0.0.1:8000/", fmt.Sprintf("http://%v:8000/", h.Addr())} {
			h.answered(url, by...)
		}
		m.answersOutside(h, 8000, by...)
	}
	for _, h := range m.hosts {
		serve(h, all...)
	}
	// So is who has an address now.
	var longest time.Duration
	var figures []string
	known := func(what string, since time.Time, by []*host, names ...string) {
		t.Helper()
		for name, took := range m.followed("web", since, by, names...) {
			longest = max(longest, took)
			figures = append(figures, fmt.Sprintf("%s was followed by %s after %v", what, name, took.Round(time.Millisecond)))
		}
	}
	drains := func(h *host, name string, by []*host, names ...string) {
		t.Helper()
		stopped := make(chan struct{})
		since := time.Now()
		go func() {
			defer close(stopped)
			if out, err := h.TryShoal("stop", name); err != nil {
				t.Errorf("shoal stop: %v %s", err, out)
			}
		}()
		known(name+" draining on "+h.Name(), since, by, names...)
		<-stopped
	}
	b.run("late-n2", "--network mesh -l shoal.service=web -l shoal.publish=8000:8000 -l shoal.drain=20s")
	known("late-n2 starting on n2", moment(t, container{b, "late-n2"}.inspect().State.StartedAt), []*host{c}, append(all, "late-n2")...)
	for _, h := range []*host{b, c} {
		serve(h, append(all, "late-n2")...)
	}
	nodes, err := ask[[]struct{ Name, Role string }](b, "nodes")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes { // who is to be started
		if want := map[bool]string{true: "server", false: "client"}[n.Name == "n1"]; n.Role != want {
			t.Errorf("without the store, %s is a %s, want %s", n.Name, n.Role, want)
		}
	}
	b.RestartAgent()
	lab.Eventually(t, waitLimit, "the agent goes by the state of its last run", func() error {
		_, err := b.TryShoal("tasks")
		return err
	})
	serve(b, append(all, "late-n2")...)
	address := containers["web-n2"].addr()
	b.Docker("rm", "-f", "web-n2")
	b.run("taker", "--network mesh --ip "+address+" -l shoal.service=other")
	c.rotation("web", 2*inTime, "web-n1", "web-n3", "late-n2") // two commands took their time
	drains(b, "late-n2", []*host{c}, "web-n1", "web-n3")
	b.run("later-n2", "--network mesh -l shoal.service=web -l shoal.publish=8000:8000")
	known("later-n2 starting on n2", moment(t, container{b, "later-n2"}.inspect().State.StartedAt), []*host{c}, "web-n1", "web-n3", "later-n2")
	c.RestartAgent() // all it had besides its cache is with the others
	for _, h := range []*host{b, c} {
		serve(h, "web-n1", "web-n3", "later-n2")
	}
	if s := asker.load("--count", "9", "http://web:8000/"); s.Failed > 0 || len(s.Hostnames) != 3 {
		t.Errorf("by name web is answered by %v, %d failed: %v", s.Hostnames, s.Failed, s.Errors)
	}
	if got := b.vip("web"); got != vip {
		t.Errorf("the VIP was %s, is %s", vip, got)
	}

	// The first host's agent is back, and its store is not: it begins no other.
	a.Exec("mv", data, data+".away")
	a.StartAgent(clusterArgs...)
	a.listed("store-down", "etcd", "n1")
	now := []string{"web-n1", "web-n3", "later-n2"}
	for _, h := range m.hosts {
		h.rotation("web", waitLimit, now...)
	}
	for i, name := range []string{"web-n1", "later-n2", "web-n3"} {
		h := m.hosts[i]
		task := container{h, name}
		var others []*host
		for _, other := range m.hosts {
			if other != h {
				others = append(others, other)
			}
		}
		rest := slices.DeleteFunc(slices.Clone(now), func(other string) bool { return other == name })
		starts := func() {
			t.Helper()
			h.Docker("start", name)
			known(name+" starting on "+h.Name(), moment(t, task.inspect().State.StartedAt), others, now...)
		}
		h.Docker("kill", name)
		known(name+" dying on "+h.Name(), moment(t, task.inspect().State.FinishedAt), others, rest...)
		starts()
		drains(h, name, others, rest...)
		starts()
	}
	for _, h := range m.hosts {
		serve(h, now...)
	}
	const most = 2 * time.Second
	t.Logf("without etcd, the longest took %v:\n%s", longest, strings.Join(figures, "\n"))
	if longest > most {
		t.Errorf("without etcd, a change is followed by another host after %v, want at most %v:\n%s", longest, most, strings.Join(figures, "\n"))
	}

	putBack()
	m.settled()
	m.served("web", now...)
}

// TestHostsARollingReplacementLosesNothing: one after the other, tasks are started anew, waited for and stopped, with requests
// all the time, on new connections, through the VIP and through a published port.
func TestHostsARollingReplacementLosesNothing(t *testing.T) {
	m := cluster(t, "host-gw")
	a := m.hosts[0]
	start := func(h *host, name string) {
		h.Docker("run", "-d", "--name", name, "--hostname", name, "--network", "mesh", "-l", "shoal.service=roll",
			"-l", "shoal.publish=8000:8000", "--health-cmd", "whoami get http://127.0.0.1:8000/health", "--health-interval", "1s", lab.Image)
	}
	var old []string
	for _, h := range m.hosts {
		start(h, "old-"+h.Name())
		old = append(old, "old-"+h.Name())
	}
	for _, h := range m.hosts {
		h.rotation("roll", 2*waitLimit, old...)
	}
	url := "http://" + a.vip("roll") + ":8000/"
	loads := []*lab.Load{
		a.Load("--timeout", "5s", url),
		m.outside.Load("--timeout", "5s", fmt.Sprintf("http://%v:8000/", m.hosts[1].Addr())),
	}
	for i, h := range m.hosts {
		name := "new-" + h.Name()
		start(h, name)
		now := append(slices.Clone(old[i:]), name)
		for _, done := range m.hosts[:i] {
			now = append(now, "new-"+done.Name())
		}
		for _, other := range m.hosts {
			other.rotation("roll", 2*waitLimit, now...)
		}
		h.Shoal("stop", old[i])
	}
	for i, l := range loads {
		l.Await(20)
		s := l.Stop()
		if s.Failed > 0 || s.Sent < 100 {
			t.Errorf("load %d: %d of %d requests failed: %v", i, s.Failed, s.Sent, s.Errors)
		}
		if who := slices.Sorted(maps.Keys(s.Hostnames)); len(who) != 6 {
			t.Errorf("load %d was answered by %v, want the old and the new", i, who)
		}
	}
}

// TestHostsNamesWhileAnAgentIsDown: a container that knows both DNS addresses loses no lookup while its host's agent is down.
func TestHostsNamesWhileAnAgentIsDown(t *testing.T) {
	m := cluster(t, "host-gw")
	b := m.hosts[1]
	m.tasks("web", "")
	both := "--dns 10.96.0.10 --dns 10.96.0.11 --dns-search mesh.internal --dns-opt timeout:1 --dns-opt attempts:5 --dns-opt ndots:1"
	for _, network := range []string{"mesh", "bridge"} {
		c := b.run("asker-"+network, "--network "+network+" "+both, "sleep", "1000000")
		load := b.LoadIn(c.enter(true), "--timeout", "20s", "--interval", "100ms", "http://web:8000/")
		load.Await(5)
		b.KillAgent(syscall.SIGKILL)
		load.Await(5)
		b.StartAgent(clusterArgs...)
		load.Await(5)
		if s := load.Stop(); s.Failed > 0 {
			t.Errorf("on network %s, %d of %d requests failed: %v", network, s.Failed, s.Sent, s.Errors)
		}
	}
	m.settled()
}

// TestHostsOnlyOneServiceHasAPort: the second that wants a published port is a problem, on whichever host, until the first
// lets go.
func TestHostsOnlyOneServiceHasAPort(t *testing.T) {
	cluster(t, "host-gw").onlyOneHasAPort()
}

func (m *members) onlyOneHasAPort() {
	m.t.Helper()
	a, b := m.hosts[0], m.hosts[1]
	first := a.run("first", "--network mesh -l shoal.service=one -l shoal.publish=8080:8000")
	b.answered("http://127.0.0.1:8080/", "first")
	b.run("second", "--network mesh -l shoal.service=two -l shoal.publish=8080:8000")
	if why := b.problem("default/two", "port-taken"); !strings.Contains(why, "8080") || !strings.Contains(why, "default/one") {
		m.t.Errorf("the problem is %q, want the port and who has it", why)
	}
	a.answered("http://127.0.0.1:8080/", "first")
	first.h.Docker("rm", "-f", "first")
	for _, h := range m.hosts {
		h.answered("http://127.0.0.1:8080/", "second")
	}
	b.noProblem("default/two")
	b.Docker("rm", "-f", "second")
}

// TestHostsBadTokensAreRefused: a wrong token, a spent one, a taken name, a taken address and no certificate let nobody
// in, and are told.
func TestHostsBadTokensAreRefused(t *testing.T) {
	m := cluster(t, "host-gw")
	a := m.hosts[0]
	stranger := shared.With(t).Host("x1")
	backend := "host-gw" // that of the cluster
	join := func(node, token string) string {
		t.Helper()
		p := stranger.Start("shoal", "agent", "--node", node, "--state-dir", stranger.Dir()+"/stranger", "--run-dir", stranger.Dir()+"/stranger-run",
			"--docker-host", "unix://"+stranger.DockerSocket(), "--backend", backend, "--join", a.Addr().String(), "--token", token)
		err := p.Wait(waitLimit)
		var exit interface{ ExitCode() int }
		if !errors.As(err, &exit) {
			_ = p.Signal(syscall.SIGKILL)
			t.Fatalf("agent of %s with the token %.20s…: %v, want it to be refused\n%s", node, token, err, p.Output())
		}
		return p.Output()
	}
	refused := func(node, token, says string) {
		t.Helper()
		if out := join(node, token); !strings.Contains(out, says) {
			t.Errorf("joining as %s by a bad token says\n%s\nwant %q", node, out, says)
		}
	}
	tokenOf := func(args []string) string { return args[slices.Index(args, "--token")+1] }
	good := a.Invitation()
	token := tokenOf(good)
	refused("x1", token[:len(token)-4]+"AAAA", "token")
	refused("x1", "SHOAL-1-nonsense", "token")
	refused("n2", token, "n2")
	backend = "auto"
	refused("x1", token, "--backend is host-gw on n1, and auto on x1") // a good token: the stranger's settings are not the cluster's
	backend = "host-gw"
	if nodes := a.Shoal("nodes"); strings.Contains(nodes, "x1") {
		t.Errorf("it got in:\n%s", nodes)
	}
	for _, why := range []string{`why="no such token`, `why="the token is good, but the node's name is not`} {
		if log := a.Agent().Output(); !regexp.MustCompile(`msg="refused a request" .*from=` + stranger.Addr().String() + ` ` + why).MatchString(log) {
			t.Errorf("a refusal, %s, is not logged:\n%s", why, log)
		}
	}
	for port, request := range map[uint16]string{7947: "GET /v1/welcome", 2379: "", 2380: ""} {
		at := netip.AddrPortFrom(a.Addr(), port)
		// From the address of a host of the cluster it takes a certificate still.
		if err := withoutCertificate(m.hosts[1].Host, at, request); err != nil {
			t.Errorf("port %d, from n2: %v", port, err)
		}
		err := withoutCertificate(stranger, at, request)
		if request == "" && errors.Is(err, syscall.ECONNREFUSED) {
			err = nil // closed to strangers
		} else if request == "" {
			err = fmt.Errorf("it is open to strangers: %w", err)
		}
		if err != nil {
			t.Errorf("port %d: %v", port, err)
		}
	}

	// The token is good for one host, and that one has joined.
	stranger.StartAgent(append(good, "--backend", backend)...)
	lab.AwaitNodes(t, a.Host, stranger)
	t.Cleanup(func() {
		stranger.Shoal("down")
		lab.Eventually(t, waitLimit, "x1 is forgotten", func() error {
			_, err := a.TryShoal("node", "rm", "x1")
			return err
		})
		if err := os.RemoveAll(filepath.Join(stranger.Dir(), "state")); err != nil {
			t.Error(err)
		}
	})
	stranger.KillAgent(syscall.SIGTERM)
	refused("x9", token, "used up")
	refused("x9", tokenOf(a.Invitation()), "the address "+stranger.Addr().String()+" is that of host x1")
}

// withoutCertificate tells what is wrong with how a server answers one that shows no certificate: that has to be a
// refusal, of the connection or, where one may join, of the request.
func withoutCertificate(from *lab.Host, server netip.AddrPort, request string) error {
	return inNetns(from.Netns(), func() error {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", server.String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return err // by TLS 1.3 the refusal comes after that
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if request == "" {
			_, err := c.Read(make([]byte, 1))
			if err == nil || !strings.Contains(err.Error(), "certificate required") {
				return fmt.Errorf("read %v, want to be told that a certificate is required", err)
			}
			return nil
		}
		if _, err := io.WriteString(c, request+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil && r.StatusCode != http.StatusForbidden {
			err = fmt.Errorf("%s is answered with %s", request, r.Status)
		}
		return err
	})
}
