//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/lab"
)

// lateness is how long after its start a task's process listens, in tests of who waits for it.
const lateness = 3 * time.Second

// TestHostsATaskThatListensLateJoinsUnderLoad: a fourth task joins three that are under load, by VIP and by published port, on
// its own host and on another. Without a HEALTHCHECK no request fails; with shoal.ready=none some do.
func TestHostsATaskThatListensLateJoinsUnderLoad(t *testing.T) {
	m := cluster(t, "host-gw")
	a, b := m.hosts[0], m.hosts[1]
	m.tasks("web", "-l shoal.publish=8000:8000")
	url := "http://" + a.vip("web") + ":8000/"
	join := func(name, options string) (failed map[string]int) {
		t.Helper()
		loads := map[string]*lab.Load{
			"by VIP, on its host":              b.Load("--timeout", "5s", url),
			"by VIP, on another host":          a.Load("--timeout", "5s", url),
			"by the published port":            m.outside.Load("--timeout", "5s", fmt.Sprintf("http://%v:8000/", b.Addr())),
			"by another host's published port": m.outside.Load("--timeout", "5s", fmt.Sprintf("http://%v:8000/", a.Addr())),
		}
		for _, l := range loads {
			l.Await(10)
		}
		b.run(name, "--network mesh -l shoal.service=web -l shoal.publish=8000:8000 "+options,
			"whoami", "serve", "--late", lateness.String())
		for _, h := range m.hosts {
			h.rotation("web", waitLimit, "web-n1", "web-n2", "web-n3", name)
		}
		failed = map[string]int{}
		for what, l := range loads {
			l.Await(200)
			s := l.Stop()
			if s.Hostnames[name] == 0 {
				t.Errorf("%s: %s answered none of %d requests: %v", what, name, s.Sent, s.Hostnames)
			}
			failed[what] = s.Failed
			t.Logf("%s: %s: %d of %d requests failed: %v", name, what, s.Failed, s.Sent, s.Errors)
		}
		b.Docker("rm", "-f", name)
		for _, h := range m.hosts {
			h.rotation("web", waitLimit, "web-n1", "web-n2", "web-n3")
		}
		return failed
	}
	for what, n := range join("late", "") {
		if n > 0 {
			t.Errorf("%s, %d requests failed as a task joined", what, n)
		}
	}
	for what, n := range join("rash", "-l shoal.ready=none") {
		if n == 0 {
			t.Errorf("%s, no request failed as a task joined that did not listen: then this test shows nothing", what)
		}
	}
}

// agentFor starts the shared host's agent anew with those settings, until the test ends.
func agentFor(t *testing.T, args ...string) *host {
	t.Helper()
	h := home(t)
	restart := func(args ...string) {
		h.KillAgent(syscall.SIGKILL)
		h.StartAgent(args...)
	}
	t.Cleanup(func() { restart() }) // who comes next waits until it is ready
	restart(args...)
	h.ready()
	return h
}

// untilTold is a process that listens once the file /go is there.
const untilTold = "until test -e /go; do sleep 0.1; done; exec whoami serve"

// waitsFor is what a task waits for; "" if it does not wait.
func (h *host) waitsFor(name string) string {
	h.t.Helper()
	all, err := ask[[]task](h, "tasks")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, one := range all {
		if one.Name == name {
			return one.Reason
		}
	}
	return ""
}

// TestATaskWaitsForItsPorts takes a task that listens late through restarts of its container and of the agent.
func TestATaskWaitsForItsPorts(t *testing.T) {
	h := agentFor(t, "--ready-limit", "1h")
	slow := h.run("slow", "-l shoal.service=slow -l shoal.ports=80:8000", "sh", "-c", untilTold)
	waits := func() {
		t.Helper()
		h.task("slow", "starting")
		if reason := h.waitsFor("slow"); !strings.Contains(reason, "8000/tcp") {
			t.Errorf("it waits for %q", reason)
		}
	}
	waits()
	url := "http://" + h.vip("slow") + "/"
	h.refused(url)
	h.RestartAgent()
	h.ready()
	waits()
	slow.exec("touch", "/go")
	h.task("slow", "running")
	h.answered(url, "slow")

	load := h.Load("--timeout", "5s", url)
	load.Await(10)
	h.RestartAgent()
	h.ready()
	load.Await(10)
	if s := load.Stop(); s.Failed > 0 {
		t.Errorf("over a restart of the agent, %d of %d requests failed: %v", s.Failed, s.Sent, s.Errors)
	}

	// Started again, it has to listen again. Paused and unpaused, it does not.
	slow.exec("rm", "/go")
	h.Docker("restart", "--time", "0", "slow")
	waits()
	h.pause("slow")
	h.task("slow", "paused")
	h.Docker("unpause", "slow")
	waits()
	slow.exec("touch", "/go")
	h.task("slow", "running")
	h.pause("slow")
	h.task("slow", "paused")
	h.Docker("unpause", "slow")
	h.task("slow", "running")
	h.answered(url, "slow")
}

// TestANameHasTheTasksThatAreReady: without a VIP, the name answers with those that do not wait.
func TestANameHasTheTasksThatAreReady(t *testing.T) {
	h := agentFor(t, "--ready-limit", "1h")
	run := func(name string) container {
		return h.run(name, "-l shoal.service=robin -l shoal.mode=dnsrr -l shoal.ports=8000", "sh", "-c", untilTold)
	}
	named := func(want ...container) {
		t.Helper()
		var addrs []string
		for _, c := range want {
			addrs = append(addrs, c.addr())
		}
		slices.Sort(addrs)
		for _, name := range []string{"robin", "tasks.robin"} {
			lab.Eventually(t, waitLimit, name+" is those that are ready", func() error {
				out, err := h.TryExec("dig", "+short", "+time=5", "+tries=1", "@"+dnsServer, name+".mesh.internal")
				if have := strings.Fields(out); err == nil && !slices.Equal(slices.Sorted(slices.Values(have)), addrs) {
					err = fmt.Errorf("it is %v, want %v", have, addrs)
				}
				return err
			})
		}
	}
	first, second := run("robin-1"), run("robin-2")
	first.exec("touch", "/go")
	h.task("robin-1", "running")
	h.task("robin-2", "starting")
	named(first)
	second.exec("touch", "/go")
	named(first, second)
}

// TestWhatNeverListensEntersWithAProblem, which says what is wrong, and goes when that is put right.
func TestWhatNeverListensEntersWithAProblem(t *testing.T) {
	h := agentFor(t, "--ready-limit", "2s")
	for _, test := range []struct {
		name, labels, command string
		says                  []string
	}{
		{"elsewhere", "-l shoal.ports=80:8080", "whoami serve", []string{"8080/tcp accepts no connections", "it listens on 8000/tcp"}},
		{"deaf", "", "sleep 1000000", []string{"it listens on no port that others reach"}},
		{"mute", "-l shoal.ports=53/udp", "whoami serve --udp 54", []string{"no socket is bound to its port 53/udp", "it listens on 54/udp"}},
		{"partly", "-l shoal.ports=80:8000 -l shoal.publish=8100:8001", "whoami serve", []string{"8001/tcp accepts no connections", "8000/tcp"}},
	} {
		h.run(test.name, "-l shoal.service="+test.name+" "+test.labels, strings.Fields(test.command)...)
		reason := h.problem(test.name, "not-ready")
		for _, says := range append(test.says, "shoal.ready=none", "in rotation all the same") {
			if !strings.Contains(reason, says) {
				t.Errorf("%s: %s; it does not say %q", test.name, reason, says)
			}
		}
		h.task(test.name, "running")
	}
	h.Docker("exec", "-d", "partly", "whoami", "serve", "--http", "8001")
	h.noProblem("partly")
}

// TestByWhatATaskIsReady has tasks that name their ports in different ways, or not at all.
func TestByWhatATaskIsReady(t *testing.T) {
	h := agentFor(t, "--ready-limit", "1h")
	for _, test := range []struct{ name, options, command string }{
		{"named", "-l shoal.ports=80:1234", "whoami serve --http 1234"},
		{"whatever", "", "whoami serve --http 1234"},
		{"exposed", "--expose 1234", "whoami serve --http 1234"},
		{"misexposed", "--expose 80", "whoami serve --http 1234"},
		{"ranges", "-l shoal.publish=8110-8119:8000-8009", "whoami serve --http 8005"},
		{"datagrams", "-l shoal.ports=9000/udp", "whoami serve --udp 9000"},
		{"onhost", "--network host", "whoami serve --http 1234"},
		{"onhost-named", "--network host -l shoal.ports=80:1235", "whoami serve --http 1235"},
		{"not-asked", "-l shoal.ready=none", "sleep 1000000"},
	} {
		h.run(test.name, "-l shoal.service="+test.name+" "+test.options, strings.Fields(test.command)...)
		h.task(test.name, "running")
		h.noProblem(test.name)
	}
	h.Docker("run", "-d", "--name", "sidecar", "--network", "container:named", "-l", "shoal.services.sidecar.ports=90:1236", lab.Image, "whoami", "serve", "--http", "1236")
	h.task("sidecar", "running")
}
