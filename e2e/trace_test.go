//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"shoal/lab"
)

// trace has a host trace, and checks that the exit code tells what the steps do.
func (h *host) trace(args ...string) explanation {
	h.t.Helper()
	out, err := h.TryShoal(append([]string{"trace", "-o", "json"}, args...)...)
	e := jsonOf[explanation](h.t, out)
	if want := map[bool]int{true: 0, false: 1}[e.OK]; code(err) != want {
		h.t.Errorf("trace %v ended with %v, want %d", args, err, want)
	}
	return e
}

// seen returns the evidence of the first step of that kind that was seen on a host and holds a text; "" if none.
func (e explanation) seen(what, node, text string) string {
	for _, s := range e.Steps {
		if s.What == what && s.Node == node && strings.Contains(s.Evidence, text) {
			return s.Evidence
		}
	}
	return ""
}

// passes checks that a trace goes through, by these steps: WHAT NODE TEXT.
func (h *host) passes(steps []string, args ...string) explanation {
	h.t.Helper()
	e := h.trace(args...)
	if !e.OK {
		h.t.Errorf("trace %v on %s stops: %s", args, h.Name(), e.Verdict)
	}
	for _, s := range steps {
		f := strings.SplitN(s, " ", 3)
		if e.seen(f[0], f[1], f[2]) == "" {
			h.t.Errorf("trace %v on %s has no step %q:\n%+v", args, h.Name(), s, e.Steps)
		}
	}
	return e
}

// TestHostsTraceGoesOverAllHostsOnTheWay: what happens on another host is told by its own agent; and as whom the task sees
// a client is what the task says.
func TestHostsTraceGoesOverAllHostsOnTheWay(t *testing.T) {
	m := cluster(t, "host-gw")
	n1, n2, n3 := m.hosts[0], m.hosts[1], m.hosts[2]
	web := n2.run("web-n2", "--network mesh -l shoal.service=web -l shoal.ports=http:80:8000 -l shoal.publish=8000:8000,127.0.0.1:8001:8000")
	n3.run("namesake-n3", "--network mesh -l shoal.service=web -l shoal.stack=shop -l shoal.mode=dnsrr")
	near := n1.run("near", "--network mesh "+useDNS, "sleep", "1000000")
	far := n3.run("far", "--network mesh "+useDNS, "sleep", "1000000")
	for _, h := range m.hosts {
		h.answered("http://"+n1.vip("web")+"/", "web-n2")
		h.answered(fmt.Sprintf("http://%v:8000/", h.Addr()), "web-n2")
		h.task("namesake-n3", "running")
	}
	for h, c := range map[*host]container{n1: near, n3: far} {
		lab.Eventually(t, waitLimit, h.Name()+" knows "+c.name, func() error {
			_, err := h.TryShoal("dns", "--from", c.name, "web")
			return err
		})
	}
	plane, vip, addr := thePlane(), n1.vip("web"), web.addr()
	leads := "connect() leads it: "
	if !lab.SocketBalancing() {
		leads = "the data plane"
	}

	end := []string{"route n2 " + addr + " dev ", "route n2 neighbour ", "container n2 web-n2", "container n2 default/web, running"}
	way := func(node string) []string {
		return append([]string{"name " + node + " " + vip, "VIP " + node + " local", "path " + node + " " + leads, plane.front + " " + node + " " + plane.service, "backend " + node + " web-n2 on n2", "task n2 web-n2 on n2: in rotation", "route " + node + " host-gw to host n2"}, end...)
	}
	for _, name := range []string{"web", "default/web", "_http._tcp.web"} {
		e := n1.passes(way("n1"), name)
		for _, s := range e.Steps {
			if strings.Contains(s.Evidence, "namesake") || strings.Contains(s.Evidence, "shop") {
				t.Errorf("trace %s has its namesake in %+v", name, s)
			}
		}
	}
	n1.passes(append(way("n1"), "name n1 near asks"), "--from", "near", "web")
	n1.passes(append(way("n3"), "name n3 far asks"), "--from", "far", "web")
	n1.passes(append(way("n3"), "name n3 far asks"), "--from", far.addr(), "web")
	n1.passes([]string{"service n1 shop/web", "route n1 host-gw to host n3", "container n3 namesake-n3"}, "web.shop")
	if e := n1.passes(append(end, "service n1 straight to 1 of its 1 tasks"), "tasks.web"); e.seen("VIP", "n1", "") != "" {
		t.Errorf("tasks.web goes by the VIP: %+v", e)
	}

	// The ports of every host, by every name that it has, from everywhere.
	for _, h := range m.hosts {
		at := []string{h.Name() + ":8000", fmt.Sprintf("%v:8000", h.Addr())}
		if h == n1 {
			at = append(at, ":8000", "localhost:8000/tcp")
		}
		name := h.Name()
		want := append([]string{"port " + name + " default/web"}, end...)
		if name != "n2" { // the task's own
			want = append(want, "return n2 replies to "+name)
		}
		for _, step := range plane.published {
			kind, text, _ := strings.Cut(step, " ")
			want = append(want, kind+" "+name+" "+text)
		}
		for _, to := range at {
			n1.passes(want, to)
		}
		url := fmt.Sprintf("http://%v:8000/", h.Addr())
		outside := m.outsideAddr(h)
		for _, client := range []struct {
			from string
			load func(...string) summary
			set  string
		}{
			{"near", near.loadFrom, plane.clients},
			{"far", far.loadFrom, plane.clients},
			{"", n1.load, plane.clients},
			{outside, m.loadOutside, outside + " is outside the cluster"},
		} {
			e := n1.passes(append(want, "source "+name+" "+client.set), "--from", client.from, name+":8000")
			for really := range client.load("--count", "1", url).Clients {
				if e.seen("backend", name, "it sees the client as "+really+"\n") == "" {
					t.Errorf("from %q to %s: the task sees %s, the trace has %+v", client.from, name, really, e.Steps)
				}
			}
		}
	}
	if out := n1.Shoal("trace", "-v", "n3:8000"); !strings.Contains(out, "ok   n3   "+plane.front) {
		t.Errorf("the table does not say where a step was seen:\n%s", out)
	}

	// What does not go through, and what is no question.
	for to, says := range map[string]string{"n2:8001": "host on n2: ", "n3:8002": "port on n3: 8002/tcp is published by no service", "nosuch": "name on n1: "} {
		if e := n1.trace(to); e.OK || !strings.HasPrefix(e.Verdict, says) {
			t.Errorf("trace %s: %+v, want it to stop at %s", to, e, says)
		}
	}
	n1.passes([]string{"host n1 127.0.0.1"}, "localhost:8001")
	for _, args := range [][]string{{"n9:8000", "the hosts are n1 ("}, {"nosuch:80", "nosuch"}, {"n1:none", "HOST:PORT"},
		{"--from", "nosuch", "web", "the hosts are n1 ("}, {"--from", "near", "localhost:8000", "write HOST:PORT"}, {strings.Repeat("a", 400), "characters"}} {
		args, says := args[:len(args)-1], args[len(args)-1]
		if _, err := n1.TryShoal(append([]string{"trace"}, args...)...); code(err) != 2 || !strings.Contains(err.Error(), says) {
			t.Errorf("trace %v: %v, want %q", args, err, says)
		}
	}

	// A path that is broken on the other host alone, by a rule of someone else's: the agent leaves that alone, so it is
	// there until it is taken away.
	rule := func(do string) {
		n2.Exec("ip", "rule", do, "pref", "7", "fwmark", fmt.Sprint(0x55000000|1), "blackhole")
	}
	rule("add")
	if e := n1.trace("n1:8000"); e.OK || !strings.HasPrefix(e.Verdict, "return on n2: replies to n1") {
		t.Errorf("with n2's replies dropped: %+v", e)
	}
	rule("del")
	if e := n1.trace("n1:8000"); !e.OK {
		t.Errorf("with n2's replies on their way again: %+v", e)
	}

	n2.KillAgent(syscall.SIGTERM)
	t.Cleanup(func() {
		if _, err := ask[status](n2, "status"); err != nil {
			n2.StartAgent(clusterArgs...)
			m.settled()
		}
	})
	for _, to := range []string{"web", "n1:8000", "n2:8000"} {
		e := n1.trace(to)
		if e.OK || !strings.Contains(e.Verdict, "agent on n1: the agent of host n2 does not answer") || !strings.Contains(e.Verdict, "connection refused") {
			t.Errorf("trace %s without n2's agent: %+v", to, e)
		}
		if to != "n2:8000" && e.seen("route", "n1", "to host n2") == "" {
			t.Errorf("trace %s without n2's agent tells less than it could: %+v", to, e)
		}
	}
}
