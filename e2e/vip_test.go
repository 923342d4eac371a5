//go:build e2e

package e2e

import (
	"strings"
	"syscall"
	"testing"
)

// TestVIPStays: through scale to zero, an agent that crashes, and the other order of coming back.
func TestVIPStays(t *testing.T) {
	h := home(t)
	names := []string{"stay-1", "stay-2", "stay-3"}
	vips := map[string]string{}
	for _, name := range names[:2] {
		h.run(name, "-l shoal.service="+name)
		vips[name] = h.vip(name)
	}
	h.Docker("rm", "-f", names[0], names[1])
	for _, name := range names[:2] {
		h.task(name, "")
		if got := h.vip(name); got != vips[name] {
			t.Errorf("%s without a task has %s, had %s", name, got, vips[name])
		}
		if got := h.client().dig("+short", name+".mesh.internal"); got != vips[name] {
			t.Errorf("%s without a task is %q in the DNS, had %s", name, got, vips[name])
		}
	}
	h.RestartAgent()
	h.ready()
	for _, name := range []string{names[2], names[1], names[0]} {
		h.run(name, "-l shoal.service="+name)
	}
	for _, name := range names[:2] {
		if got := h.vip(name); got != vips[name] {
			t.Errorf("%s came back with %s, had %s", name, got, vips[name])
		}
		h.answered("http://"+vips[name]+":8000/", name)
	}
	if got := h.vip(names[2]); got == vips[names[0]] || got == vips[names[1]] {
		t.Errorf("a new service was given %s, which is another's", got)
	}
}

// TestFixedVIP asks for addresses: one that is free, one that is taken, until it is given back, and one that is not the pool's.
func TestFixedVIP(t *testing.T) {
	h := home(t)
	h.KillAgent(syscall.SIGTERM)
	h.StartAgent("--vip-rest", "15s")
	h.ready()
	const fixed = "10.96.4.2"
	h.run("owner", "-l shoal.service=owner -l shoal.vip="+fixed)
	if got := h.vip("owner"); got != fixed {
		t.Fatalf("a service that asks for %s has %s", fixed, got)
	}
	h.answered("http://"+fixed+":8000/", "owner")
	h.run("rival", "-l shoal.service=rival -l shoal.vip="+fixed)
	if reason := h.problem("default/rival", "vip-taken"); !strings.Contains(reason, fixed) || !strings.Contains(reason, "default/owner") {
		t.Errorf("a service that asks for another's address: %s", reason)
	}
	h.run("stranger", "-l shoal.service=stranger -l shoal.vip=10.97.0.1")
	if reason := h.problem("stranger", "vip-outside-pool"); !strings.Contains(reason, "10.97.0.1") || !strings.Contains(reason, "10.96.0.0/16") {
		t.Errorf("a service that asks for an address out of the pool: %s", reason)
	}
	h.answered("http://"+fixed+":8000/", "owner")

	if out, err := h.TryShoal("service", "rm", "owner"); err == nil || !strings.Contains(err.Error(), "task") {
		t.Errorf("a service with a task was removed: %q %v", out, err)
	}
	h.Docker("rm", "-f", "owner")
	h.refused("http://" + fixed + ":8000/")
	if reason := h.problem("default/rival", "vip-taken"); !strings.Contains(reason, "default/owner") {
		t.Errorf("the address of a service without tasks is its own still; the other's problem: %s", reason)
	}
	h.Shoal("service", "rm", "owner")
	if reason := h.problem("default/rival", "vip-resting"); !strings.Contains(reason, fixed) {
		t.Errorf("clients may still use the address for the service that had it; the other's problem: %s", reason)
	}
	h.answered("http://"+fixed+":8000/", "rival")
	h.noProblem("default/rival")
	if list := h.Shoal("services"); strings.Contains(list, "default/owner") {
		t.Errorf("a removed service is listed:\n%s", list)
	}
	if out, err := h.TryShoal("service", "rm", "owner"); err == nil {
		t.Errorf("a service that is not there was removed: %q", out)
	}
}
