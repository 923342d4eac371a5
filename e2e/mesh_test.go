//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestMeshNetwork: a container on the network that the agent made is a task as any other, and that network comes back after
// somebody has removed it, as docker system prune does.
func TestMeshNetwork(t *testing.T) {
	h := home(t)
	subnet := h.meshSubnet()
	h.Docker("network", "rm", meshNetwork)
	if again := h.meshSubnet(); again != subnet {
		t.Errorf("the network made again has the subnet %s, had %s", again, subnet)
	}

	h.run("meshed", "--network mesh -l shoal.service=meshed -l shoal.publish=8093:8000")
	h.answered(h.web("meshed"), "meshed")
	client, outside := h.client(), shared.With(t).Outside()
	if got := client.exec("whoami", "get", h.web("meshed")); !strings.HasPrefix(field(got, "client"), client.addr()+":") {
		t.Errorf("a container asks by the VIP: %s", got)
	}
	published := fmt.Sprintf("http://%v:8093/", h.Addr())
	h.answered(published, "meshed")
	h.answered("http://127.0.0.1:8093/", "meshed")
	if got := outside.Exec("whoami", "get", published); field(got, "hostname") != "meshed" || !strings.HasPrefix(field(got, "client"), outside.Addr().String()+":") {
		t.Errorf("a client outside asks by the published port: %s", got)
	}
	h.Docker("rm", "-f", "meshed")
	h.refused(published)
}
