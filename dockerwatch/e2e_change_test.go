//go:build e2e

package dockerwatch

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"shoal/model"
)

// spec is that of the network of the test, in a subnet that nothing else of
// this machine is in.
func (h *host) spec(name, subnet string) NetworkSpec {
	p := netip.MustParsePrefix(subnet)
	return NetworkSpec{
		Name:    h.prefix + name,
		Subnet:  p,
		Gateway: p.Addr().Next(),
		MTU:     1412,
		Bridge:  fmt.Sprintf("dwt%d%.4s", os.Getpid(), name),
	}
}

func (h *host) ensure(spec NetworkSpec) {
	h.t.Helper()
	if err := h.w.EnsureNetwork(h.t.Context(), spec); err != nil {
		h.t.Fatal(err)
	}
}

// refused fails unless the error says all of this.
func (h *host) refused(err error, parts ...string) {
	h.t.Helper()
	if err == nil {
		h.t.Fatalf("not refused; want %q", parts)
	}
	for _, p := range parts {
		if p = strings.ReplaceAll(p, "@", h.prefix); !strings.Contains(err.Error(), p) {
			h.t.Errorf("%v\nwant %q", err, p)
		}
	}
}

func (h *host) networkID(name string) string {
	h.t.Helper()
	return h.docker("network inspect -f {{.Id}} @" + name)
}

func TestEngineMakesANetwork(t *testing.T) {
	h := newHost(t, engineSocket)
	spec := h.spec("mesh", "10.203.17.0/29")
	for _, a := range []string{"10.203.17.3", "10.203.17.4", "10.203.17.6"} {
		spec.Reserve = append(spec.Reserve, netip.MustParseAddr(a))
	}
	h.ensure(spec)
	id := h.networkID("mesh")
	h.ensure(spec)
	if again := h.networkID("mesh"); again != id {
		t.Errorf("made anew without need: %s, was %s", again, id)
	}
	h.until("the network", func() bool {
		for _, n := range h.local.Networks {
			if n.Name == spec.Name {
				return n.Bridge == spec.Bridge && n.Subnets[0] == spec.Subnet && n.Gateway[0] == spec.Gateway
			}
		}
		return false
	})
	addrs := interfaceAddrs(spec.Bridge)
	if len(addrs) == 0 || addrs[0] != spec.Gateway {
		t.Errorf("interface %s has %v, want %s", spec.Bridge, addrs, spec.Gateway)
	}
	h.run("one", "--network @mesh")
	h.run("two", "--network @mesh")
	if one, two := h.addr("one", spec.Name), h.addr("two", spec.Name); one != "10.203.17.2" || two != "10.203.17.5" {
		t.Errorf("containers at %s and %s, want those that are not reserved", one, two)
	}
	if out := h.docker("exec @one ip link show eth0"); !strings.Contains(out, "mtu 1412") {
		t.Errorf("%s: want mtu 1412", out)
	}
	if out, err := exec.Command("docker", "run", "--rm", "--network", spec.Name, image, "sleep", "0").CombinedOutput(); err == nil {
		t.Errorf("a third container has an address that is reserved: %s", out)
	}
}

func TestEngineRemakesOnlyItsOwnUnusedNetwork(t *testing.T) {
	h := newHost(t, engineSocket)
	spec := h.spec("mesh", "10.203.18.0/24")
	h.ensure(spec)
	id := h.networkID("mesh")
	spec.MTU = 1300
	h.ensure(spec)
	if h.networkID("mesh") == id {
		t.Error("not made anew for its MTU")
	}
	h.docker("create --name @created --network @mesh " + image + " sleep 1000")
	h.run("web", "--network @mesh")
	if out := h.docker("exec @web ip link show eth0"); !strings.Contains(out, "mtu 1300") {
		t.Errorf("%s: want mtu 1300", out)
	}

	id = h.networkID("mesh")
	next := h.spec("mesh", "10.203.19.0/24")
	for _, state := range []string{"running", "exited"} {
		if state == "exited" {
			h.docker("kill @web")
		}
		h.refused(h.w.EnsureNetwork(t.Context(), next), "make the Docker network @mesh",
			"its subnet is 10.203.18.0/24, not 10.203.19.0/24", "remove @web, or take each off it with docker network disconnect @mesh NAME")
		h.refused(h.w.RemoveNetwork(t.Context(), spec.Name), "remove the Docker network @mesh", "remove @web,")
		if h.networkID("mesh") != id {
			t.Errorf("made anew with a container that is %s", state)
		}
	}
	h.docker("network disconnect @mesh @web") // as the error says

	h.docker("network create --subnet 10.203.19.128/25 @other")
	h.refused(h.w.EnsureNetwork(t.Context(), next), "10.203.19.0/24 overlaps network @other (10.203.19.128/25)")
	if h.networkID("mesh") != id {
		t.Error("removed though it could not be made anew")
	}
	// That the engine refuses it is so.
	if out, err := exec.Command("docker", "network", "create", "--subnet", "10.203.19.0/24", h.prefix+"third").CombinedOutput(); err == nil {
		t.Errorf("the engine takes networks that overlap: %s", out)
	}
	h.docker("network rm @other")
	h.ensure(next)
	h.docker("network connect @mesh @web")
	for i, name := range []string{"web", "created"} { // the second was never on the network that is gone
		h.docker("start @" + name)
		if got, want := h.addr(name, spec.Name), fmt.Sprintf("10.203.19.%d", i+2); got != want {
			t.Errorf("%s started at %s, want %s", name, got, want)
		}
	}
	h.docker("rm -f @web @created")
	for range 2 { // the second time there is none
		if err := h.w.RemoveNetwork(t.Context(), spec.Name); err != nil {
			t.Error(err)
		}
	}
	if _, err := net.InterfaceByName(spec.Bridge); err == nil {
		t.Errorf("interface %s is still there", spec.Bridge)
	}
}

func TestEngineLeavesNetworksOfOthersAlone(t *testing.T) {
	h := newHost(t, engineSocket)
	spec := h.spec("mesh", "10.203.20.0/24")
	id := h.docker("network create --subnet 10.203.20.0/24 --gateway 10.203.20.1 @mesh")
	h.refused(h.w.EnsureNetwork(t.Context(), spec), "its MTU is the default, not 1412", "not made by shoal", "docker network rm @mesh")
	h.refused(h.w.RemoveNetwork(t.Context(), spec.Name), "not made by shoal")
	if h.networkID("mesh") != id {
		t.Error("made anew")
	}
	h.docker("network rm @mesh")

	id = h.docker("network create --subnet 10.203.20.0/24 --gateway 10.203.20.1 -o " + optionMTU + "=1412 -o " + optionBridge + "=" + spec.Bridge + " @mesh")
	h.ensure(spec) // as it is to be, whoever made it
	if h.networkID("mesh") != id {
		t.Error("made anew")
	}
}

func TestEngineAwayMakesNoNetwork(t *testing.T) {
	w, err := New(Options{Host: "unix://" + t.TempDir() + "/docker.sock", Node: "host", Pool: netip.MustParsePrefix("10.96.0.0/16")})
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, prefix: "dwt-"}
	h.refused(w.EnsureNetwork(t.Context(), h.spec("mesh", "10.203.21.0/24")), "make the Docker network @mesh", "docker.sock")
	h.refused(w.Stop(t.Context(), "web"), "stop container web", "docker.sock")
}

func TestEngineDrainThenStop(t *testing.T) {
	h := newHost(t, engineSocket)
	id := h.run("web", "--stop-timeout 3 -l shoal.service=web -l shoal.drain=30")
	h.wants("web:running")
	before := time.Now()
	tasks, err := h.w.Drain(t.Context(), id[:12])
	if err != nil || len(tasks) != 1 || tasks[0].State != model.Draining || tasks[0].Container != id ||
		tasks[0].Since.Before(before) || !tasks[0].DrainDeadline().After(before.Add(30*time.Second)) {
		t.Fatalf("%v, %+v", err, tasks)
	}
	h.wants("web:draining")
	h.docker("pause @web") // whatever Drain did to it has been told before this
	h.docker("unpause @web")
	if err := h.w.Undrain(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	h.wants("web:running")

	if tasks, err = h.w.Drain(t.Context(), h.prefix+"web"); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error)
	go func() { stopped <- h.w.Stop(t.Context(), h.prefix+"web") }()
	// Its process ignores the signal: there is time to find that it was sent.
	deadline := time.Now().Add(10 * time.Second)
	for err = nil; err == nil && time.Now().Before(deadline); {
		if err = h.w.Undrain(t.Context(), id); err == nil {
			tasks, err = h.w.Drain(t.Context(), id)
		}
	}
	h.refused(err, "put container "+id, "told to stop at")
	if now := h.container("web").Tasks[0]; now.State != model.Draining || !now.Since.Equal(tasks[0].Since) {
		t.Errorf("%s since %v, want since %v", now.State, now.Since, tasks[0].Since)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if got := h.docker("inspect -f {{.State.Running}} @web"); got != "false" {
		t.Errorf("running: %s", got)
	}
	h.wants("")
	if err := h.w.Stop(t.Context(), id); err != nil {
		t.Errorf("what has stopped is stopped: %v", err)
	}
	_, err = h.w.Drain(t.Context(), h.prefix+"web")
	h.refused(err, "drain container @web", "no such container runs")
	h.refused(h.w.Stop(t.Context(), h.prefix+"nobody"), "stop container @nobody", "no such container")
}

func TestEngineGatewayOfDocker0(t *testing.T) {
	h := newHost(t, engineSocket)
	h.until("the network", func() bool { return len(h.local.Networks) == 1 })
	n := h.local.Networks[0]
	if len(n.Gateway) != 1 || !n.Subnets[0].Contains(n.Gateway[0]) {
		t.Errorf("%+v: want the address of docker0", n)
	}
}
