//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"shoal/lab"
)

// imports gives the host's engine an image as a registry would: a program, and settings as lines of a Dockerfile.
func (h *host) imports(image, program string, settings ...string) {
	h.t.Helper()
	layer, err := lab.ProgramLayer(program)
	if err != nil {
		h.t.Fatal(err)
	}
	file := filepath.Join(h.t.TempDir(), "layer.tar")
	if err := os.WriteFile(file, layer, 0o600); err != nil {
		h.t.Fatal(err)
	}
	args := []string{"import"}
	for _, s := range append(settings, "ENV PATH=/bin", "ENV HOME=/root") {
		args = append(args, "--change", s)
	}
	h.Docker(append(args, file, image)...)
}

// TestHostsAFrontFindsServicesByName is compose/front: Caddy on one host has the ports of all, tells its services who asks, and
// finds their tasks on other hosts by names.
func TestHostsAFrontFindsServicesByName(t *testing.T) {
	m := cluster(t, "host-gw")
	a, b, c := m.hosts[0], m.hosts[1], m.hosts[2]
	t.Setenv("SITE", "shop.example")
	a.imports("caddy:2", "../bin/caddy/usr/bin/caddy", "ENV XDG_DATA_HOME=/data", "ENV XDG_CONFIG_HOME=/config")
	a.up("front", "front", "--scale", "web=2", "caddy", "web")
	b.up("front", "front", "--scale", "api=2", "web", "api")

	of := func(h *host, service string) (names []string) {
		return strings.Fields(h.Docker("ps", "-q", "--filter", "label=com.docker.compose.service="+service))
	}
	caddy := of(a, "caddy")[0]
	root := filepath.Join(t.TempDir(), "root.crt")
	lab.Eventually(t, waitLimit, "Caddy has an authority of its own", func() error {
		_, err := a.TryDocker("cp", caddy+":/data/caddy/pki/authorities/local/root.crt", root)
		return err
	})
	ask := func(path string) (string, error) {
		return m.outside.TryExec("curl", "-sS", "--fail", "--max-time", "5", "--cacert", root, "--resolve", fmt.Sprintf("shop.example:443:%v", c.Addr()), "https://shop.example"+path)
	}
	answered := func(path string, by []string) {
		t.Helper()
		lab.Eventually(t, waitLimit, fmt.Sprintf("%s is answered by %v", path, by), func() error {
			var got []string
			for range 2 * len(by) {
				out, err := ask(path)
				if err != nil {
					return err
				}
				if client := field(out, "forwarded"); client != m.outside.Addr().String() {
					t.Fatalf("%s sees a client %q, not %v:\n%s", path, client, m.outside.Addr(), out)
				}
				got = append(got, field(out, "hostname"))
			}
			slices.Sort(got)
			if got = slices.Compact(got); !slices.Equal(got, by) {
				return fmt.Errorf("answered by %v", got)
			}
			return nil
		})
	}
	web := append(of(a, "web"), of(b, "web")...)
	slices.Sort(web)
	answered("/", web)
	if out, err := ask("/api/"); err != nil || !slices.Contains(of(b, "api"), field(out, "hostname")) {
		t.Errorf("/api/ is answered by\n%s (%v), not by %v", out, err, of(b, "api"))
	}
	gone := of(b, "web")[0]
	b.Docker("rm", "-f", gone)
	for i := range 10 {
		if out, err := ask("/"); err != nil || field(out, "hostname") == gone {
			t.Errorf("request %d once a task is gone: %v\n%s", i, err, out)
		}
	}
	answered("/", slices.DeleteFunc(web, func(name string) bool { return name == gone }))
}

// TestAMonitoringStack is Prometheus of compose/monitoring: it reaches the agent by the file of targets, and has the rules. Grafana is
// left out, as its image cannot be had without a registry.
func TestAMonitoringStack(t *testing.T) {
	h := home(t)
	h.KillAgent(syscall.SIGTERM)
	addr := fmt.Sprintf("%v:9180", h.Addr())
	h.StartAgent("--metrics-addr", addr)
	t.Cleanup(func() {
		h.KillAgent(syscall.SIGTERM)
		h.StartAgent()
	})
	h.imports("prom/prometheus:v2.55.1", "../bin/prometheus/usr/bin/prometheus")
	dir := t.TempDir()
	targets, more := filepath.Join(dir, "targets.yaml"), filepath.Join(dir, "compose.yaml")
	for file, text := range map[string]string{
		targets: "- targets: [\"" + addr + "\"]\n",
		more:    "services:\n  prometheus:\n    volumes: [\"" + targets + ":/etc/prometheus/targets.yaml:ro\"]\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stack, err := filepath.Abs("../compose/monitoring/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GRAFANA_PASSWORD", "unused")
	project{h, "monitoring", []string{stack, more}}.start("prometheus")
	vip := h.service("monitoring/prometheus").VIP
	query := func(path string, v any) error {
		out, err := h.TryExec("curl", "-sS", "--fail", "--max-time", "5", "http://"+vip+":9090/api/v1/"+path)
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(out), v)
	}
	lab.Eventually(t, 2*waitLimit, "Prometheus has scraped the agent", func() error {
		var got struct {
			Data struct {
				Result []struct{ Value [2]any }
			}
		}
		if err := query("query?query=up", &got); err != nil {
			return err
		}
		if len(got.Data.Result) != 1 || got.Data.Result[0].Value[1] != "1" {
			return fmt.Errorf("up is %v", got.Data.Result)
		}
		return nil
	})
	var rules struct {
		Data struct{ Groups []struct{ Name string } }
	}
	if err := query("rules", &rules); err != nil || len(rules.Data.Groups) == 0 {
		t.Errorf("it has the rules %v (%v)", rules.Data.Groups, err)
	}
}
