package dockerwatch

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/go-connections/nat"
	"github.com/google/go-cmp/cmp"

	"shoal/kernel/sockets"
	"shoal/model"
)

func TestWhichPortsMakeATaskReady(t *testing.T) {
	for _, test := range []struct {
		labels, exposed string
		onHost          bool
		want            string
	}{
		{labels: "ports=80:8080", want: "tcp all [8080]"},
		{labels: "ports=80:8080,81:8080,443", want: "tcp all [443 8080]"},
		{labels: "publish=8080:80", want: "tcp all [80]"},
		{labels: "ports=80 publish=8443:443", want: "tcp all [80 443]"},
		{labels: "ports=53/udp,53", want: "tcp all [53]"},
		{labels: "ports=53/udp publish=9053:9053", want: "tcp all [9053]"},
		{labels: "ports=53/udp publish=5353:53/udp", want: "udp all [53]"},
		{labels: "publish=21,30000-30002", want: "tcp all [21]"},
		{labels: "publish=8000-8002:9000-9002", want: "tcp any [9000 9001 9002]"},
		{labels: "publish=8000-8001,8001:9", want: "tcp any [8000 8001]"}, // refused elsewhere
		{labels: "publish=5000-5001/udp", want: "udp any [5000 5001]"},
		{labels: "ports=5000/sctp", want: "nothing"},
		{labels: "ports=5000/sctp,5000", want: "tcp all [5000]"},
		{labels: "ports=80", exposed: "9000/tcp", want: "tcp all [80]"},
		{exposed: "80/tcp 443/tcp 443/udp", want: "tcp any [80 443] or what listens"},
		{exposed: "53/udp", want: "udp any [53] or what listens"},
		{want: "what listens"},
		{onHost: true, want: "nothing"},
		{onHost: true, exposed: "80/tcp", want: "tcp any [80]"},
		{onHost: true, labels: "ports=80", want: "tcp all [80]"},
	} {
		c := inspected("one", "service=web "+test.labels, "bridge=172.17.0.2")
		c.Config.ExposedPorts = nat.PortSet{}
		for _, p := range strings.Fields(test.exposed) {
			c.Config.ExposedPorts[nat.Port(p)] = struct{}{}
		}
		f := factsOf(c, nil, testLimits, t0)
		if len(f.services) != 1 {
			if strings.HasPrefix(f.refusal.Error(), "label shoal.publish") {
				continue
			}
			t.Fatalf("%+v: %v", test, f.refusal)
		}
		p := planOf(&f.services[0], f.exposed, test.onHost)
		var got []string
		if len(p.all) > 0 {
			got = append(got, fmt.Sprint(p.proto, " all ", p.all))
		}
		if len(p.any) > 0 {
			got = append(got, fmt.Sprint(p.proto, " any ", p.any))
		}
		if p.listens {
			got = append(got, "what listens")
		}
		if p.empty() {
			got = append(got, "nothing")
		}
		if got := strings.Join(got, " or "); got != test.want {
			t.Errorf("%s; exposed %q: %s, want %s", test.labels, test.exposed, got, test.want)
		}
	}
}

// waiter is a container in an inventory where tasks wait for their ports.
type waiter struct {
	t *testing.T
	v *inventory
	c container.InspectResponse
}

func newWaiter(t *testing.T, labels string, recorded ...model.Task) *waiter {
	v := newInventory()
	v.readiness = newReadiness(30*time.Second, func(id string) (model.Container, bool) { return model.Container{ID: id, Tasks: recorded}, true })
	return &waiter{t, v, inspected("one", labels, "bridge=172.17.0.2")}
}

// sees has the container be looked at.
func (w *waiter) sees(after time.Duration) { w.v.see(w.c, t0.Add(after)) }

// hears has something come of the probe of the i-th task.
func (w *waiter) hears(i int, after time.Duration, o outcome, fault string) {
	w.t.Helper()
	ps := w.v.probesOf(w.v.containers["one"])
	if len(ps) <= i {
		w.t.Fatalf("there are probes %+v", ps)
	}
	w.v.readiness.take(&probed{probe: ps[i], outcome: o, fault: fault}, t0.Add(after))
	w.v.damped(w.v.containers["one"], t0.Add(after))
}

// is checks the tasks' states, and how many are being tried.
func (w *waiter) is(want string, tried int) {
	w.t.Helper()
	var got []string
	for _, t := range w.v.local().Containers[0].Tasks {
		got = append(got, fmt.Sprintf("%s %s", t.State, t.Since.Sub(t0)))
		if (t.Reason != "") != (t.State == model.Starting) {
			w.t.Errorf("%s, and its reason is %q", t.State, t.Reason)
		}
	}
	if got := strings.Join(got, ", "); got != want {
		w.t.Errorf("tasks: %s; want %s", got, want)
	}
	if n := len(w.v.probes()); n != tried {
		w.t.Errorf("%d are tried, want %d", n, tried)
	}
}

func TestATaskEntersWhenItsPortsAccept(t *testing.T) {
	w := newWaiter(t, "services.a.ports=80 services.b.ports=81")
	w.sees(time.Second)
	w.is("starting 0s, starting 0s", 2)
	w.hears(0, 2*time.Second, refused, "")
	w.is("starting 0s, starting 0s", 2)
	w.hears(1, 3*time.Second, accepted, "")
	w.is("starting 0s, running 3s", 1)
	w.hears(0, 4*time.Second, accepted, "")
	w.is("running 4s, running 3s", 0)
	if r := w.v.local().Containers[0].Notices; len(r) > 0 {
		t.Errorf("notices %v", r)
	}

	// It is ready for as long as it runs, and no longer.
	w.sees(time.Hour)
	w.is("running 4s, running 3s", 0)
	w.c.State.StartedAt = t0.Add(2 * time.Hour).Format(time.RFC3339Nano)
	w.sees(2 * time.Hour)
	w.is("starting 2h0m0s, starting 2h0m0s", 2)
}

func TestATaskEntersUnreadyAtTheLimitWithAProblem(t *testing.T) {
	w := newWaiter(t, "service=web ports=80")
	w.sees(0)
	w.hears(0, 30*time.Second, late, "nothing listens")
	w.is("running 30s", 1)
	n := w.v.local().Containers[0].Notices
	if len(n) != 1 || n[0].Code != model.NotReady || !n[0].Problem || !strings.Contains(n[0].Text, "default/web: nothing listens") {
		t.Errorf("notices %v", n)
	}
	w.hears(0, time.Minute, accepted, "")
	w.is("running 30s", 0)
	if n := w.v.local().Containers[0].Notices; len(n) > 0 {
		t.Errorf("notices once it is ready: %v", n)
	}
}

func TestTasksThatNeedNotBeReady(t *testing.T) {
	for labels, health := range map[string]container.HealthStatus{
		"service=web ready=none": "",
		"service=web":            container.Healthy,
		"services.a.ports=80 services.b.ports=81 ready=none": "",
	} {
		w := newWaiter(t, labels)
		if health != "" {
			w.c.State.Health = &container.Health{Status: health}
		}
		w.sees(0)
		if got := w.v.local().Containers[0].Tasks[0].State; got != model.Running || len(w.v.probes()) > 0 {
			t.Errorf("%s: %s, tried: %+v", labels, got, w.v.probes())
		}
	}
	w := newWaiter(t, "service=web health=none")
	w.c.State.Health = &container.Health{Status: container.Unhealthy}
	w.sees(0)
	w.is("starting 0s", 1) // its HEALTHCHECK does not speak for it
	w = newWaiter(t, "services.a.ports=80 services.b.ports=81 services.b.ready=none")
	w.sees(0)
	w.is("starting 0s, running 0s", 1)
}

// An agent that starts finds containers that have run for long.
func TestATaskInRotationStaysThereOverAnAgentsRestart(t *testing.T) {
	id := model.ServiceID{Stack: model.DefaultStack, Name: "web"}
	for _, test := range []struct {
		what   string
		record []model.Task
		after  time.Duration
		want   string
	}{
		{"it was in rotation", []model.Task{{Service: id, Started: t0, State: model.Running, Since: t0.Add(2 * time.Second)}}, 3 * time.Second, "running 2s"},
		{"it waited", []model.Task{{Service: id, Started: t0, State: model.Starting, Since: t0}}, 3 * time.Second, "starting 0s"},
		{"it was in rotation in an earlier life", []model.Task{{Service: id, Started: t0.Add(-time.Hour), State: model.Running, Since: t0}}, 3 * time.Second, "starting 0s"},
		{"another service's was", []model.Task{{Started: t0, State: model.Running, Since: t0}}, 3 * time.Second, "starting 0s"},
		{"nothing is known of it", nil, 3 * time.Second, "starting 0s"},
		{"nothing is known of it, and it has run for long", nil, 30 * time.Second, "running 0s"},
	} {
		t.Run(test.what, func(t *testing.T) {
			w := newWaiter(t, "service=web ports=80", test.record...)
			w.sees(test.after)
			w.is(test.want, 1) // tried all the same: for the problem, if there is one
		})
	}
}

func TestPausedContainersAreNotTriedAndHaveTheirTimeAfterwards(t *testing.T) {
	w := newWaiter(t, "service=web ports=80")
	w.sees(0)
	w.c.State.Paused = true
	w.sees(time.Second)
	w.is("paused 1s", 0)
	w.c.State.Paused = false
	w.sees(time.Minute)
	w.is("starting 0s", 1)
	if p := w.v.probes()[0]; !p.since.Equal(t0.Add(time.Minute)) {
		t.Errorf("its limit counts from %s", p.since.Sub(t0))
	}
	w.hears(0, time.Minute+time.Second, accepted, "")
	w.is("running 1m1s", 0)
	w.c.State.Paused = true
	w.sees(2 * time.Minute)
	w.c.State.Paused = false
	w.sees(3 * time.Minute)
	w.is("running 3m0s", 0) // it was ready before
}

func TestWhatLeavesIsNotTried(t *testing.T) {
	w := newWaiter(t, "service=web ports=80")
	w.sees(0)
	w.v.apply(signaledAt(time.Second), t0.Add(time.Second))
	w.is("draining 1s", 0)
	w.v.apply(event{effect: gone, container: "one", at: t0.Add(2 * time.Second)}, t0.Add(2*time.Second))
	if len(w.v.readiness.waits) > 0 {
		t.Errorf("what is gone is remembered: %v", w.v.readiness.waits)
	}
}

// A container that dies before it listens has come into rotation never.
func TestOneThatIsNeverReadyDoesNotFlap(t *testing.T) {
	w := newWaiter(t, "service=web ports=80")
	for i := range 2 * freeJoins {
		w.c.State.StartedAt = t0.Add(time.Duration(i) * time.Second).Format(time.RFC3339Nano)
		w.sees(time.Duration(i) * time.Second)
	}
	if n := w.v.local().Containers[0].Notices; len(n) > 0 {
		t.Errorf("notices %v", n)
	}
	w.hears(0, 20*time.Second, accepted, "")
	w.is("running 20s", 0)
}

func TestWhatATaskLacks(t *testing.T) {
	listeners := func(list string) (ls []sockets.Listener) {
		if list == "unknown" {
			return nil
		}
		ls = []sockets.Listener{}
		for _, s := range strings.Fields(list) {
			proto := model.TCP
			if rest, udp := strings.CutSuffix(s, "/udp"); udp {
				s, proto = rest, model.UDP
			}
			ls = append(ls, sockets.Listener{Protocol: proto, Addr: netip.MustParseAddrPort(s)})
		}
		return ls
	}
	for _, test := range []struct {
		left    []uint16
		proto   model.Protocol
		listens string
		want    string
	}{
		{[]uint16{80}, model.TCP, "", "its port 80/tcp accepts no connections: nothing listens; see its log"},
		{[]uint16{80, 81}, model.TCP, "unknown", "its port 80/tcp, 81/tcp accepts no connections: see its log"},
		{[]uint16{80}, model.TCP, "[::]:8000 0.0.0.0:8000", "accepts no connections; it listens on 8000/tcp: name that in shoal.ports or shoal.publish"},
		{[]uint16{80}, model.TCP, "127.0.0.1:80 0.0.0.0:8000", "it listens on 127.0.0.1:80 alone, which is inside of the container: have it listen on 0.0.0.0"},
		{[]uint16{80}, model.TCP, "127.0.0.11:80 [::1]:9", "nothing listens"},
		{[]uint16{80}, model.TCP, "0.0.0.0:80", "though it is listened on there: see the container's own firewall"},
		{[]uint16{53}, model.UDP, "0.0.0.0:5353/udp 0.0.0.0:50000/udp", "no socket is bound to its port 53/udp; it listens on 5353/udp"},
		{nil, model.TCP, "127.0.0.1:9000", "it listens on no port that others reach; it listens on 127.0.0.1:9000 alone"},
		{nil, model.TCP, "", "it listens on no port that others reach: see its log"},
	} {
		got := finding(test.left, test.proto, listeners(test.listens))
		if !strings.Contains(got, test.want) || !strings.HasSuffix(got, "; shoal.ready=none does not wait") {
			t.Errorf("%v of %q: %s; want %s", test.left, test.listens, got, test.want)
		}
	}
}

func TestPortsAreListedUpToAFew(t *testing.T) {
	p := plan{proto: model.TCP, all: []uint16{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}}
	want := "waits until each of its ports accepts connections: 1/tcp, 2/tcp, 3/tcp, 4/tcp, 5/tcp, 6/tcp, 7/tcp, 8/tcp, and 2 more"
	if diff := cmp.Diff(want, p.reason()); diff != "" {
		t.Error(diff)
	}
}
