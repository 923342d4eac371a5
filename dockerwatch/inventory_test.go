package dockerwatch

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/network"
	"github.com/google/go-cmp/cmp"

	"shoal/model"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func noAddrs(string) []netip.Addr { return nil }

func newInventory() *inventory {
	return &inventory{
		node:       "host",
		nodeAddr:   func() netip.Addr { return netip.MustParseAddr("192.0.2.1") },
		limits:     testLimits,
		containers: map[string]*facts{},
		dampers:    map[string]*damper{},
		networks: networksOf([]network.Summary{
			{ID: "idbridge", Name: "bridge", Driver: "bridge"},
			{ID: "idfront", Name: "front", Driver: "bridge"},
			{ID: "idshop_back", Name: "shop_back", Driver: "bridge"},
			{ID: "idlan", Name: "lan", Driver: "macvlan"},
			{ID: "idswarm", Name: "swarm", Driver: "overlay"},
		}, noAddrs),
		leaving:  map[string]leave{},
		early:    map[string][]event{},
		dead:     map[string]time.Time{},
		stale:    map[string]bool{},
		unseen:   map[string][]string{},
		recorded: func(string) (c model.Container, known bool) { return c, false },
	}
}

// inspected is a running container called id, started at t0, on networks given
// as "name=address", with labels as in labelsOf.
func inspected(id, labels string, networks ...string) container.InspectResponse {
	c := container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{
			ID:         id,
			Name:       "/" + id,
			State:      &container.State{Running: true, StartedAt: t0.Format(time.RFC3339Nano)},
			HostConfig: &container.HostConfig{},
		},
		Config:          &container.Config{Labels: labelsOf(labels)},
		NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{}},
	}
	for _, n := range networks {
		name, addr, _ := strings.Cut(n, "=")
		e := &network.EndpointSettings{NetworkID: "id" + name, IPAddress: addr}
		if strings.Contains(addr, ":") {
			e.IPAddress, e.GlobalIPv6Address = "", addr
		}
		c.NetworkSettings.Networks[name] = e
	}
	return c
}

func (v *inventory) see(c container.InspectResponse, now time.Time) {
	if f := factsOf(c, nil, v.limits, now); f != nil {
		v.put(f, now)
	} else {
		v.remove(c.ID)
	}
}

func TestWhereATaskIsReached(t *testing.T) {
	for _, test := range []struct {
		name, labels string
		mode         string // of the network; "" is the default
		networks     []string
		want         string // an address, or "CODE[: part of the reason]" why there is none
	}{
		{name: "on its only network", labels: "service=web", networks: []string{"bridge=172.17.0.2"}, want: "172.17.0.2"},
		{name: "on the one it names", labels: "service=web network=front", networks: []string{"bridge=172.17.0.2", "front=172.18.0.2"}, want: "172.18.0.2"},
		{name: "on the one it names as the compose file does", labels: "service=web network=back com.docker.compose.project=shop",
			networks: []string{"bridge=172.17.0.2", "shop_back=172.19.0.2"}, want: "172.19.0.2"},
		{name: "on the one it names in full", labels: "service=web network=shop_back com.docker.compose.project=shop",
			networks: []string{"bridge=172.17.0.2", "shop_back=172.19.0.2"}, want: "172.19.0.2"},
		{name: "nowhere on several", labels: "service=web", networks: []string{"bridge=172.17.0.2", "front=172.18.0.2"},
			want: "network-ambiguous: several networks (bridge, front): say which to use with the label shoal.network=bridge"},
		{name: "nowhere on a network it is not on", labels: "service=web network=back", networks: []string{"bridge=172.17.0.2", "front=172.18.0.2"},
			want: "network-missing: it is on bridge, front"},
		{name: "nowhere without an address", labels: "service=web", networks: []string{"bridge="}, want: "address-missing"},
		{name: "nowhere without network", labels: "service=web", mode: "none", networks: []string{"none="}, want: "address-missing"},
		{name: "on the bridge beside others", labels: "service=web", networks: []string{"bridge=172.17.0.2", "lan=192.0.2.7"}, want: "172.17.0.2"},
		{name: "nowhere on macvlan", labels: "service=web", networks: []string{"lan=192.0.2.7"}, want: "network-unusable: lan (macvlan)"},
		{name: "nowhere on the overlay it names", labels: "service=web network=swarm", networks: []string{"bridge=172.17.0.2", "swarm=10.0.0.7"},
			want: "network-unusable: swarm (overlay)"},
		{name: "nowhere on a network nobody knows", labels: "service=web", networks: []string{"odd=10.0.0.7"}, want: "network-unusable: odd (unknown driver)"},
		{name: "nowhere without an address of the VIP's kind", labels: "service=web", networks: []string{"front=fd00::2"}, want: "address-missing: the kind of the VIPs"},
		{name: "at IPv6 without VIP", labels: "service=web mode=dnsrr", networks: []string{"front=fd00::2"}, want: "fd00::2"},
		{name: "at the host", labels: "service=web", mode: "host", networks: []string{"host="}, want: "192.0.2.1"},
		{name: "nowhere at a network of the host", labels: "service=web network=front", mode: "host", want: "labels-invalid: leave the label out"},
		{name: "where the one it joined is", labels: "service=web", mode: "container:other", want: "172.17.0.9"},
		{name: "nowhere when the one it joined is gone", labels: "service=web", mode: "container:missing", want: "network-owner-gone: does not run"},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := newInventory()
			v.see(inspected("other", "", "bridge=172.17.0.9"), t0)
			c := inspected("one", test.labels, test.networks...)
			c.HostConfig.NetworkMode = container.NetworkMode(test.mode)
			v.see(c, t0)
			got := v.local().Containers[0]
			if a, err := netip.ParseAddr(test.want); err == nil {
				if len(got.Tasks) != 1 || got.Tasks[0].Addr != a || got.Problem != "" {
					t.Errorf("want %s, got %+v", a, got)
				}
			} else if code, says, _ := strings.Cut(test.want, ": "); len(got.Tasks) != 0 || string(got.ProblemCode) != code || !strings.Contains(got.Problem, says) {
				t.Errorf("want the problem %s, got %+v", test.want, got)
			}
		})
	}
}

func TestHostAddressNotKnownYetIsAProblem(t *testing.T) {
	v := newInventory()
	v.nodeAddr = func() netip.Addr { return netip.Addr{} }
	c := inspected("one", "service=web")
	c.HostConfig.NetworkMode = "host"
	v.see(c, t0)
	if got := v.local().Containers[0]; got.ProblemCode != model.AddressMissing {
		t.Errorf("%+v", got)
	}
}

func TestTaskOfAJoinedNetworkFollowsItsOwner(t *testing.T) {
	v := newInventory()
	joiner := inspected("joiner", "service=web")
	joiner.HostConfig.NetworkMode = "container:owner"
	joiner.State.StartedAt = t0.Add(time.Second).Format(time.RFC3339Nano)
	owner := inspected("owner", "", "bridge=172.17.0.2")
	v.see(owner, t0)
	v.see(joiner, t0)
	find := func() model.Container {
		l := v.local()
		return l.Containers[slices.IndexFunc(l.Containers, func(c model.Container) bool { return c.ID == "joiner" })]
	}
	if c := find(); len(c.Tasks) != 1 || c.Tasks[0].Addr.String() != "172.17.0.2" || len(c.Addrs) != 0 {
		t.Fatalf("joined: %+v", c)
	}
	v.apply(event{effect: gone, container: "owner", at: t0.Add(time.Minute)}, t0.Add(time.Minute))
	if c := find(); len(c.Tasks) != 0 || c.ProblemCode != model.NetworkOwnerGone {
		t.Fatalf("owner gone: %+v", c)
	}
	owner.State.StartedAt = t0.Add(2 * time.Minute).Format(time.RFC3339Nano)
	v.see(owner, t0.Add(2*time.Minute))
	if c := find(); len(c.Tasks) != 0 || c.ProblemCode != model.NetworkOwnerGone || !strings.Contains(c.Problem, "restart this one") {
		t.Fatalf("owner restarted: %+v", c)
	}
	joiner.State.StartedAt = t0.Add(3 * time.Minute).Format(time.RFC3339Nano)
	v.see(joiner, t0.Add(3*time.Minute))
	if c := find(); len(c.Tasks) != 1 || c.Problem != "" {
		t.Fatalf("both restarted: %+v", c)
	}
}

func TestAContainerThatJoinsItselfEndsSomewhere(t *testing.T) {
	v := newInventory()
	c := inspected("one", "service=web")
	c.HostConfig.NetworkMode = "container:one"
	v.see(c, t0)
	if got := v.local().Containers[0]; got.ProblemCode != model.NetworkOwnerGone {
		t.Errorf("%+v", got)
	}
}

func TestStateOfATask(t *testing.T) {
	for _, test := range []struct {
		health, labels string
		paused, told   bool
		want           model.State
	}{
		{want: model.Running},
		{health: "none", want: model.Running},
		{health: "starting", want: model.Starting},
		{health: "healthy", want: model.Running},
		{health: "unhealthy", want: model.Unhealthy},
		{health: "something new", want: model.Starting},
		{health: "starting", labels: " health=none", want: model.Running},
		{health: "unhealthy", labels: " health=none", want: model.Running},
		{health: "healthy", paused: true, want: model.Paused},
		{health: "unhealthy", labels: " health=none", paused: true, want: model.Paused},
		{health: "unhealthy", paused: true, told: true, want: model.Draining},
	} {
		v := newInventory()
		c := inspected("one", "service=web"+test.labels, "bridge=172.17.0.2")
		c.State.Paused = test.paused
		if test.health != "" {
			c.State.Health = &container.Health{Status: test.health}
		}
		v.see(c, t0)
		if test.told {
			v.leaving["one"] = leave{since: t0.Add(time.Second)}
		}
		got := v.local().Containers[0].Tasks[0]
		if got.State != test.want || test.told != got.Since.Equal(t0.Add(time.Second)) {
			t.Errorf("%+v: %s since %s", test, got.State, got.Since)
		}
	}
}

func TestSinceIsWhenTheStateCame(t *testing.T) {
	v := newInventory()
	c := inspected("one", "service=web", "bridge=172.17.0.2")
	c.State.Health = &container.Health{}
	var got []string
	step := func(after time.Duration, status string, paused bool) {
		c.State.Health.Status, c.State.Paused = status, paused
		v.see(c, t0.Add(after))
		task := v.local().Containers[0].Tasks[0]
		got = append(got, fmt.Sprint(task.State, " ", task.Since.Sub(t0)))
	}
	step(1*time.Second, "starting", false)
	step(2*time.Second, "healthy", false)
	step(3*time.Second, "healthy", false)
	step(4*time.Second, "healthy", true)
	step(5*time.Second, "healthy", false)
	step(6*time.Second, "unhealthy", false)
	want := []string{"starting 0s", "running 2s", "running 2s", "paused 4s", "running 5s", "unhealthy 6s"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWhichSignalsBeginToDrain(t *testing.T) {
	for _, test := range []struct {
		stopSignal, signal string
		drains             bool
	}{
		{"", "15", true}, {"", "TERM", true}, {"", "SIGTERM", true},
		{"", "2", true}, {"", "3", true}, {"", "9", true},
		{"", "1", false}, {"", "10", false}, {"", "28", false},
		{"SIGUSR1", "10", true}, {"USR1", "10", true}, {"10", "10", true},
		{"SIGUSR1", "15", true}, {"SIGUSR1", "12", false},
		{"SIGRTMIN+3", "37", true}, {"RTMAX-1", "63", true}, {"SIGRTMIN", "34", true}, {"SIGRTMIN+3", "38", false},
	} {
		v := newInventory()
		c := inspected("one", "service=web", "bridge=172.17.0.2")
		c.Config.StopSignal = test.stopSignal
		v.see(c, t0)
		e, ok := eventOf(events.Message{Type: "container", Action: "kill", TimeNano: t0.Add(time.Second).UnixNano(),
			Actor: events.Actor{ID: "one", Attributes: map[string]string{"signal": test.signal}}})
		if !ok {
			t.Fatal("kill is not followed")
		}
		v.apply(e, t0.Add(time.Second))
		if got := v.local().Containers[0].Tasks[0].State; (got == model.Draining) != test.drains {
			t.Errorf("%+v: %s", test, got)
		}
	}
}

func signaledAt(after time.Duration) event {
	return event{effect: signaled, container: "one", signal: syscall.SIGTERM, at: t0.Add(after)}
}

func TestAContainerThatIgnoresItsSignalIsBackInRotation(t *testing.T) {
	v := newInventory()
	c := inspected("one", "service=web drain=5s", "bridge=172.17.0.2")
	timeout := 20
	c.Config.StopTimeout = &timeout
	v.see(c, t0)
	v.apply(signaledAt(time.Second), t0.Add(time.Second))
	v.apply(signaledAt(2*time.Second), t0.Add(2*time.Second)) // the second signal does not begin it anew
	if got := v.local().Containers[0].Tasks[0]; !got.Since.Equal(t0.Add(time.Second)) {
		t.Errorf("draining since %v", got.Since)
	}
	due := time.Second + 20*time.Second + 5*time.Second + time.Minute
	if back := v.expireStops(t0.Add(due - 1)); len(back) != 0 {
		t.Error("back before its time")
	}
	if back := v.expireStops(t0.Add(due)); len(back) != 1 || v.local().Containers[0].Tasks[0].State != model.Running {
		t.Error("not back in time")
	}
	v.apply(signaledAt(time.Second), t0.Add(due))
	if v.local().Containers[0].Tasks[0].State != model.Running {
		t.Error("an old signal, told again, made it drain")
	}
	v.apply(signaledAt(due), t0.Add(due))
	if v.local().Containers[0].Tasks[0].State != model.Draining {
		t.Error("a new signal did not make it drain")
	}

	forever := -1
	c.Config.StopTimeout = &forever
	v.see(c, t0)
	if back := v.expireStops(t0.Add(1000 * time.Hour)); len(back) != 0 {
		t.Error("back, though its engine waits for ever")
	}
}

func TestARestartEndsDraining(t *testing.T) {
	v := newInventory()
	c := inspected("one", "service=web", "bridge=172.17.0.2")
	v.see(c, t0)
	v.apply(signaledAt(time.Second), t0)
	c.State.StartedAt = t0.Add(2 * time.Second).Format(time.RFC3339Nano)
	v.see(c, t0.Add(2*time.Second))
	v.apply(signaledAt(time.Second), t0.Add(2*time.Second)) // of before the restart
	if got := v.local().Containers[0].Tasks[0]; got.State != model.Running || !got.Started.Equal(t0.Add(2*time.Second)) {
		t.Errorf("%+v", got)
	}
	v.apply(event{effect: gone, container: "one", at: t0.Add(time.Second)}, t0.Add(2*time.Second))
	if len(v.local().Containers) != 1 {
		t.Error("the death of before the restart took it away")
	}
	v.apply(event{effect: gone, container: "one", at: t0.Add(3 * time.Second)}, t0.Add(3*time.Second))
	if len(v.local().Containers) != 0 {
		t.Error("its death did not take it away")
	}
}

// TestStopsAfterTheClockWasSetBack: a container was started in the future, as it seems then, and is told to stop and ends.
func TestStopsAfterTheClockWasSetBack(t *testing.T) {
	v := newInventory()
	c := inspected("one", "service=web", "bridge=172.17.0.2")
	v.see(c, t0)
	back := t0.Add(-time.Hour)
	v.apply(signaledAt(-time.Hour), back)
	v.see(c, back.Add(time.Second))
	if got := v.local().Containers[0].Tasks[0]; got.State != model.Draining {
		t.Errorf("told to stop: %+v", got)
	}
	v.apply(event{effect: gone, container: "one", at: back.Add(2 * time.Second)}, back.Add(2*time.Second))
	if len(v.local().Containers) != 0 {
		t.Error("its death did not take it away")
	}
}

func TestOneBadContainerLeavesTheOthersAlone(t *testing.T) {
	v := newInventory()
	v.see(inspected("a", "service=web", "bridge=172.17.0.2"), t0)
	v.see(inspected("b", "service=web services.admin.ports=0 stack=s", "bridge=172.17.0.3"), t0)
	v.see(inspected("c", "com.docker.compose.project=shop", "bridge=172.17.0.4", "front=fd00::4"), t0)
	var got []string
	for _, c := range v.local().Containers {
		got = append(got, fmt.Sprintf("%s %s %v tasks=%d problem=%t", c.Name, c.Stack, c.Addrs, len(c.Tasks), c.Problem != ""))
	}
	want := []string{
		"a default [172.17.0.2] tasks=1 problem=false",
		"b s [172.17.0.3] tasks=0 problem=true",
		"c shop [172.17.0.4 fd00::4] tasks=0 problem=false",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestContainersThatDoNotRunAreNotThere(t *testing.T) {
	for what, change := range map[string]func(*container.InspectResponse){
		"exited":     func(c *container.InspectResponse) { c.State.Running = false },
		"restarting": func(c *container.InspectResponse) { c.State.Restarting = true },
		"dead":       func(c *container.InspectResponse) { c.State.Dead = true },
		"stateless":  func(c *container.InspectResponse) { c.State = nil },
		"empty":      func(c *container.InspectResponse) { *c = container.InspectResponse{} },
	} {
		c := inspected("one", "service=web", "bridge=172.17.0.2")
		change(&c)
		if f := factsOf(c, nil, testLimits, t0); f != nil {
			t.Errorf("%s: %+v", what, f)
		}
	}
}

func TestNetworksOfTheBridgeDriver(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef"
	got := bridges(networksOf([]network.Summary{
		{ID: id, Name: "front", Driver: "bridge", IPAM: network.IPAM{Config: []network.IPAMConfig{
			{Subnet: "fd00::/64", Gateway: "fd00::1/64"}, {Subnet: "172.18.0.0/16", Gateway: "172.18.0.1"}, {Subnet: "odd", Gateway: "odd"}}}},
		{ID: "1" + id, Name: "bridge", Driver: "bridge", Options: map[string]string{"com.docker.network.bridge.default_bridge": "true"},
			IPAM: network.IPAM{Config: []network.IPAMConfig{{Subnet: "172.17.0.1/16"}}}},
		{ID: "2" + id, Name: "back", Driver: "bridge", Options: map[string]string{"com.docker.network.bridge.name": "br0"}},
		{ID: "3" + id, Name: "lan", Driver: "macvlan"},
		{ID: "4" + id, Name: "host", Driver: "host"},
	}, func(bridge string) []netip.Addr {
		return map[string][]netip.Addr{
			"docker0":         {netip.MustParseAddr("fe80::1"), netip.MustParseAddr("172.17.0.1")},
			"br-0123456789ab": {netip.MustParseAddr("172.18.0.9")}, // the engine knows better
		}[bridge]
	}))
	want := []model.Network{
		{Name: "back", Bridge: "br0"},
		{Name: "bridge", Bridge: "docker0", Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")},
			Gateway: []netip.Addr{netip.MustParseAddr("172.17.0.1")}},
		{Name: "front", Bridge: "br-0123456789ab",
			Subnets: []netip.Prefix{netip.MustParsePrefix("172.18.0.0/16"), netip.MustParsePrefix("fd00::/64")},
			Gateway: []netip.Addr{netip.MustParseAddr("172.18.0.1"), netip.MustParseAddr("fd00::1")}},
	}
	if diff := cmp.Diff(want, got, append(compare, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }))...); diff != "" {
		t.Error(diff)
	}
}

// The engine says for a while that a container runs whose process has ended.
func TestDeadContainerStaysDeadUntilItStartsAgain(t *testing.T) {
	v := newInventory()
	web := inspected("web", "shoal.service=web", "bridge=172.17.0.2")
	now := t0.Add(time.Minute)
	runs := func() bool { return len(v.local().Containers) == 1 }
	v.see(web, now)

	if v.end(life{"web", t0.Add(-time.Hour)}) != nil || !runs() {
		t.Fatal("the end of an earlier life ended this one")
	}
	if v.end(life{"web", t0}) == nil || runs() {
		t.Fatal("the end of its life did not end it")
	}
	v.see(web, now)
	v.keep(map[string]bool{"web": true})
	v.see(web, now)
	if runs() {
		t.Fatal("it runs again since the engine has not noticed")
	}
	web.State.StartedAt = now.Format(time.RFC3339Nano)
	v.see(web, now)
	if !runs() {
		t.Fatal("started again, it does not run")
	}
}
