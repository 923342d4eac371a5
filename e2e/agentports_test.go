//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"shoal/lab"
)

// TestHostsKeepTheirAgentsPortsToThemselves: from a container of any network and from a stranger on the link nobody reaches
// gossip and the store; containers do not reach the joining port either, here or on another host.
func TestHostsKeepTheirAgentsPortsToThemselves(t *testing.T) {
	m := cluster(t, "host-gw")
	a, b := m.hosts[0], m.hosts[1]
	outside := m.outside
	a.Docker("network", "create", "apart")
	containers := map[string]container{
		"a container on the mesh":            a.run("on-mesh", "--network mesh -l shoal.service=on-mesh"),
		"a container on the engine's bridge": a.run("on-bridge", ""),
		"a container on a network apart":     a.run("on-apart", "--network apart"),
	}
	reaches := func(try func(...string) (string, error), h *host, port string) error {
		// The ports speak TLS, so there is an error in any case: what counts is whether a connection is made.
		out, err := try("whoami", "get", "--timeout", "2s", fmt.Sprintf("http://%v:%s/", h.Addr(), port))
		text := fmt.Sprint(out, err)
		if strings.Contains(text, "refused") || strings.Contains(text, "connect: ") || strings.Contains(text, "i/o timeout") {
			return errors.New(text)
		}
		return nil
	}
	for _, h := range []*host{a, b} {
		for _, port := range []string{"7946", "7947", "2379", "2380"} {
			if h != a && (port == "2379" || port == "2380") {
				continue // it does not serve the store
			}
			for name, c := range containers {
				if err := reaches(c.tryExec, h, port); err == nil {
					t.Errorf("%s on n1 reaches TCP %s of %s", name, port, h.Name())
				}
			}
			err := reaches(outside.TryExec, h, port)
			if port == "7947" && err != nil {
				t.Errorf("who joins does not reach TCP 7947 of %s: %v", h.Name(), err)
			} else if port != "7947" && err == nil {
				t.Errorf("a stranger on the link reaches TCP %s of %s", port, h.Name())
			}
		}
	}
	// Hosts of the cluster do.
	for _, port := range []string{"7946", "7947", "2379", "2380"} {
		lab.Eventually(t, waitLimit, "n2 reaches TCP "+port+" of n1", func() error { return reaches(b.TryExec, a, port) })
	}
}
