//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestDownLeavesTheHostAsItWas compares all that a host's kernel has before the agent's first start and after shoal down.
// Others have rules, sets, maps and virtual services there too, some much like ours.
func TestDownLeavesTheHostAsItWas(t *testing.T) {
	h := on(t, "b")
	t.Cleanup(h.clear)
	h.Docker("network", "create", "wide")
	h.run("left-1", "-l shoal.service=left "+useDNS)
	h.run("left-2", "-l shoal.service=left --network wide")
	h.run("left-3", "-l shoal.service=mapped -l shoal.ports=80:8000")
	for _, command := range append(thePlane().others,
		"iptables -I INPUT -s 192.0.2.1 -j DROP",
		"iptables -I OUTPUT -d 192.0.2.1 -j ACCEPT",            // its chain is made by the first rule in it, and stays
		"iptables -t raw -A PREROUTING -s 192.0.2.1 -j ACCEPT", // the program makes a table where there is none, and never removes one
		"ip route add local 192.0.2.0/28 dev lo",
	) {
		h.Exec(strings.Fields(command)...)
	}
	before := kernelState(h)

	h.StartAgent()
	h.ready()
	h.answered(h.web("left"), "left-1", "left-2")
	h.answered("http://"+h.vip("mapped")+"/", "left-3")
	vips := []string{h.vip("left"), h.vip("mapped")}
	h.meshSubnet()
	h.run("meshed", "--network mesh -l shoal.service=meshed -l shoal.publish=8094:8000")
	h.answered("http://127.0.0.1:8094/", "meshed")
	if diff := difference(before, kernelState(h)); !strings.Contains(strings.ToLower(diff), "shoal") {
		t.Fatalf("the agent changed nothing that could be seen here:\n%s", diff)
	}
	if out, err := h.TryShoal("down", "--state-dir", h.Dir()+"/state"); err == nil || !strings.Contains(err.Error(), "still runs") {
		t.Errorf("down beside an agent: %q %v", out, err)
	}
	h.answered(h.web("left"), "left-1", "left-2")
	h.KillAgent(syscall.SIGTERM)
	// An engine starts no container whose network is gone.
	if out, err := h.TryShoal("down", "--state-dir", h.Dir()+"/state"); code(err) != 1 || !strings.Contains(err.Error(), "remove meshed") {
		t.Errorf("down with a container on the mesh's network: %q %v", out, err)
	}
	h.Docker("rm", "-f", "meshed")
	for _, time := range []string{"the first time", "again"} {
		h.Shoal("down", "--state-dir", h.Dir()+"/state")
		if diff := difference(before, kernelState(h)); diff != "" {
			t.Errorf("down, %s, leaves the host different:\n%s", time, diff)
		}
	}

	// What is remembered is remembered.
	h.StartAgent()
	h.ready()
	h.answered(h.web("left"), "left-1", "left-2")
	if again := []string{h.vip("left"), h.vip("mapped")}; !slices.Equal(again, vips) {
		t.Errorf("the VIPs are %v, were %v", again, vips)
	}
	h.meshSubnet()
	h.KillAgent(syscall.SIGKILL) // down after a crash
	h.Shoal("down", "--state-dir", h.Dir()+"/state")
	if diff := difference(before, kernelState(h)); diff != "" {
		t.Errorf("down after a crash leaves the host different:\n%s", diff)
	}
}
